"""How does a trained SLM of sets answer about texts it has not seen? ``SetModel``, with its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from coral_backend.exceptions import ModelFileError
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.encoder import Encoder, Halves
from coral_backend.slm.learnable import log_odds, score
from coral_backend.slm.model import encoder_of, fingerprint, ready, state_of
from coral_backend.slm.model_files import read_model, write_model
from coral_backend.slm.network import TextInputs, TextNetwork
from coral_backend.slm.views import frozen_layers
from coral_backend.types import Floats, Ints
from strategies.distillation.frozen import FrozenModel
from strategies.distillation.label_names import LabelNameModel
from strategies.distillation.lexical import LexicalModel
from strategies.distillation.sets import SetBlend, SetSplits

__all__ = ["SetModel"]


class SetModel:
    """A trained SLM of sets, for texts it has not seen; see ``Model``."""

    def __init__(
        self,
        encoder: Encoder,
        halves: Halves,
        networks: list[TextNetwork],
        *,
        frozen: FrozenModel,
        lexical: LexicalModel,
        names: LabelNameModel,
        blend: SetBlend,
        splits: SetSplits,
        config: SLMConfig,
    ) -> None:
        self.encoder, self.halves, self.networks = encoder, halves, networks
        self.frozen, self.lexical, self.names = frozen, lexical, names
        self.blend, self.splits, self.config = blend, splits, config

    def predict(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Return the probability of each label, shape (N, K), and features (N, D), float32."""
        if not len(texts):
            return np.zeros((0, len(self.blend.bias))), np.zeros((0, self.encoder.width), dtype=np.float32)
        inputs, rows = TextInputs(self.encoder, self.halves, texts), range(len(texts))
        scored = [score(network, inputs, rows, None, log_odds) for network in self.networks]
        embeddings = self.encoder.embed(texts)
        views = [np.mean([odds for odds, _ in scored], axis=0), self.frozen.scores(embeddings)]
        views += [self.lexical.scores(texts), self.names.scores(embeddings)]
        return np.asarray(expit(self.blend.odds(views))), scored[0][1]

    def p_clean(self, probs: Floats, answers: Ints) -> Floats:
        """Return the posterior that answers (N, K) are clean, under the mixtures of the training; NaN where there is none."""
        inside = np.clip(probs, 1e-12, 1 - 1e-12)
        return self.splits.p_clean(np.log(inside) - np.log1p(-inside), answers)

    def save(self, folder: Path) -> None:
        """Write the model; `folder` is replaced only when everything is written."""
        config = self.config
        facts = {
            "kind": "multiple",
            "encoder": config.model,
            "encoder_sha256": fingerprint(self.encoder),
            "max_length": config.max_length,
            "frozen_share": config.frozen_share,
            "n_classes": len(self.blend.bias),
            "n_networks": len(self.networks),
            "seed": config.seed,
        }
        networks = {
            f"{i}.{name}": tensor.detach().cpu().numpy().astype(np.float16)
            for i, network in enumerate(self.networks)
            for name, tensor in network.state_dict().items()
        }
        lexical = {name: getattr(self.lexical, name) for name in ("columns", "idf", "weights", "bias")}
        tensors = {
            "networks": networks,
            "frozen": {"weights": self.frozen.weights, "bias": self.frozen.bias},
            "lexical": lexical,
            "names": {"vectors": self.names.vectors, "usual": self.names.usual},
            "blend": {"weights": self.blend.weights, "bias": self.blend.bias},
            "splits": {"components": self.splits.components, "prior": self.splits.prior},
        }
        write_model(folder, facts, tensors)

    @classmethod
    def load(cls, folder: Path) -> SetModel:
        """Read a model.

        Raises
        ------
        ModelFileError
            If a file is missing, truncated, altered or foreign, or the encoder is not the one it was trained on.
        """
        facts, tensors = read_model(Path(folder))
        try:
            if facts.get("kind") != "multiple":
                raise ValueError(f"its kind is {facts.get('kind')!r}, not 'multiple'")
            return cls._restore(facts, tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{folder} is no model of ours for sets of labels ({type(error).__name__}: {error}). Train again."
            ) from error

    @classmethod
    def _restore(cls, facts: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> SetModel:
        config, encoder = encoder_of(facts)
        halves = encoder.halves(frozen_layers(encoder, config.frozen_share))
        networks = [TextNetwork(halves, int(facts["n_classes"]), 0.0) for _ in range(int(facts["n_networks"]))]
        for i, network in enumerate(networks):
            ready(network, state_of(tensors["networks"], i), encoder.device)
        return cls(
            encoder,
            halves,
            networks,
            frozen=FrozenModel(**tensors["frozen"]),
            lexical=LexicalModel(**tensors["lexical"]),
            names=LabelNameModel(**tensors["names"]),
            blend=SetBlend(**tensors["blend"]),
            splits=SetSplits(**tensors["splits"]),
            config=replace(config, seed=int(facts["seed"])),
        )
