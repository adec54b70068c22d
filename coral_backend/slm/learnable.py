"""What must samples and a network be like, so that the one training loop can learn from them? Texts and rows of a table are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from coral_backend.slm.encoder import length_batches
from coral_backend.types import Floats

SCORE_BATCH = 128
"""Samples in a batch when nothing is learned."""

Batch: TypeAlias = tuple[Tensor, ...]
"""What a network is called with, one row a sample in each part."""


class Inputs(Protocol):
    """N samples as the networks take them."""

    @property
    def lengths(self) -> Sequence[int]:
        """How long each sample is: those of similar length are batched together."""

    @property
    def device(self) -> torch.device:
        """Where the batches lie, and so the networks."""

    def __len__(self) -> int: ...

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return these samples as they are."""

    def augmented(self, batch: Batch, share: float, generator: torch.Generator) -> Batch:
        """Return a batch of which about `share` in [0, 1) of each sample cannot be seen; 0 returns it as it is."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks run."""


class Network(nn.Module, ABC):
    """A body that makes features and a linear head that makes logits of them.

    ``network(*batch)`` returns logits (B, K) and features (B, D), both float32.
    """

    head: nn.Linear

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """Everything but the head: it learns at a rate of its own."""


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities of classes of which one is right, shape (B, K), float64."""
    return logits.double().log_softmax(1)


def log_odds(logits: Tensor) -> Tensor:
    """Return log-odds of K questions with yes or no, shape (B, K), float64."""
    return logits.double()


def score(
    network: Network,
    inputs: Inputs,
    rows: Sequence[int],
    progress: Callable[[int], None] | None = None,
    read: Callable[[Tensor], Tensor] = log_softmax,
) -> tuple[Floats, Floats]:
    """Return what `read` makes of the logits (R, K), float64, and features (R, D), float32, of `rows`, network in eval mode.

    `progress` is called with the number of samples of each batch; it may raise to stop.
    """
    network.eval()
    n_classes = network.head.out_features
    scores, features = (
        np.zeros((len(rows), n_classes)),
        np.zeros((len(rows), network.head.in_features), dtype=np.float32),
    )
    for positions in length_batches([inputs.lengths[i] for i in rows], SCORE_BATCH):
        batch = inputs.batch([rows[p] for p in positions])
        with torch.inference_mode(), inputs.autocast():
            logits, pooled = cast(tuple[Tensor, Tensor], network(*batch))
        scores[positions] = read(logits).cpu().numpy()
        features[positions] = pooled.cpu().numpy()
        if progress is not None:
            progress(len(positions))
    return scores, features
