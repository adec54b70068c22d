"""How often is a label wrong that nothing about its row makes difficult? Then no row is as doubtful as the labels make it look.

A classifier of labels of which every fifth is wrong is at most 80 % sure, also of the easiest row, and an SLM that is never sure overrules
nobody. What it is sure of the label, it is surer of the truth::

    P(label = k | row) = (1 - floor) P(truth = k | row) + floor / (K - 1) P(truth != k | row)

which is solved for the truth. An LLM that errs on difficult rows only has no such floor, and nothing is changed.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

EASY = 0.3
"""Share of the rows that count as easy: those that the SLM is surest of, out of sample."""

TRUST = 0.8
"""Share of the disagreement on easy rows that is taken for wrong labels: easy rows are not all right either."""

MOST = 0.9
"""Of the share of wrong labels at which they would say nothing, ``(K - 1) / K``: no floor is higher."""

FEWEST = 30
"""Easy rows that an estimate needs; with fewer there is no floor."""

SOFTNESS = 0.02
"""Where nothing is left of a probability it is bent, not cut, at this height: equal ones would be a heap of their own to the mixture."""


def noise_floor(log_probs: Floats, given: Ints) -> float:
    """Return the share of wrong labels among easy rows, in [0, 1 - 1/K).

    Parameters
    ----------
    log_probs : ndarray
        Shape (N, K), out of sample.
    given : ndarray
        Shape (N,), -1 where there is none.

    References
    ----------
    Northcutt, Jiang, Chuang: Confident Learning, JAIR 2021: noise is read off where the classifier is confident.
    """
    rows = np.flatnonzero(given >= 0)
    n_classes = log_probs.shape[1]
    easy = rows[np.argsort(-log_probs[rows].max(axis=1), kind="stable")[: int(len(rows) * EASY)]]
    if n_classes < 2 or len(easy) < FEWEST:
        return 0.0
    wrong = float((log_probs[easy].argmax(axis=1) != given[easy]).mean())
    return min(TRUST * wrong, MOST * (n_classes - 1) / n_classes)


def of_the_truth(log_probs: Floats, floor: float) -> Floats:
    """Return the log-probabilities of the true label, shape (N, K), from those of a label; a floor of 0 changes nothing."""
    if floor <= 0.0:
        return log_probs
    left = np.exp(log_probs) - floor / (log_probs.shape[1] - 1)
    probs = (left + np.sqrt(left**2 + SOFTNESS**2)) / 2.0
    return np.asarray(np.log(probs / probs.sum(axis=1, keepdims=True)))
