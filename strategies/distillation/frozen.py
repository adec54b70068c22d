"""What do the encoder's embeddings say before any training? Ridge regression on them, each text left out in turn.

Seconds of work, and on some hundred labels better than a fine-tuned network, which has too few examples to learn from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Regularisations that are tried, for embeddings of length 1; the smallest leave-one-out error on the given labels wins."""

SCALE = 5.0
"""Scores lie in about [0, 1]; stretched by this they serve as logits. The blend finds the right temperature."""


@dataclass(frozen=True)
class FrozenModel:
    """A trained view of frozen embeddings; arrays only, so that it can be saved as safetensors.

    Attributes
    ----------
    weights : ndarray
        Shape (D, K), float32.
    bias : ndarray
        Shape (K,), float32.
    """

    weights: Floats
    bias: Floats

    def scores(self, embeddings: Floats) -> Floats:
        """Return what is said for each class, shape (N, K), of embeddings of shape (N, D)."""
        return np.asarray(embeddings @ self.weights + self.bias)

    def log_probs(self, embeddings: Floats) -> Floats:
        """Return log-probabilities, shape (N, K), of embeddings of shape (N, D)."""
        return np.asarray(log_softmax(self.scores(embeddings), axis=1))


def frozen_view(embeddings: Floats, given: Ints, n_classes: int) -> tuple[Floats, FrozenModel]:
    """Score every text by a classifier that did not see its label, and give one that saw all for new texts.

    Parameters
    ----------
    embeddings : ndarray
        Shape (N, D), rows of length 1.
    given : ndarray
        Shape (N,), the label to learn, -1 where there is none; at least one is given.
    n_classes : int
        K.

    Returns
    -------
    log_probs : ndarray
        Shape (N, K), out of sample: each labelled text by leave-one-out.
    model : FrozenModel
        Fitted on all given labels.

    References
    ----------
    Rifkin, Lippert: Notes on Regularized Least Squares, 2007, section 3: leave-one-out without refitting, for any number of
    regularisations from one decomposition.
    """
    rows = np.flatnonzero(given >= 0)
    prior = (np.bincount(given[rows], minlength=n_classes) + 0.5) / (len(rows) + 0.5 * n_classes)
    scores, weights, center = ridge_regression(embeddings, rows, np.eye(n_classes)[given[rows]] - prior)
    bias = SCALE * (prior - center @ weights)
    model = FrozenModel((SCALE * weights).astype(np.float32), bias.astype(np.float32))
    return np.asarray(log_softmax(SCALE * (scores + prior), axis=1)), model


def ridge_regression(embeddings: Floats, rows: Ints, targets: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit targets of the labelled `rows`, with the regularisation that does best when each of them is left out in turn.

    Parameters
    ----------
    embeddings : ndarray
        Shape (N, D).
    targets : ndarray
        Shape (n, K), of the n labelled rows, centred.

    Returns
    -------
    scores : ndarray
        Shape (N, K), out of sample.
    weights, center : ndarray
        Shapes (D, K) and (D,): ``(x - center) @ weights`` scores a new text.
    """
    center = embeddings[rows].mean(axis=0, dtype=np.float64)
    features = embeddings - center
    left, singular, right = np.linalg.svd(features[rows], full_matrices=False)
    projected = left.T @ targets
    tried = [_leave_one_out(left, singular, projected, targets, ridge) for ridge in RIDGES]
    best = int(np.argmin([((targets - scores) ** 2).mean() for scores in tried]))
    shrunk = singular / (singular**2 + RIDGES[best])
    weights = right.T @ (shrunk[:, None] * projected)
    scores = features @ weights
    scores[rows] = tried[best]
    return np.asarray(scores), np.asarray(weights), np.asarray(center)


def silent_view(n: int, width: int, n_classes: int) -> tuple[Floats, FrozenModel]:
    """Return a view of n texts, and its model, that holds every class for equally likely: it moves no blend."""
    model = FrozenModel(np.zeros((width, n_classes), dtype=np.float32), np.zeros(n_classes, dtype=np.float32))
    return np.full((n, n_classes), -np.log(n_classes)), model


def _leave_one_out(left: Floats, singular: Floats, projected: Floats, targets: Floats, ridge: float) -> Floats:
    """Return what is said of each labelled row without its own target, shape (n, K).

    With H the hat matrix, the residual of row i left out is its residual over 1 - H_ii; 1/n is the intercept's part of H_ii.
    """
    kept = singular**2 / (singular**2 + ridge)
    fitted = left @ (kept[:, None] * projected)
    leverage = (left**2) @ kept + 1.0 / len(targets)
    return np.asarray(targets - (targets - fitted) / np.maximum(1.0 - leverage, 1e-3)[:, None])
