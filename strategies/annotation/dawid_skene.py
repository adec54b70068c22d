"""How often is each annotator right, when nobody knows the truth? Expectation maximisation over their agreements.

Written here because it is sixty lines, and the library that has it brings a data-frame stack along. The confusion matrices are
drawn towards one accuracy an annotator, with errors spread evenly: with many labels there are too few samples for each cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

UNASKED = -1

PRIOR_ACCURACY = 0.7
"""What an annotator is taken for before it is known."""

PRIOR_VOTES = 4.0
"""How many answers that guess is worth."""

CELL_WEIGHT = 10.0
"""How many answers a row of the confusion matrix must have before it counts as much as the annotator's one accuracy."""

STEPS = 100
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Annotators:
    """What is known about A annotators and K labels.

    Attributes
    ----------
    prior : ndarray
        Shape (K,), how frequent each label is; sums to 1.
    confusion : ndarray
        Shape (A, K, K): ``confusion[a, k, l]`` is the probability that annotator a says l when k is true.
    """

    prior: Floats
    confusion: Floats

    @property
    def accuracy(self) -> Floats:
        """Shape (A,), in [0, 1]: how often each is right, over the labels as frequent as they are."""
        return np.asarray(np.einsum("k,akk->a", self.prior, self.confusion))

    def posterior(self, votes: Ints) -> Floats:
        """Return the probability of each label being the true one, shape (N, K); rows sum to 1.

        Parameters
        ----------
        votes : ndarray
            Shape (N, A), the label that each annotator gave, ``UNASKED`` where it gave none.
        """
        score = np.tile(np.log(self.prior), (len(votes), 1))
        for a in range(votes.shape[1]):
            rows = np.flatnonzero(votes[:, a] != UNASKED)
            score[rows] += np.log(self.confusion[a][:, votes[rows, a]].T)
        score = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(score / score.sum(axis=1, keepdims=True))


def uninformed(n_annotators: int, n_labels: int) -> Annotators:
    """Return annotators of whom nothing is known: all equally good, all labels equally frequent."""
    return Annotators(np.full(n_labels, 1.0 / n_labels), _one_coin(np.full(n_annotators, PRIOR_ACCURACY), n_labels))


def estimate(votes: Ints, n_labels: int) -> Annotators:
    """Estimate the annotators from their votes alone; deterministic.

    Parameters
    ----------
    votes : ndarray
        Shape (N, A), 0 ... K-1, ``UNASKED`` where an annotator gave no label.

    References
    ----------
    Dawid, Skene: Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, 1979, equations 2.3 to 2.5,
    with Dirichlet priors on the rows of the confusion matrices.
    """
    known = uninformed(votes.shape[1], n_labels)
    rows = votes[(votes != UNASKED).any(axis=1)]
    if not len(rows):
        return known
    truth = known.posterior(rows)
    for _ in range(STEPS):
        known = _maximise(rows, truth)
        before, truth = truth, known.posterior(rows)
        if np.abs(truth - before).max() < TOLERANCE:
            break
    return known


def _maximise(votes: Ints, truth: Floats) -> Annotators:
    """Return the annotators that explain the votes best, if `truth`, shape (N, K), is the truth."""
    n_labels = truth.shape[1]
    prior = truth.sum(axis=0) + 1.0
    counts = np.zeros((votes.shape[1], n_labels, n_labels))
    for a in range(votes.shape[1]):
        rows = np.flatnonzero(votes[:, a] != UNASKED)
        np.add.at(counts[a].T, votes[rows, a], truth[rows])
    right, given = np.einsum("akk->a", counts), counts.sum(axis=(1, 2))
    accuracy = (right + PRIOR_ACCURACY * PRIOR_VOTES) / (given + PRIOR_VOTES)
    confusion = counts + CELL_WEIGHT * _one_coin(accuracy, n_labels)
    return Annotators(prior / prior.sum(), confusion / confusion.sum(axis=2, keepdims=True))


def _one_coin(accuracy: Floats, n_labels: int) -> Floats:
    """Return confusion matrices, shape (A, K, K), with one accuracy an annotator and all errors equally likely."""
    if n_labels == 1:
        return np.ones((len(accuracy), 1, 1))
    accuracy = np.clip(accuracy, 0.01, 0.99)[:, None, None]
    same = np.eye(n_labels)[None]
    return np.asarray(accuracy * same + (1.0 - accuracy) / (n_labels - 1) * (1.0 - same))
