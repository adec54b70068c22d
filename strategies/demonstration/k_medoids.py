"""Which k points stand best for n points? K-medoids by the swaps of PAM, each round of them computed at once.

Written here because the libraries that have it are under the GPL (``kmedoids``) or no longer kept; this package is
Apache-2.0. The points of a class are some thousands at most, so plain numpy is quick enough.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

MOST_SWAPS = 100
"""PAM always ends, because each swap lowers the cost; this bounds the time on data where it creeps."""


def k_medoids(distances: Floats, k: int) -> Ints:
    """Return the positions of k medoids: the first greedily (BUILD), then swapped while a swap helps (SWAP).

    Deterministic: of equal choices the one with the smallest position is taken.

    Parameters
    ----------
    distances : ndarray
        Shape (n, n), symmetric, >= 0.
    k : int
        1 to n.

    Returns
    -------
    ndarray
        Shape (k,), the medoid of the largest cluster first.

    Raises
    ------
    ValueError
        If `k` does not lie between 1 and n.

    References
    ----------
    Kaufman, Rousseeuw: Partitioning Around Medoids, 1990. Schubert, Rousseeuw: Fast and Eager k-Medoids Clustering, 2021
    (section 4: the change of cost of all swaps with one candidate from the nearest and second nearest medoid).
    """
    n = len(distances)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; it must lie between 1 and the number of points, {n}.")
    chosen = _build(distances, k)
    for _ in range(MOST_SWAPS):
        change, out, candidate = _best_swap(distances, chosen)
        if change >= -1e-9 * float(distances.max() or 1.0):
            break
        chosen[out] = candidate
    sizes = np.bincount(distances[:, chosen].argmin(axis=1), minlength=k)
    return chosen[np.argsort(-sizes, kind="stable")]


def cost(distances: Floats, chosen: Ints) -> float:
    """Return the sum of the distances of all points to their nearest medoid."""
    return float(distances[:, chosen].min(axis=1).sum())


def _build(distances: Floats, k: int) -> Ints:
    """Add one medoid at a time, each the point that lowers the cost most."""
    chosen = [int(distances.sum(axis=0).argmin())]
    nearest = distances[:, chosen[0]].copy()
    while len(chosen) < k:
        gain = np.maximum(nearest[:, None] - distances, 0.0).sum(axis=0)  # (n,) of each candidate
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        nearest = np.minimum(nearest, distances[:, chosen[-1]])
    return np.asarray(chosen, dtype=np.int64)


def _best_swap(distances: Floats, chosen: Ints) -> tuple[float, int, int]:
    """Return the change of cost of the best swap, the place of the medoid that goes, and the point that comes."""
    k, rows = len(chosen), np.arange(len(distances))
    to_medoids = distances[:, chosen]  # (n, k)
    owner = to_medoids.argmin(axis=1)
    nearest = to_medoids[rows, owner]
    to_medoids[rows, owner] = np.inf
    second = to_medoids.min(axis=1) if k > 1 else np.full(len(rows), np.inf)
    joins = np.minimum(distances - nearest[:, None], 0.0)  # (n, n): what point i gains when candidate j comes
    # When its own medoid goes, point i moves to the candidate or to its second medoid, whichever is nearer.
    moves = np.minimum(distances, second[:, None]) - nearest[:, None]
    change = np.empty((k, len(rows)))
    for place in range(k):
        mine = owner == place
        change[place] = joins[~mine].sum(axis=0) + moves[mine].sum(axis=0)
    change[:, chosen] = np.inf
    best, candidate = divmod(int(change.argmin()), len(rows))
    return float(change[best, candidate]), best, candidate
