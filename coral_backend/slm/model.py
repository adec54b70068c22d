"""How does a trained SLM answer about samples it has not seen? ``Model`` with its files, and the one for texts."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from coral_backend.exceptions import ModelFileError
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.encoder import Encoder, Halves
from coral_backend.slm.learnable import Inputs, Network, score
from coral_backend.slm.model_files import Arrays, read_model, write_model
from coral_backend.slm.network import TextInputs, TextNetwork
from coral_backend.slm.views import frozen_layers
from coral_backend.types import Floats
from strategies.distillation.blend import Blend
from strategies.distillation.frozen import FrozenModel
from strategies.distillation.gmm_split import Split
from strategies.distillation.label_names import LabelNameModel
from strategies.distillation.lexical import LexicalModel
from strategies.distillation.neighbours import NeighbourModel


def probabilities(log_probs: Floats) -> Floats:
    """Return probabilities, rows of which sum to 1 exactly."""
    probs = np.exp(log_probs)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


class Model(ABC):
    """A trained SLM for samples it has not seen. Its probabilities on its own training rows are no score of anything.

    ``probs`` are those of the blend of the networks' mean log-probabilities with the cheap views.

    Attributes
    ----------
    family : str
        As task strategies name it.
    """

    family: ClassVar[str]

    def __init__(
        self, networks: Sequence[Network], *, blend: Blend, split: Split | None, n_classes: int, config: SLMConfig
    ) -> None:
        self.networks, self.blend, self.split = networks, blend, split
        self.n_classes, self.config = n_classes, config

    @property
    @abstractmethod
    def width(self) -> int:
        """How many features a sample has, D."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> tuple[Inputs, list[Floats]]:
        """Return samples as the networks take them, and the log-probabilities (N, K) of the cheap views in the order of the blend."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what is to be kept of this family as JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, Arrays]:
        """Return the arrays of the cheap views."""

    @classmethod
    @abstractmethod
    def restore(cls, facts: dict[str, Any], tensors: dict[str, dict[str, Any]], parts: ModelParts) -> Model:
        """Return the model with these facts and arrays; `parts` are what all families have."""

    def predict(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Return probabilities (N, K), rows sum to 1, and features (N, D), float32."""
        if not len(texts):
            return np.zeros((0, self.n_classes)), np.zeros((0, self.width), dtype=np.float32)
        inputs, cheap = self.read(texts)
        scored = [score(network, inputs, range(len(texts))) for network in self.networks]
        mean = np.mean([log_probs for log_probs, _ in scored], axis=0)
        return probabilities(self.of_the_truth(self.blend.log_probs([mean, *cheap]))), scored[0][1]

    def of_the_truth(self, log_probs: Floats) -> Floats:
        """Return the log-probabilities (N, K) of the true label, from those of what would be said."""
        return log_probs

    def p_clean(self, losses: Floats) -> Floats:
        """Return the posterior that labels with these losses are clean, under the mixture of the training.

        Parameters
        ----------
        losses : ndarray
            Shape (N,), nats, cross-entropy of the LLM's labels of samples that were not trained on; NaN where there is none.

        Returns
        -------
        ndarray
            Shape (N,), in [0, 1], 1 = surely clean; NaN where the loss is.
        """
        if self.split is None:
            return np.where(np.isnan(losses), np.nan, 1.0)
        return self.split.posterior(losses)

    def save(self, folder: Path) -> None:
        """Write the model; `folder` is replaced only when everything is written."""
        facts = {
            "family": self.family,
            **self.facts(),
            "n_classes": self.n_classes,
            "n_networks": len(self.networks),
            "seed": self.config.seed,
            "gmm": self.split.to_json() if self.split is not None else {},
        }
        networks = {
            f"{i}.{name}": tensor.detach().cpu().numpy().astype(np.float16)
            for i, network in enumerate(self.networks)
            for name, tensor in network.state_dict().items()
        }
        blend = {"weights": self.blend.weights, "bias": self.blend.bias}
        write_model(folder, facts, {"networks": networks, **self.tensors(), "blend": blend})

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Read a model, of whichever family it is.

        Raises
        ------
        ModelFileError
            If a file is missing, truncated, altered or foreign, or the encoder is not the one it was trained on.
        """
        from coral_backend.slm.tabular_model import TabularModel  # is a Model itself

        facts, tensors = read_model(Path(folder))
        kinds: dict[str, type[Model]] = {kind.family: kind for kind in (TextModel, TabularModel)}
        try:
            kind = kinds[facts.get("family", TextModel.family)]  # there were no others before
            return kind.restore(facts, tensors, ModelParts.read(facts, tensors))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{folder} is no model of ours ({type(error).__name__}: {error}). Train again."
            ) from error


@dataclass(frozen=True)
class ModelParts:
    """What is kept of every family in the same way."""

    blend: Blend
    split: Split | None
    n_classes: int
    seed: int
    states: list[dict[str, Tensor]]
    """Of each network."""

    @classmethod
    def read(cls, facts: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> ModelParts:
        """Take them from what ``read_model`` returned."""
        return cls(
            Blend(**tensors["blend"]),
            Split.from_json(facts["gmm"], np.zeros(0)) if facts["gmm"] else None,
            int(facts["n_classes"]),
            int(facts["seed"]),
            [state_of(tensors["networks"], i) for i in range(int(facts["n_networks"]))],
        )


class TextModel(Model):
    """A trained SLM for texts: networks on an encoder; the frozen, the lexical, the label-name and the neighbour view."""

    family = "text"
    networks: Sequence[TextNetwork]

    def __init__(
        self,
        encoder: Encoder,
        halves: Halves,
        networks: list[TextNetwork],
        *,
        frozen: FrozenModel,
        lexical: LexicalModel,
        names: LabelNameModel,
        neighbours: NeighbourModel | None,
        blend: Blend,
        split: Split | None,
        n_classes: int,
        config: SLMConfig,
    ) -> None:
        super().__init__(networks, blend=blend, split=split, n_classes=n_classes, config=config)
        self.encoder, self.halves = encoder, halves
        self.frozen, self.lexical, self.names, self.neighbours = frozen, lexical, names, neighbours

    @property
    def width(self) -> int:
        """The encoder's."""
        return self.encoder.width

    def read(self, texts: Sequence[str]) -> tuple[TextInputs, list[Floats]]:
        """Return texts as the networks take them, and what the other views say."""
        inputs, embeddings = TextInputs(self.encoder, self.halves, texts), self.encoder.embed(texts)
        cheap = [self.frozen.log_probs(embeddings), self.lexical.log_probs(texts), self.names.log_probs(embeddings)]
        return inputs, cheap if self.neighbours is None else [*cheap, self.neighbours.log_probs(embeddings)]

    def facts(self) -> dict[str, Any]:
        """Return which encoder it needs, and how it reads."""
        return {
            "encoder": self.config.model,
            "encoder_sha256": fingerprint(self.encoder),
            "max_length": self.config.max_length,
            "frozen_share": self.config.frozen_share,
        }

    def tensors(self) -> dict[str, Arrays]:
        """Return the arrays of the cheap views."""
        tensors: dict[str, Arrays] = {
            "frozen": {"weights": self.frozen.weights, "bias": self.frozen.bias},
            "lexical": {name: getattr(self.lexical, name) for name in ("columns", "idf", "weights", "bias")},
            "names": {"vectors": self.names.vectors, "usual": self.names.usual},
        }
        if self.neighbours is not None:
            tensors["neighbours"] = {name: getattr(self.neighbours, name) for name in ("vectors", "labels", "shares")}
        return tensors

    @classmethod
    def restore(cls, facts: dict[str, Any], tensors: dict[str, dict[str, Any]], parts: ModelParts) -> TextModel:
        """Return the model, if the encoder is still the one that it was trained on."""
        config, encoder = encoder_of(facts)
        halves = encoder.halves(frozen_layers(encoder, config.frozen_share))
        networks = [TextNetwork(halves, parts.n_classes, 0.0) for _ in parts.states]
        for network, state in zip(networks, parts.states, strict=True):
            ready(network, state, encoder.device)
        return cls(
            encoder,
            halves,
            networks,
            frozen=FrozenModel(**tensors["frozen"]),
            lexical=LexicalModel(**tensors["lexical"]),
            names=LabelNameModel(**tensors["names"]),
            # Models of earlier versions have no such view, and a blend that does without it.
            neighbours=NeighbourModel(**tensors["neighbours"]) if "neighbours" in tensors else None,
            blend=parts.blend,
            split=parts.split,
            n_classes=parts.n_classes,
            config=replace(config, seed=parts.seed),
        )


