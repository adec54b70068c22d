"""Does every demonstration strategy keep the contract? And is distilled selection k-medoids?"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from strategies.demonstration import DEMONSTRATIONS, distilled_selection
from strategies.demonstration.base import shares

Array: TypeAlias = npt.NDArray[Any]

NAMES = DEMONSTRATIONS.names()


def pool(n: int = 60, k: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "texts": [f"text {i}" for i in range(n)],
        "labels": np.arange(n) % k,
        "eligible": rng.random(n) < 0.7,
        "features": rng.normal(size=(n, 5)).astype(np.float32),
        "n_classes": k,
    }


def select(name: str, n: int, parts: dict[str, Any], seed: int = 0) -> Array:
    return DEMONSTRATIONS.get(name)(n=n, rng=np.random.default_rng(seed), **parts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 30])
def test_eligible_distinct_and_as_many_as_asked(name: str, n: int) -> None:
    parts = pool()
    chosen = select(name, n, parts)
    assert chosen.shape == (n,)
    assert len(set(chosen.tolist())) == n
    assert parts["eligible"][chosen].all()


@pytest.mark.parametrize("name", NAMES)
def test_an_exhausted_pool_gives_what_it_has(name: str) -> None:
    parts = pool()
    assert len(select(name, 1000, parts)) == parts["eligible"].sum()
    assert len(select(name, 5, parts | {"eligible": np.zeros(60, dtype=bool)})) == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_selects_the_same(name: str) -> None:
    np.testing.assert_array_equal(select(name, 9, pool(), seed=4), select(name, 9, pool(), seed=4))


@pytest.mark.parametrize("name", NAMES)
def test_no_features_no_texts_and_a_single_one(name: str) -> None:
    assert len(select(name, 6, pool() | {"features": None})) == 6
    empty = {"texts": [], "labels": np.zeros(0, int), "eligible": np.zeros(0, bool), "features": None, "n_classes": 2}
    assert len(select(name, 3, empty)) == 0
    one = {"texts": ["x"], "labels": np.array([1]), "eligible": np.array([True]), "features": None, "n_classes": 2}
    assert select(name, 3, one).tolist() == [0]


@pytest.mark.parametrize("name", NAMES)
def test_blank_texts_and_repeats_are_not_shown(name: str) -> None:
    parts = pool(20) | {"texts": ["same"] * 10 + [" "] * 9 + ["other"], "eligible": np.ones(20, dtype=bool)}
    assert set(select(name, 5, parts).tolist()) == {0, 19}


@pytest.mark.parametrize("name", NAMES)
def test_all_features_the_same(name: str) -> None:
    parts = pool() | {"features": np.ones((60, 5), dtype=np.float32)}
    assert len(set(select(name, 8, parts).tolist())) == 8


def test_distilled_selection_is_balanced_in_every_prefix() -> None:
    parts = pool(90) | {"eligible": np.ones(90, dtype=bool)}
    chosen = select("distilled_selection", 9, parts)
    labels = parts["labels"][chosen]
    assert np.bincount(labels).tolist() == [3, 3, 3]
    assert np.bincount(labels[:3]).tolist() == [1, 1, 1]


def test_distilled_selection_leaves_out_unlabelled_and_broken_features() -> None:
    parts = pool(40) | {"eligible": np.ones(40, dtype=bool)}
    parts["labels"] = np.where(np.arange(40) < 20, -1, parts["labels"])
    parts["features"][20:30] = np.nan
    assert (select("distilled_selection", 40, parts) >= 30).all()


def test_a_scarce_class_gives_its_places_to_others() -> None:
    assert shares(np.array([1, 10, 10]), 7).tolist() == [1, 3, 3]
    assert shares(np.array([2, 0]), 5).tolist() == [2, 0]
    assert shares(np.array([5, 5]), 1).sum() == 1


def test_medoids_are_central_in_their_cluster() -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 1, (50, 4)), rng.normal(20, 1, (30, 4))]).astype(np.float32)
    chosen = distilled_selection(
        texts=[str(i) for i in range(80)],
        labels=np.zeros(80, dtype=int),
        eligible=np.ones(80, dtype=bool),
        features=features,
        n=2,
        n_classes=1,
        rng=rng,
    )
    assert chosen[0] < 50 <= chosen[1]  # the larger cluster first
    spread = np.linalg.norm(features[:50] - features[:50].mean(0), axis=1)
    assert np.linalg.norm(features[chosen[0]] - features[:50].mean(0)) <= np.median(spread)


def test_a_hundred_thousand_samples_are_no_matrix_of_their_square() -> None:
    rng = np.random.default_rng(0)
    n = 100_000
    parts = {
        "texts": [str(i) for i in range(n)],
        "labels": rng.integers(0, 4, n),
        "eligible": np.ones(n, dtype=bool),
        "features": rng.normal(size=(n, 16)).astype(np.float32),
        "n_classes": 4,
    }
    assert len(select("distilled_selection", 12, parts)) == 12
