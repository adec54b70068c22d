"""What would a small model say before any was trained? Its opinion in a first round, learned from the first link's answers alone."""

from __future__ import annotations

import numpy as np

from strategies.distillation.frozen import Floats, Ints, frozen_view

FEWEST = 20
"""With fewer labelled samples there is no opinion: nothing can be learned from them."""

TEMPERATURES = tuple(float(t) for t in np.geomspace(0.05, 4.0, 25))
"""Tried; the one under which the given labels are likeliest wins."""

UNLABELED = -1


def first_look(embeddings: Floats, given: Ints, n_classes: int) -> Floats | None:
    """Return a small model's probabilities for each sample, learned without that sample's own label.

    Parameters
    ----------
    embeddings : ndarray
        Shape (N, D), rows of length 1.
    given : ndarray
        Shape (N,), 0 ... K-1, the label that the first annotator gave; -1 where it gave none.
    n_classes : int
        K.

    Returns
    -------
    ndarray or None
        Shape (N, K), rows sum to 1; None when fewer than ``FEWEST`` labels, or only one kind of label, were given.
    """
    rows = np.flatnonzero(given != UNLABELED)
    if len(rows) < FEWEST or len(np.unique(given[rows])) < 2:
        return None
    log_probs, _ = frozen_view(embeddings, given, n_classes)
    return _sharpened(log_probs, given)


def _sharpened(log_probs: Floats, given: Ints) -> Floats:
    """Return probabilities, shape (N, K), at the temperature that makes the labels given to other eyes likeliest."""
    rows = np.flatnonzero(given != UNLABELED)
    scores = [_softmax(log_probs[rows] / t)[np.arange(len(rows)), given[rows]] for t in TEMPERATURES]
    best = int(np.argmax([np.log(np.maximum(score, 1e-12)).mean() for score in scores]))
    return _softmax(log_probs / TEMPERATURES[best])


def _softmax(logits: Floats) -> Floats:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))
