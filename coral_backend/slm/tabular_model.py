"""How does a trained SLM answer about rows of a table? What it keeps of the columns, its networks and its two cheap views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coral_backend.slm.columns import Columns, read_rows
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.encoder import pick_device
from coral_backend.slm.learnable import Batch, Network
from coral_backend.slm.model import Model, ModelParts, ready
from coral_backend.slm.model_files import Arrays
from coral_backend.types import Floats, Ints
from strategies.distillation.blend import Blend
from strategies.distillation.forest import ForestModel
from strategies.distillation.frozen import FrozenModel
from strategies.distillation.gmm_split import Split
from strategies.distillation.noise_floor import of_the_truth

HIDDEN = 128
"""Width of the networks' layers."""

FOREST = ("roots", "children", "features", "thresholds", "values", "prior")


class RowNetwork(Network):
    """Two layers and a linear head.

    Parameters
    ----------
    width : int
        Features of a row, D.
    dropout : float
        Between the layers and before the head, in [0, 1).
    """

    def __init__(self, width: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(dropout), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(HIDDEN, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def body(self) -> nn.Module:
        """The two layers."""
        return self.layers

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map rows (B, D) to logits (B, K) and features (B, H), float32."""
        features = self.layers(x)
        return self.head(self.dropout(features)).float(), features


class RowInputs:
    """Rows as the networks take them.

    Parameters
    ----------
    x : ndarray
        Shape (N, D), float32.
    owners : ndarray
        Shape (D,): the column that each feature belongs to.
    """

    def __init__(self, x: Floats, owners: Ints) -> None:
        self.device = pick_device()
        self.x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(self.device)
        self.owners = torch.from_numpy(owners).to(self.device)
        self.n_columns = int(owners.max()) + 1
        self.lengths = [1] * len(x)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return these rows."""
        return (self.x[torch.as_tensor(rows, dtype=torch.long, device=self.device)],)

    def augmented(self, batch: Batch, share: float, generator: torch.Generator) -> Batch:
        """Give a share of the columns of each row the values of another row, drawn anew for each: what is put in is never odd.

        References
        ----------
        Bahri, Jiang, Tay, Metzler: SCARF, ICLR 2022: corruption by the columns' own distributions.
        """
        (x,) = batch
        if share <= 0 or not len(x):
            return batch
        donors = torch.randint(len(self.x), (len(x),), generator=generator).to(self.device)
        taken = (torch.rand(len(x), self.n_columns, generator=generator) < share).to(self.device)
        return (torch.where(taken[:, self.owners], self.x[donors], x),)

    def autocast(self) -> torch.autocast:
        """Return a context that changes nothing: these networks are small."""
        return torch.autocast(self.device.type, enabled=False)


class TabularModel(Model):
    """A trained SLM for rows: networks, an additive view and a forest, on features read off the columns.

    Parameters
    ----------
    columns : Columns
        Of the corpus.
    scale : float
        What features are divided by for `additive`, so that a row of the corpus has about length 1.
    additive : FrozenModel
        Ridge regression on the features.
    floor : float
        Share of wrong labels among easy rows, see ``noise_floor.py``.
    """

    family = "tabular"

    def __init__(
        self,
        columns: Columns,
        networks: list[RowNetwork],
        *,
        scale: float,
        additive: FrozenModel,
        forest: ForestModel,
        floor: float,
        blend: Blend,
        split: Split | None,
        n_classes: int,
        config: SLMConfig,
    ) -> None:
        super().__init__(networks, blend=blend, split=split, n_classes=n_classes, config=config)
        self.columns, self.scale, self.additive, self.forest, self.floor = columns, scale, additive, forest, floor

    @property
    def width(self) -> int:
        """The networks' last layer."""
        return HIDDEN

    def read(self, texts: Sequence[str]) -> tuple[RowInputs, list[Floats]]:
        """Return rows, which are JSON objects, as the networks take them, and what the other views say."""
        x = self.columns.encode(read_rows(texts))
        return RowInputs(x, self.columns.owners), [self.additive.log_probs(x / self.scale), self.forest.log_probs(x)]

    def of_the_truth(self, log_probs: Floats) -> Floats:
        """Take the noise floor out."""
        return of_the_truth(log_probs, self.floor)

    def facts(self) -> dict[str, Any]:
        """Return the columns."""
        return {"columns": self.columns.to_json(), "scale": self.scale, "floor": self.floor}

    def tensors(self) -> dict[str, Arrays]:
        """Return the arrays of the cheap views."""
        return {
            "additive": {"weights": self.additive.weights, "bias": self.additive.bias},
            "forest": {name: getattr(self.forest, name) for name in FOREST},
        }

    @classmethod
    def restore(cls, facts: dict[str, Any], tensors: dict[str, dict[str, Any]], parts: ModelParts) -> TabularModel:
        """Return the model."""
        columns = Columns.from_json(facts["columns"])
        networks = [RowNetwork(columns.width, parts.n_classes, 0.0) for _ in parts.states]
        for network, state in zip(networks, parts.states, strict=True):
            ready(network, state, pick_device())
        return cls(
            columns,
            networks,
            scale=float(facts["scale"]),
            additive=FrozenModel(**tensors["additive"]),
            forest=ForestModel(**tensors["forest"]),
            floor=float(facts["floor"]),
            blend=parts.blend,
            split=parts.split,
            n_classes=parts.n_classes,
            config=SLMConfig(seed=parts.seed),
        )
