"""Which labelled samples are most like this text? Nearest neighbours in the SLM's features, in turn from each class."""

from __future__ import annotations

from typing import Any

import numpy as np

from strategies.demonstration.base import DEMONSTRATIONS, Floats, Ints
from strategies.demonstration.distilled_selection import distilled_selection

UNKNOWN = -1


@DEMONSTRATIONS.register("retrieval")
def retrieval(**given: Any) -> Ints:
    """Show each text the verified samples nearest to it, in turn from each class.

    Returned is what all texts share, for those that have no neighbours: the medoids. ``nearest`` then chooses for each text.
    """
    return distilled_selection(**given)


def nearest(queries: Floats, pool: Floats, labels: Ints, n: int, *, own: Ints | None = None) -> list[Ints]:
    """Return, for each query, the most similar samples of the pool, class-balanced.

    The nearest of each class first, the closest class leading; then the second nearest of each, and so on. So the first few
    are balanced as well as all of them, and with more classes than places the closest classes are shown.

    Parameters
    ----------
    queries : ndarray
        Shape (Q, D).
    pool : ndarray
        Shape (N, D), in the same space; compared by cosine.
    labels : ndarray
        Shape (N,), the class of each sample of the pool; -1 where it is not to be shown.
    n : int
        How many are wanted, >= 0.
    own : ndarray, optional
        Shape (Q,), the place in the pool that is the query itself and is never returned; -1 where it is not in it.

    Returns
    -------
    list of ndarray
        Q arrays of at most `n` places in the pool.

    References
    ----------
    Liu et al.: What Makes Good In-Context Examples for GPT-3?, 2022 (nearest neighbours of the query).
    """
    usable = np.flatnonzero((labels != UNKNOWN) & np.isfinite(pool).all(axis=1))
    if n < 1 or not usable.size:
        return [np.empty(0, dtype=np.int64) for _ in queries]
    similarity = _unit(queries) @ _unit(pool[usable]).T
    if own is not None:
        similarity[own[:, None] == usable[None, :]] = -np.inf
    return [usable[_in_turn(row, labels[usable], n)] for row in similarity]


def _in_turn(similarity: Floats, labels: Ints, n: int) -> Ints:
    """Return the places of the `n` most similar, one of each class in turn."""
    order = np.argsort(-similarity, kind="stable")
    order = order[similarity[order] > -np.inf]
    turn = np.empty(len(order), dtype=np.int64)
    seen: dict[int, int] = {}
    for place, label in enumerate(labels[order].tolist()):
        turn[place] = seen[label] = seen.get(label, -1) + 1
    return np.asarray(order[np.argsort(turn, kind="stable")][:n], dtype=np.int64)


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.nan_to_num(rows / np.where(lengths > 0, lengths, 1.0)))
