"""Are an LLM's errors laid at the door of the labels it says too often?"""

import numpy as np
import numpy.typing as npt
import pytest

from strategies.distillation.habits import BOTH_WAYS, LEAST, MOST, even, habits


def test_counts_that_fit_the_belief_spread_errors_evenly() -> None:
    found = habits(np.arange(100) % 2, np.full((100, 2), 0.5), 0.1)
    np.testing.assert_allclose(found.missed, 0.1)
    np.testing.assert_allclose(found.favoured, found.favoured[0])


def test_a_favourite_holds_the_errors_by_hand() -> None:
    """0 is said in 60 of 100 answers and believed in 50; twenty of thirty errors are left for both ways."""
    llm = np.array([0] * 60 + [1] * 40)
    found = habits(llm, np.full((100, 2), 0.5), 0.3)
    np.testing.assert_allclose(found.missed, [0.2, (0.1 + 0.2 * 0.5) / 0.5])
    np.testing.assert_allclose(found.favoured, [(0.1 + 0.2 * 0.6) / 0.6, 0.2])


def test_some_errors_always_go_both_ways() -> None:
    found = habits(np.array([0] * 90 + [1] * 10), np.full((100, 2), 0.5), 0.1)
    np.testing.assert_allclose(found.missed, [BOTH_WAYS * 0.1, (0.4 + BOTH_WAYS * 0.1 * 0.5) / 0.5])


@pytest.mark.parametrize("llm", [np.full(5, -1), np.zeros(5, dtype=int), np.array([0, 0, 0, 0, 2])])
def test_odd_counts_stay_within_bounds(llm: npt.NDArray[np.int64]) -> None:
    probs = np.tile([0.0, 1.0, 0.0], (5, 1))
    found = habits(llm, probs, 0.4)
    for values in (found.missed, found.favoured):
        assert values.shape == (3,)
        assert ((values >= LEAST) & (values <= 1.0)).all()
    assert found.missed.max() <= MOST


def test_even_habits_favour_nobody() -> None:
    np.testing.assert_array_equal(even(3, 0.2).missed, 0.2)
    assert np.ptp(even(3, 0.2).favoured) == 0.0
