"""How frequent is each class really, when an LLM that errs counted? Its counts, moved towards equal shares as far as its errors allow.

An LLM errs towards its favourite classes: where it is often wrong, what it says often is said too often, and a model trained on its labels
learns that too. The log-odds of such a model are corrected by the ratio of the believed shares to the learned ones.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

ONE_SIDED = 1.5
"""How far an LLM's shares are moved towards equal ones (total variation), in units of ``noise_rate``. In 106 recorded labelings of twelve files (an LLM
and a file each) the given shares lie between 0 and 1 times the share of errors from the true ones, in most of them more than half of it; and where
an LLM is one-sided ``noise_rate`` is too low, by a third or more, because the small model has learned the same favourites. With 0.75 verdicts gain less
(the table in docs/NOISY_LABELS.md), with 2.0 rare classes are believed too frequent."""

MAX_SHIFT = 4.0
"""Nats; a class that hardly ever occurs is not made a likely one."""


def noise_rate(log_probs: Floats, given: Ints) -> float:
    """Return about how often the given labels are wrong, in [0, 1]: how often out-of-sample predictions contradict them.

    Predictions with equal shares for all classes, and the mean over classes of the share contradicted: otherwise a model that
    always says the most frequent class would find few errors. On files with real LLM labels it comes near the truth (0.07 for 0.07, 0.11
    for 0.11, 0.28 for 0.29, 0.40 for 0.34), but is too low where the LLM errs consistently (0.24 for 0.39) and too high where
    the task is too hard for the model (0.14 for 0.06).

    Parameters
    ----------
    log_probs : ndarray
        Shape (N, K), out of sample.
    given : ndarray
        Shape (N,), -1 where there is none.
    """
    rows = np.flatnonzero(given >= 0)
    if not rows.size:
        return 0.0
    balanced = (log_probs - np.log(shares(log_probs)))[rows].argmax(axis=1)
    classes = np.unique(given[rows])
    return float(np.mean([(balanced[given[rows] == k] != k).mean() for k in classes]))


def prior_shift(log_probs: Floats, given: Ints, *, named: bool) -> Floats:
    """Return what is to be added to the log-odds of each class, shape (K,), nats.

    Parameters
    ----------
    log_probs : ndarray
        Shape (N, K), out of sample, calibrated on the given labels.
    given : ndarray
        Shape (N,), -1 where there is none.
    named : bool
        Whether the labels' names had a say. If not, nothing is known of a class that was never given, and it gets nothing added.

    References
    ----------
    Menon et al.: Long-tail Learning via Logit Adjustment, ICLR 2021, section 4.1 (post-hoc). Saerens, Latinne, Decaestecker: Adjusting
    the Outputs of a Classifier to New a Priori Probabilities, 2002, equation 2.4.
    """
    learned = shares(log_probs)
    known = (np.bincount(given[given >= 0], minlength=log_probs.shape[1]) > 0) | named
    equal = np.where(known, learned[known].sum() / max(int(known.sum()), 1), learned)
    distance = 0.5 * float(np.abs(learned - equal).sum())
    weight = min(1.0, ONE_SIDED * noise_rate(log_probs, given) / max(distance, 1e-9))
    shift = np.log((1.0 - weight) * learned + weight * equal) - np.log(learned)
    return np.asarray(np.minimum(shift, MAX_SHIFT))


def shares(log_probs: Floats) -> Floats:
    """Return the mean probability of each class, shape (K,), > 0."""
    return np.asarray(np.maximum(np.exp(log_probs).mean(axis=0), 1e-6))
