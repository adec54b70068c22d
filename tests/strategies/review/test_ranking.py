"""Are the most doubtful first and the finished last?"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strategies.review.ranking import review_order


def test_order_ties_and_finished() -> None:
    ranks = review_order(np.array([0.9, 0.2, 0.5, 0.5, np.nan, 0.0]), np.array([0, 0, 0, 0, 0, 1], dtype=bool))
    assert ranks.tolist() == [5, 2, 3, 4, 1, 6]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40))
def test_ranks_are_a_permutation_and_follow_the_doubt(rows: list[tuple[float, bool]]) -> None:
    p_right = np.array([p for p, _ in rows])
    done = np.array([d for _, d in rows], dtype=bool)
    ranks = review_order(p_right, done)
    assert sorted(ranks.tolist()) == list(range(1, len(rows) + 1))
    queue = np.argsort(ranks)
    assert (np.diff(done[queue].astype(int)) >= 0).all()
    assert (np.diff(p_right[queue][~done[queue]]) >= 0).all()
