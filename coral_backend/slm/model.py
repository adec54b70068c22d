"""How does a trained SLM answer about texts it has not seen? ``Model``, with its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coral_backend.exceptions import ModelFileError
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.encoder import Encoder, Halves
from coral_backend.slm.learnable import score
from coral_backend.slm.model_files import read_model, write_model
from coral_backend.slm.network import TextInputs, TextNetwork
from coral_backend.slm.views import frozen_layers
from coral_backend.types import Floats
from strategies.distillation.blend import Blend
from strategies.distillation.frozen import FrozenModel
from strategies.distillation.gmm_split import Split
from strategies.distillation.label_names import LabelNameModel
from strategies.distillation.lexical import LexicalModel


def probabilities(log_probs: Floats) -> Floats:
    """Return probabilities, rows of which sum to 1 exactly."""
    probs = np.exp(log_probs)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


class Model:
    """A trained SLM for texts it has not seen. Its probabilities on its own training rows are no score of anything.

    ``probs`` are those of the blend: the networks' mean log-probabilities, the frozen, the lexical and the label-name view.
    """

    def __init__(
        self,
        encoder: Encoder,
        halves: Halves,
        networks: list[TextNetwork],
        *,
        frozen: FrozenModel,
        lexical: LexicalModel,
        names: LabelNameModel,
        blend: Blend,
        split: Split | None,
        n_classes: int,
        config: SLMConfig,
    ) -> None:
        self.encoder, self.halves, self.networks = encoder, halves, networks
        self.frozen, self.lexical, self.names, self.blend, self.split = frozen, lexical, names, blend, split
        self.n_classes, self.config = n_classes, config

    def predict(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Return probabilities (N, K), rows sum to 1, and features (N, D), float32."""
        if not len(texts):
            return np.zeros((0, self.n_classes)), np.zeros((0, self.encoder.width), dtype=np.float32)
        inputs, rows = TextInputs(self.encoder, self.halves, texts), range(len(texts))
        scored = [score(network, inputs, rows) for network in self.networks]
        mean = np.mean([log_probs for log_probs, _ in scored], axis=0)
        embeddings = self.encoder.embed(texts)
        cheap = [self.frozen.log_probs(embeddings), self.lexical.log_probs(texts), self.names.log_probs(embeddings)]
        return probabilities(self.blend.log_probs([mean, *cheap])), scored[0][1]

    def p_clean(self, losses: Floats) -> Floats:
        """Return the posterior that labels with these losses are clean, under the mixture of the training.

        Parameters
        ----------
        losses : ndarray
            Shape (N,), nats, cross-entropy of the LLM's labels of texts that were not trained on; NaN where there is none.

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
        config = self.config
        facts = {
            "encoder": config.model,
            "encoder_sha256": fingerprint(self.encoder),
            "max_length": config.max_length,
            "frozen_share": config.frozen_share,
            "n_classes": self.n_classes,
            "n_networks": len(self.networks),
            "seed": config.seed,
            "gmm": self.split.to_json() if self.split is not None else {},
        }
        networks = {
            f"{i}.{name}": tensor.detach().cpu().numpy().astype(np.float16)
            for i, network in enumerate(self.networks)
            for name, tensor in network.state_dict().items()
        }
        frozen = {"weights": self.frozen.weights, "bias": self.frozen.bias}
        lexical = {name: getattr(self.lexical, name) for name in ("columns", "idf", "weights", "bias")}
        names = {"vectors": self.names.vectors, "usual": self.names.usual}
        blend = {"weights": self.blend.weights, "bias": self.blend.bias}
        tensors = {"networks": networks, "frozen": frozen, "lexical": lexical, "names": names, "blend": blend}
        write_model(folder, facts, tensors)

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Read a model.

        Raises
        ------
        ModelFileError
            If a file is missing, truncated, altered or foreign, or the encoder is not the one it was trained on.
        """
        facts, tensors = read_model(Path(folder))
        try:
            return cls._restore(facts, tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{folder} is no model of ours ({type(error).__name__}: {error}). Train again."
            ) from error

    @classmethod
    def _restore(cls, facts: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> Model:
        config = SLMConfig(
            model=str(facts["encoder"]), max_length=int(facts["max_length"]), frozen_share=float(facts["frozen_share"])
        )
        encoder = Encoder.load(config.model, config.max_length)
        if fingerprint(encoder) != facts["encoder_sha256"]:
            raise ModelFileError(
                f"The encoder {config.model!r} is not the one that this model was trained on. Train again."
            )
        halves = encoder.halves(frozen_layers(encoder, config.frozen_share))
        networks = [_network(halves, tensors["networks"], i, facts, encoder) for i in range(int(facts["n_networks"]))]
        lexical, blend = LexicalModel(**tensors["lexical"]), Blend(**tensors["blend"])
        return cls(
            encoder,
            halves,
            networks,
            frozen=FrozenModel(**tensors["frozen"]),
            lexical=lexical,
            names=LabelNameModel(**tensors["names"]),
            blend=blend,
            split=Split.from_json(facts["gmm"], np.zeros(0)) if facts["gmm"] else None,
            n_classes=int(facts["n_classes"]),
            config=replace(config, seed=int(facts["seed"])),
        )


def _network(halves: Halves, arrays: dict[str, Any], i: int, facts: dict[str, Any], encoder: Encoder) -> TextNetwork:
    """Restore the i-th network."""
    network = TextNetwork(halves, int(facts["n_classes"]), 0.0)
    prefix = f"{i}."
    state = {
        name[len(prefix) :]: torch.from_numpy(a.astype(np.float32))
        for name, a in arrays.items()
        if name.startswith(prefix)
    }
    network.load_state_dict(state)
    return network.to(encoder.device).eval().requires_grad_(False)


def fingerprint(encoder: Encoder) -> str:
    """Return the SHA-256 of the encoder's weights: a model made for other weights must not be read with these."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()
