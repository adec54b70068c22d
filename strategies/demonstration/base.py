"""What does every demonstration strategy take and give?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.registry import Registry

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]


class Demonstration(Protocol):
    """Select demonstrations from a pool of texts."""

    def __call__(
        self,
        *,
        texts: Sequence[str],
        labels: Ints,
        eligible: Bools,
        features: Floats | None,
        n: int,
        n_classes: int,
        rng: np.random.Generator,
    ) -> Ints:
        """Return the positions of the selected samples.

        Parameters
        ----------
        texts : sequence of str
            N texts. Empty ones are never selected, nor the same text twice.
        labels : ndarray
            Shape (N,), the label that the demonstration would carry, -1 where it has none yet.
        eligible : ndarray
            Shape (N,), bool: clean or labelled by a person. Others are never selected.
        features : ndarray or None
            Shape (N, D), the SLM's; None before there is one.
        n : int
            How many are wanted, >= 0.
        n_classes : int
            K.
        rng : numpy.random.Generator
            All randomness.

        Returns
        -------
        ndarray
            Shape (<= n,), int64, no position twice; fewer than `n` when the pool is exhausted.
        """
        ...


DEMONSTRATIONS: Registry[Demonstration] = Registry("demonstration strategy")


def candidates(texts: Sequence[str], eligible: Bools) -> Ints:
    """Return positions that may be selected: eligible, not blank, the first of texts that are the same."""
    first: dict[str, int] = {}
    for i in np.flatnonzero(eligible):
        key = texts[i].strip()
        if key:
            first.setdefault(key, int(i))
    return np.asarray(sorted(first.values()), dtype=np.int64)


def shares(available: Ints, n: int) -> Ints:
    """Deal `n` places out among classes as evenly as their supply allows, one at a time, the scarcest class served first.

    Parameters
    ----------
    available : ndarray
        Shape (K,), samples that each class has.

    Returns
    -------
    ndarray
        Shape (K,), at most `available`; sums to ``min(n, available.sum())``.
    """
    given = np.zeros_like(available)
    while given.sum() < min(n, int(available.sum())):
        open_classes = np.flatnonzero(given < available)
        fewest = open_classes[np.lexsort((available[open_classes], given[open_classes]))[0]]
        given[fewest] += 1
    return given
