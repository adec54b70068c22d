"""Are the medoids those that a search of all subsets finds, or close to them where PAM stops in a local optimum?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from strategies.demonstration.k_medoids import Floats, cost, k_medoids


def distances_of(points: Floats) -> Floats:
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=2))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_against_brute_force_on_eight_points(k: int) -> None:
    ratios = []
    for seed in range(20):
        distances = distances_of(np.random.default_rng(seed).normal(size=(8, 2)))
        best = min(cost(distances, np.asarray(subset)) for subset in combinations(range(8), k))
        ratios.append(cost(distances, k_medoids(distances, k)) / best)
    assert np.median(ratios) == pytest.approx(1.0)
    assert max(ratios) < 1.2, "a local optimum of PAM may be somewhat worse than the best subset"


def test_no_single_swap_helps_any_more() -> None:
    distances = distances_of(np.random.default_rng(3).normal(size=(40, 5)))
    chosen = k_medoids(distances, 4)
    reached = cost(distances, chosen)
    for place in range(4):
        for point in set(range(40)) - set(chosen.tolist()):
            swapped = chosen.copy()
            swapped[place] = point
            assert cost(distances, swapped) >= reached - 1e-9


def test_separate_heaps_get_one_each_the_largest_first() -> None:
    rng = np.random.default_rng(0)
    heaps = [rng.normal(center, 0.1, size=(size, 2)) for center, size in ((0.0, 5), (10.0, 20), (20.0, 9))]
    chosen = k_medoids(distances_of(np.concatenate(heaps)), 3)
    assert [int(np.searchsorted([5, 25, 34], i, side="right")) for i in chosen] == [1, 2, 0]


def test_all_points_the_same_gives_k_different_points() -> None:
    chosen = k_medoids(np.zeros((6, 6)), 3)
    assert len(set(chosen.tolist())) == 3


def test_a_wrong_k_is_refused() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k is {k}; it must lie between 1 and the number of points, 4"):
            k_medoids(np.zeros((4, 4)), k)
