"""Which labels does an LLM say too often, and which true ones does it miss? Its habits, told apart from its share of errors.

An LLM's errors are one-sided: of ``mr``'s reviews that GPT-3.5 called negative 9 % are positive, of the others 3 % negative. So a doubtful label
that is said too often is more likely wrong than an equally doubtful one that is seldom said. How often it *should* be said is what the
SLM believes once the LLM's favourites are taken back (``class_prior.py``): what is said more often than that must hold wrong labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

BOTH_WAYS = 0.5
"""At least this share of the errors is spread over all classes, however one-sided the counts look."""

LEAST, MOST = 0.001, 0.9
"""No class is missed, and no answer wrong, in a smaller or a larger share than this."""


@dataclass(frozen=True)
class Habits:
    """How an LLM's errors are spread over the classes.

    Attributes
    ----------
    missed : ndarray
        Shape (K,), in (0, 1): share of the texts of each true class that the LLM gives another label.
    favoured : ndarray
        Shape (K,), > 0: how readily a wrong answer is this label, beside how likely the text makes it. Only ratios matter.
    """

    missed: Floats
    favoured: Floats


def even(n_classes: int, noise: float) -> Habits:
    """Return the habits of an LLM that misses every class in the share `noise` and favours none."""
    return Habits(np.full(n_classes, noise), np.ones(n_classes))


def habits(llm_labels: Ints, probs: Floats, noise: float) -> Habits:
    """Spread a share of errors over the classes, as the counts of the LLM's labels and of the SLM's belief demand.

    Parameters
    ----------
    llm_labels : ndarray
        Shape (N,), -1 where the LLM abstained.
    probs : ndarray
        Shape (N, K), out-of-sample SLM probabilities, the LLM's favourites taken back.
    noise : float
        In (0, 1): the LLM's share of errors.

    References
    ----------
    Dawid, Skene: Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, 1979: errors by class. Here they have two numbers
    a class instead of K: of K^2 nothing is known without people.
    """
    rows = np.flatnonzero(llm_labels >= 0)
    n_classes = probs.shape[1]
    if not rows.size:
        return even(n_classes, noise)
    said = np.bincount(llm_labels[rows], minlength=n_classes) / len(rows)
    believed = probs[rows].mean(axis=0)
    too_often, too_seldom = np.maximum(said - believed, 0.0), np.maximum(believed - said, 0.0)
    both_ways = max(noise - float(too_often.sum()), BOTH_WAYS * noise)
    missed = (too_seldom + both_ways * believed) / np.maximum(believed, 1e-9)
    wrong = (too_often + both_ways * said) / np.maximum(said, 1e-9)
    return Habits(np.clip(missed, LEAST, MOST), np.clip(wrong, LEAST, MOST))
