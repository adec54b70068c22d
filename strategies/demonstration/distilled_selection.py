"""Later rounds: which clean or corrected samples stand best for the corpus? K-medoids on the SLM's features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strategies.demonstration.base import DEMONSTRATIONS, Bools, Floats, Ints, candidates, shares
from strategies.demonstration.k_medoids import k_medoids

MOST_POINTS = 2000
"""Of a class with more candidates a random part is clustered: the distances of n points need 4 n^2 bytes."""


@DEMONSTRATIONS.register("distilled_selection")
def distilled_selection(
    *,
    texts: Sequence[str],
    labels: Ints,
    eligible: Bools,
    features: Floats | None,
    n: int,
    n_classes: int,
    rng: np.random.Generator,
) -> Ints:
    """Select the medoids of each class, as many from each as its supply allows; see ``Demonstration``.

    Candidates without a label are left out. Without features the selection is random within the classes. Returned class
    by class in turn, so that the first few are balanced too.

    References
    ----------
    CORAL, PVLDB 2024, section 3, "Distilled Selection". Schubert, Rousseeuw: Fast and Eager k-Medoids Clustering, 2021.
    """
    pool = candidates(texts, eligible)
    pool = pool[(labels[pool] >= 0) & (labels[pool] < n_classes)]
    if features is not None:
        pool = pool[np.isfinite(features[pool]).all(axis=1)]
    by_class = [pool[labels[pool] == k] for k in range(n_classes)]
    wanted = shares(np.asarray([len(rows) for rows in by_class], dtype=np.int64), max(0, n))
    chosen = [_select(rows, features, int(k), rng) for rows, k in zip(by_class, wanted, strict=True) if k]
    turns = [(turn, i, row) for i, rows in enumerate(chosen) for turn, row in enumerate(rows.tolist())]
    return np.asarray([row for _, _, row in sorted(turns)], dtype=np.int64)


def _select(rows: Ints, features: Floats | None, k: int, rng: np.random.Generator) -> Ints:
    """Return `k` of the `rows`, all of one class."""
    if features is None or k >= len(rows):
        return np.asarray(rng.permutation(rows)[:k])
    part = np.sort(rng.choice(rows, MOST_POINTS, replace=False)) if len(rows) > MOST_POINTS else rows
    return np.asarray(part[k_medoids(_distances(np.asarray(features[part], dtype=np.float32)), k)])


def _distances(points: Floats) -> Floats:
    """Return Euclidean distances, shape (n, n), float32."""
    squares = (points * points).sum(axis=1)
    squared = squares[:, None] + squares[None, :] - 2.0 * (points @ points.T)
    np.fill_diagonal(squared, 0.0)
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)), dtype=np.float32)
