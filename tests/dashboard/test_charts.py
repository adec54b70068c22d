"""Do the charts count right? By hand on small arrays."""

from __future__ import annotations

import numpy as np
import pytest

from coral_backend.dashboard import charts
from coral_backend.store.figures import Scores


def scores(loss: list[float], confidence: list[float], flag: list[int], human: list[str | None]) -> Scores:
    slm = ["a"] * len(loss)
    return Scores(np.array(loss), np.array(confidence), np.array(flag), ["a", "b"] * (len(loss) // 2), slm, human)


def test_a_histogram_counts_every_task_once() -> None:
    found = scores([0.0, 0.1, 3.0, float("nan")], [0.05, 0.5, 1.0, float("nan")], [0, 0, 1, 2], [None] * 4)
    loss = charts.loss_histogram(found, {})
    assert loss is not None
    assert {bar["label"]: sum(bar["values"]) for bar in loss["bars"]} == {"clean": 2, "noisy": 1, "inconsistent": 0}
    assert "curves" not in loss
    confidence = charts.confidence_histogram(found)
    assert confidence is not None
    assert confidence["bars"][1]["values"][-1] == 1, "1.0 is in the last bar"


def test_the_gaussians_have_the_area_of_the_bars() -> None:
    rng = np.random.default_rng(0)
    loss = np.concatenate([rng.normal(1.0, 0.2, 800), rng.normal(3.0, 0.4, 200)])
    found = Scores(loss, loss, np.zeros(1000, dtype=int), [None] * 1000, [None] * 1000, [None] * 1000)
    chart = charts.loss_histogram(found, {"means": [1.0, 3.0], "variances": [0.04, 0.16], "weights": [0.8, 0.2]})
    assert chart is not None
    width = chart["edges"][1] - chart["edges"][0]
    for curve, n in zip(chart["curves"], (800, 200), strict=True):
        area = np.trapezoid(curve["y"], curve["x"]) / width
        assert area == pytest.approx(n, rel=0.06), "less what the last bar holds"


def test_one_heap_has_no_curves() -> None:
    found = scores([0.5, 0.6], [0.5, 0.6], [0, 0], [None, None])
    chart = charts.loss_histogram(found, {"means": [0.5, 0.5], "variances": [0.0, 0.0], "weights": [1.0, 0.0]})
    assert chart is not None
    assert "curves" not in chart


def test_nothing_known_is_no_chart() -> None:
    nothing = scores([float("nan")] * 2, [float("nan")] * 2, [1, 1], [None, None])
    assert charts.loss_histogram(nothing, {}) is None
    assert charts.confidence_histogram(nothing) is None
    assert charts.reliability(nothing) is None
    assert charts.history_chart([]) is None


def test_reliability_by_hand() -> None:
    human: list[str | None] = ["a", "b", "a", None]
    found = scores([1.0] * 4, [0.91, 0.93, 0.12, 0.5], [0] * 4, human)
    chart = charts.reliability(found)
    assert chart is not None
    assert (chart["n"], chart["y"], chart["total"]) == ([1, 2], [1.0, 0.5], 3)
    assert chart["x"] == [0.12, 0.92]
    assert chart["joined"] == [False, False], "too few to be trusted"
    assert chart["error"] == pytest.approx((0.88 * 1 + 0.42 * 2) / 3, abs=1e-4)


def test_a_matrix_has_labels_that_the_config_lost_at_its_end() -> None:
    found = charts.matrix({("b", "b"): 3, ("a", "b"): 1, ("old", "a"): 2}, ["a", "b"])
    assert found.labels == ["a", "b", "old"]
    assert found.cells == [[0, 1, 0], [0, 3, 0], [2, 0, 0]]
    assert (found.total, found.same, found.highest) == (6, 0.5, 2)
    assert charts.matrix({}, ["a"]).same is None


def test_of_many_labels_the_pairs_that_are_confused_most_are_listed() -> None:
    labels = [f"intent {i:02d}" for i in range(77)]
    counts = {(labels[i], labels[i + 1]): i + 1 for i in range(76)} | {(labels[0], labels[0]): 500}
    found = charts.matrix(counts, labels)
    assert (found.cells, len(found.labels), len(found.confusions)) == ([], 77, charts.MOST_CONFUSIONS)
    assert found.confusions[0] == ("intent 75", "intent 76", 76)
    assert found.same == 500 / found.total
    few = charts.matrix({("a", "b"): 3}, ["a", "b"])
    assert (few.cells, few.confusions) == ([[0, 3], [0, 0]], [])
