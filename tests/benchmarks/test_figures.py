"""Are the figures of the benchmark what a person gets by hand?"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.dataset import Gold
from benchmarks.figures import (
    METRICS,
    Bools,
    Outcome,
    accuracy_after,
    auroc,
    average_precision,
    calibration_error,
    figures_of,
    found_at,
    looked_at,
    over_seeds,
)


def bools(*values: int) -> Bools:
    return np.array(values, dtype=bool)


def test_auroc_counts_the_pairs_in_order() -> None:
    suspicion = np.array([0.9, 0.8, 0.4, 0.4, 0.1])
    # wrong: 0.9 and 0.4; right: 0.8, 0.4, 0.1. Of six pairs 3 + 1 are in order and one is a tie.
    assert auroc(suspicion, bools(1, 0, 1, 0, 0)) == pytest.approx(4.5 / 6)
    assert auroc(suspicion, bools(0, 0, 0, 0, 0)) is None
    assert auroc(suspicion, bools(1, 1, 1, 1, 1)) is None


def test_average_precision_is_the_mean_precision_at_the_wrong_ones() -> None:
    suspicion = np.array([0.9, 0.8, 0.7, 0.1])
    assert average_precision(suspicion, bools(1, 0, 1, 0)) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(suspicion, bools(0, 0, 0, 0)) is None


def test_the_first_tenth_of_the_queue() -> None:
    wrong = np.zeros(40, dtype=bool)
    wrong[[3, 7, 9, 30, 31]] = True
    order = np.array([30, 0, 3, 1, *(i for i in range(40) if i not in (30, 0, 3, 1))])
    assert found_at(wrong, order, 10) == pytest.approx(2 / 5)
    assert accuracy_after(wrong, order, 10) == pytest.approx(1 - 3 / 40)
    assert found_at(wrong, order, 5) == pytest.approx(1 / 5)
    assert found_at(wrong, order, 100) == 1.0
    assert accuracy_after(wrong, order, 100) == 1.0
    assert found_at(np.zeros(40, dtype=bool), order, 10) is None


@pytest.mark.parametrize(
    ("n", "percent", "places"), [(8662, 10, 866), (8662, 5, 433), (30, 5, 2), (3, 5, 1), (1, 20, 1)]
)
def test_a_part_of_the_queue_is_rounded_and_never_empty(n: int, percent: int, places: int) -> None:
    assert looked_at(n, percent) == places


def test_calibration_error_by_hand() -> None:
    # Two bins of two: |0.5 - 0.95| and |1 - 0.55|, each half of all.
    confidence, right = np.array([0.95, 0.95, 0.55, 0.55]), bools(1, 0, 1, 1)
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)
    assert calibration_error(np.ones(3), bools(1, 1, 1)) == 0.0
    assert calibration_error(np.zeros(0), bools()) is None


def test_all_figures_of_an_outcome() -> None:
    gold = Gold(np.array([0, 1, 0, 1]), np.array([1, 1]))
    llm = np.array([0, 0, -1, 1])
    outcome = Outcome(
        verdict=np.array([0, 0, 0, 1]),
        confidence=np.array([0.9, 0.6, 0.7, 0.8]),
        order=np.array([1, 2, 3, 0]),
        suspicion=np.array([0.1, 0.4, 0.0, 0.2]),  # the abstention's is not read
        slm_label=np.array([0, 1, 0, 0]),
        test_label=np.array([1, 0]),
        clean=bools(1, 1, 0, 1),
        demonstrations=np.array([0, 3]),
        seconds={"training": 2.0, "scoring": 0.5},
    )
    found = figures_of(outcome, llm, gold)
    assert found["verdict_accuracy"] == 0.75
    assert found["slm_accuracy"] == 0.75
    assert found["test_accuracy"] == 0.5
    assert found["auroc"] == 1.0
    assert found["average_precision"] == 1.0
    assert found["found_at"] == {"5": 1.0, "10": 1.0, "20": 1.0}
    assert found["accuracy_after"] == {"5": 1.0, "10": 1.0, "20": 1.0}
    assert found["clean_share"] == 0.75
    assert found["clean_purity"] == pytest.approx(2 / 3)
    assert found["demo_purity"] == 1.0
    assert found["seconds"] == 2.5
    assert set(METRICS) - {"peak_mb"} <= set(found)


def test_what_a_method_does_not_have_is_null() -> None:
    found = figures_of(Outcome(np.array([0, -1])), np.array([0, -1]), Gold(np.array([0, 0]), np.array([], dtype=int)))
    assert found.pop("verdict_accuracy") == 0.5
    assert set(found.values()) == {None}


def test_means_over_seeds_with_the_deviation_beside_them() -> None:
    found = over_seeds([{"a": 1.0, "b": {"5": 0.0}, "c": None}, {"a": 3.0, "b": {"5": 1.0}, "c": None}])
    assert found["a"] == 2.0
    assert found["a_std"] == pytest.approx(2**0.5)
    assert found["b"] == {"5": 0.5}
    assert found["b_std"] == {"5": pytest.approx(0.5**0.5)}
    assert found["c"] is None
    assert found["c_std"] is None
    alone = over_seeds([{"a": 1.0, "b": None}])
    assert alone == {"a": 1.0, "a_std": None, "b": None, "b_std": None}
