"""What is trained on texts? The upper layers of the encoder with a linear head, fed with hidden states that are computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from coral_backend.slm.encoder import Encoder, Halves, length_batches, mean_pool
from coral_backend.slm.learnable import SCORE_BATCH, Batch, Network
from strategies.distillation.fixmatch import token_cutoff

CACHE_BYTES = 2_000_000_000
"""Hidden states are kept when they need no more memory than this, else computed anew for each batch."""


class TextNetwork(Network):
    """Upper layers, mean over the tokens, dropout, linear head.

    Parameters
    ----------
    halves : Halves
        Whose upper half is copied.
    n_classes : int
        K.
    dropout : float
        On the features, in [0, 1). Within the layers there is none: random numbers are slow on a CPU, token cutoff does their work.
    """

    def __init__(self, halves: Halves, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.upper = copy.deepcopy(halves.upper).requires_grad_(True)
        silence_dropout(self.upper)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(halves.width, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def body(self) -> nn.Module:
        """The upper layers of the encoder."""
        return self.upper

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map hidden states (B, T, D), or token ids (B, T), and a mask (B, T) to logits (B, K) and features (B, D), float32."""
        features = mean_pool(self.upper(hidden, mask), mask)
        return self.head(self.dropout(features)).float(), features


def silence_dropout(module: nn.Module) -> None:
    """Switch off all dropout inside the pretrained layers."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0


class TextInputs:
    """The texts as the networks take them: hidden states of the frozen layers, kept in memory where they fit.

    Parameters
    ----------
    encoder : Encoder
        Its tokenizer and lower half are used.
    halves : Halves
        Of the same encoder.
    texts : sequence of str
        N texts.
    progress : callable, optional
        ``progress(done, total)`` after each batch; may raise to stop.
    """

    def __init__(
        self, encoder: Encoder, halves: Halves, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.encoder, self.halves = encoder, halves
        self.tokens = encoder.tokenise(texts)
        self.lengths = [len(row) for row in self.tokens]
        self.dtype = torch.bfloat16 if encoder.half else torch.float32
        size = sum(self.lengths) * halves.width * self.dtype.itemsize
        self.kept: list[Tensor] | None = None
        if halves.lower is not None and size <= CACHE_BYTES:
            self.kept = self._keep(progress)

    @property
    def device(self) -> torch.device:
        """Where the encoder lies."""
        return self.encoder.device

    def __len__(self) -> int:
        return len(self.tokens)

    def augmented(self, batch: Batch, share: float, generator: torch.Generator) -> Batch:
        """Hide a share of the tokens of each text."""
        hidden, mask = batch
        return hidden, token_cutoff(mask, share, generator)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the encoder's context: bfloat16 where it runs in that."""
        return self.encoder.autocast()

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return what the networks take, (B, T, D) or token ids (B, T), and the mask (B, T)."""
        if self.kept is not None:
            return self._pad([self.kept[i] for i in rows])
        return self._compute(rows)

    def _compute(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        ids, mask = self.encoder.pad([self.tokens[i] for i in rows])
        return (ids if self.halves.lower is None else self.halves.lower(ids, mask).clone()), mask

    def _keep(self, progress: Callable[[int, int], None] | None) -> list[Tensor]:
        kept: list[Tensor] = [torch.empty(0)] * len(self.tokens)
        done = 0
        for rows in length_batches(self.lengths, SCORE_BATCH):
            hidden, _ = self._compute(rows)
            for j, i in enumerate(rows):
                kept[i] = hidden[j, : self.lengths[i]].to(self.dtype, copy=True)
            done += len(rows)
            if progress is not None:
                progress(done, len(self.tokens))
        return kept

    def _pad(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        width = max(len(state) for state in states)
        hidden = torch.zeros((len(states), width, self.halves.width), dtype=self.dtype, device=states[0].device)
        mask = torch.zeros((len(states), width), dtype=torch.bool, device=states[0].device)
        for i, state in enumerate(states):
            hidden[i, : len(state)] = state
            mask[i, : len(state)] = True
        return hidden, mask
