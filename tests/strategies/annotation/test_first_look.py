"""Is the first look out of sample, and silent where there is nothing to learn?"""

from __future__ import annotations

import numpy as np
import pytest

from strategies.annotation.first_look import FEWEST, first_look
from strategies.annotation.shortlist import Floats, Ints, shortlist


def corpus(n: int, seed: int = 0) -> tuple[Floats, Ints]:
    """Return unit vectors about one of two centres, and which."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    vectors = rng.normal(size=(n, 8)) * 0.4
    vectors[:, 0] += np.where(truth == 1, 1.0, -1.0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), truth


def test_it_contradicts_a_wrong_label_that_it_was_given() -> None:
    vectors, truth = corpus(200)
    given = truth.copy()
    given[:10] = 1 - given[:10]
    given[10:15] = -1
    probs = first_look(vectors, given, 2)
    assert probs is not None
    assert probs.sum(axis=1) == pytest.approx(1.0)
    assert (probs.argmax(axis=1)[:10] == truth[:10]).mean() >= 0.8
    assert (probs.argmax(axis=1) == truth).mean() > 0.95


def test_too_few_labels_or_one_kind_give_no_opinion() -> None:
    vectors, truth = corpus(200)
    assert first_look(vectors, np.where(np.arange(200) < FEWEST - 1, truth, -1), 2) is None
    assert first_look(vectors, np.zeros(200, dtype=np.int64), 2) is None


def test_a_shortlist_takes_from_words_and_neighbours_in_turn() -> None:
    likeness = np.array([0.9, 0.8, 0.7, 0.1, 0.2])
    assert shortlist(likeness, np.array([3, 3, 4]), 4).tolist() == [3, 0, 4, 1]
    assert shortlist(likeness, None, 2).tolist() == [0, 1]
    assert shortlist(likeness, np.array([], dtype=np.int64), 9).tolist() == [0, 1, 2, 4, 3]