def ready(network: Network, state: dict[str, Tensor], device: torch.device) -> None:
    """Give a network its weights, and make it answer only."""
    network.load_state_dict(state)
    network.to(device).eval().requires_grad_(False)


def state_of(arrays: dict[str, Any], i: int) -> dict[str, Tensor]:
    """Return the weights of the i-th network."""
    prefix = f"{i}."
    return {
        name[len(prefix) :]: torch.from_numpy(a.astype(np.float32))
        for name, a in arrays.items()
        if name.startswith(prefix)
    }


def encoder_of(facts: Mapping[str, Any]) -> tuple[SLMConfig, Encoder]:
    """Return the encoder that a model's facts name, and how the model reads it.

    Raises
    ------
    ModelFileError
        If it is not the one that the model was trained on, or cannot be loaded.
    """
    config = SLMConfig(
        model=str(facts["encoder"]), max_length=int(facts["max_length"]), frozen_share=float(facts["frozen_share"])
    )
    encoder = Encoder.load(config.model, config.max_length)
    if fingerprint(encoder) != facts["encoder_sha256"]:
        raise ModelFileError(
            f"The encoder {config.model!r} is not the one that this model was trained on. Train again."
        )
    return config, encoder


def fingerprint(encoder: Encoder) -> str:
    """Return the SHA-256 of the encoder's weights: a model made for other weights must not be read with these."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()
