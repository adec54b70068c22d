"""What is trained on tokens? The upper layers of the encoder with a linear head for each token, which also sees its shape."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from coral_backend.slm.encoder import Encoder, Halves, length_batches, mean_pool
from coral_backend.slm.learnable import SCORE_BATCH
from coral_backend.slm.network import TextInputs, silence_dropout
from coral_backend.slm.tokens import N_SHAPES, Piece
from coral_backend.types import Floats
from strategies.distillation.bio import NEVER, OUTSIDE


class TokenNetwork(nn.Module):
    """Upper layers, dropout, linear head for each token.

    Parameters
    ----------
    halves : Halves
        Whose upper half is copied.
    n_classes : int
        C, see ``strategies/distillation/bio.py``.
    dropout : float
        On the features, in [0, 1).
    """

    def __init__(self, halves: Halves, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.upper = copy.deepcopy(halves.upper).requires_grad_(True)
        silence_dropout(self.upper)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(halves.width + N_SHAPES, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: Tensor, mask: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
        """Map hidden states (B, T, D), a mask (B, T) and shapes (B, T, ``N_SHAPES``) to logits (B, T, C) and features (B, T, D)."""
        states = self.upper(hidden, mask).float()
        return self.head(torch.cat([self.dropout(states), shapes], dim=2)).float(), states


class TokenInputs:
    """Pieces as the network takes them.

    Parameters
    ----------
    progress : callable, optional
        ``progress(done, total)``; may raise to stop.
    """

    def __init__(
        self,
        encoder: Encoder,
        halves: Halves,
        pieces: Sequence[Piece],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.pieces = pieces
        self.texts = TextInputs(encoder, halves, [piece.text for piece in pieces], progress)
        self.lengths = self.texts.lengths

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden states or token ids, the mask, and the shapes of these pieces."""
        hidden, mask = self.texts.batch(rows)
        shapes = torch.zeros((*mask.shape, N_SHAPES), device=mask.device)
        for i, row in enumerate(rows):
            own = self.pieces[row].shapes
            shapes[i, : len(own)] = torch.as_tensor(own)
        return hidden, mask, shapes


def score(
    network: TokenNetwork, inputs: TokenInputs, rows: Sequence[int], progress: Callable[[int], None] | None = None
) -> tuple[list[Floats], Floats]:
    """Return log-probabilities (T, C) of each of these pieces, and features (R, D), network in eval mode.

    The encoder's own tokens are surely outside of any span.
    """
    network.eval()
    outside = np.where(np.arange(network.head.out_features) == OUTSIDE, 0.0, NEVER)
    found: list[Floats] = [np.zeros((0, 0))] * len(rows)
    features = np.zeros((len(rows), network.head.in_features - N_SHAPES), dtype=np.float32)
    for positions in length_batches([inputs.lengths[i] for i in rows], SCORE_BATCH):
        hidden, mask, shapes = inputs.batch([rows[p] for p in positions])
        with torch.inference_mode(), inputs.texts.autocast():
            logits, states = network(hidden, mask, shapes)
        log_probs = logits.double().log_softmax(2).cpu().numpy()
        features[positions] = mean_pool(states, mask).cpu().numpy()
        for i, position in enumerate(positions):
            own = log_probs[i, : inputs.lengths[rows[position]]]
            own[~inputs.pieces[rows[position]].real] = outside
            found[position] = own
        if progress is not None:
            progress(len(positions))
    return found, features
