"""In which order should people look? The most doubtful first."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]


def review_order(p_right: Floats, done: npt.NDArray[np.bool_]) -> Ints:
    """Return each sample's place in the queue.

    Parameters
    ----------
    p_right : ndarray
        Shape (N,), probability that the verdict is right; 1 = surely. NaN counts as 0: nothing is known of it.
    done : ndarray
        Shape (N,), True where a person labelled: these come last, in the same order.

    Returns
    -------
    ndarray
        Shape (N,), int64, each of 1 ... N once; 1 is the most doubtful. Ties keep the order of the corpus.
    """
    order = np.lexsort((np.nan_to_num(p_right, nan=0.0), done))
    ranks = np.empty(len(p_right), dtype=np.int64)
    ranks[order] = np.arange(1, len(p_right) + 1)
    return ranks
