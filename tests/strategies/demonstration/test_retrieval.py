"""Are the nearest samples shown, in turn from each class, and never the text itself?"""

from __future__ import annotations

import numpy as np

from strategies.demonstration import nearest

ANGLES = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 3.0])
POOL = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
LABELS = np.array([0, 0, 0, 1, 1, -1, 2])
QUERY = np.array([[2.0, 0.0]])


def test_the_nearest_of_each_class_come_first() -> None:
    assert nearest(QUERY, POOL, LABELS, 5)[0].tolist() == [0, 3, 6, 1, 4]
    assert nearest(QUERY, POOL, LABELS, 2)[0].tolist() == [0, 3]


def test_the_text_itself_is_left_out() -> None:
    assert nearest(QUERY, POOL, LABELS, 3, own=np.array([0]))[0].tolist() == [1, 3, 6]


def test_an_exhausted_pool_and_nothing_wanted() -> None:
    assert sorted(nearest(QUERY, POOL, LABELS, 99)[0].tolist()) == [0, 1, 2, 3, 4, 6]
    assert nearest(QUERY, POOL, LABELS, 0)[0].size == 0
    assert nearest(QUERY, POOL, np.full(7, -1), 3)[0].size == 0


def test_features_that_are_no_numbers_are_passed_over() -> None:
    pool = POOL.copy()
    pool[0] = np.nan
    assert nearest(QUERY, pool, LABELS, 1)[0].tolist() == [1]
