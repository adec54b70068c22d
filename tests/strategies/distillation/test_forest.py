"""Does the forest we keep say what scikit-learn's said, and of no row what it learned from that row?"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.ensemble import ExtraTreesClassifier

from strategies.distillation import forest as module
from strategies.distillation.forest import PRIOR_WEIGHT, forest_view

Array: TypeAlias = npt.NDArray[Any]


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TREES", 40)


def corpus(n: int = 160) -> tuple[Array, Array]:
    """Rows whose label is an exclusive or, which no sum over columns knows; and three labels that are wrong."""
    rows = np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)
    labels = ((rows[:, 0] > 0) ^ (rows[:, 1] > 0)).astype(int)
    labels[:3] = 1 - labels[:3]
    return rows, labels


def test_it_says_what_scikit_learn_says() -> None:
    rows, labels = corpus()
    _, model = forest_view(rows, labels, 2, seed=3)
    theirs = ExtraTreesClassifier(40, min_samples_leaf=5, bootstrap=True, random_state=3).fit(rows, labels)
    new = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)
    expected = (40 * theirs.predict_proba(new) + PRIOR_WEIGHT * model.prior) / (40 + PRIOR_WEIGHT)
    np.testing.assert_allclose(np.exp(model.log_probs(new)), expected, atol=1e-6)
    assert model.log_probs(new[:0]).shape == (0, 2)


def test_wrong_labels_are_doubted_by_trees_that_did_not_see_them() -> None:
    rows, labels = corpus(400)
    log_probs, model = forest_view(rows, labels, 2, seed=0)
    losses = -log_probs[np.arange(len(labels)), labels]
    assert losses[:3].mean() > losses[3:].mean() + 0.1
    in_sample = -model.log_probs(rows)[np.arange(len(labels)), labels]
    assert losses.mean() > in_sample.mean(), "out of bag is worse than in bag, or it would be no test"


def test_the_same_seed_gives_the_same_forest_and_every_class_is_possible() -> None:
    rows, labels = corpus(60)
    labels[::4] = -1
    first, again = (forest_view(rows, labels, 4, seed=0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first).all()
    np.testing.assert_allclose(np.exp(first).sum(axis=1), 1.0)


@pytest.mark.parametrize("labels", [[0, 1], [1, 1, 1], [-1, 0, -1, 2]])
def test_few_labels_are_enough(labels: list[int]) -> None:
    rows = np.arange(2 * len(labels), dtype=np.float32).reshape(-1, 2)
    log_probs, model = forest_view(rows, np.array(labels), 3, seed=0)
    assert np.isfinite(log_probs).all()
    assert np.isfinite(model.log_probs(rows)).all()
