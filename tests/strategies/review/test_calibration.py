"""Does a calibrated confidence say how often the annotator is right, and is an unknown one left unknown?"""

from __future__ import annotations

import numpy as np
import pytest

from strategies.review.calibration import EDGE, FEWEST_CHECKED, Calibration, platt


def test_a_boaster_is_brought_down_to_what_it_is_worth() -> None:
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.2, 0.95, 4000)
    right = rng.random(4000) < honest
    odds = honest / (1 - honest)
    boasted = odds**2 * 3 / (1 + odds**2 * 3)
    calibration = platt(boasted, right)
    assert calibration is not None
    inside = (boasted > EDGE) & (boasted < 1 - EDGE)
    assert np.abs(calibration(boasted) - honest)[inside].max() < 0.06
    assert calibration.slope == pytest.approx(0.5, abs=0.05)


def test_too_few_or_one_kind_of_answers_calibrate_nothing() -> None:
    confidence = np.linspace(0.5, 0.9, FEWEST_CHECKED)
    right = np.arange(FEWEST_CHECKED) % 2 == 0
    assert platt(confidence, right) is not None
    assert platt(confidence[1:], right[1:]) is None
    assert platt(confidence, np.ones(FEWEST_CHECKED, dtype=bool)) is None
    assert platt(np.where(np.arange(FEWEST_CHECKED) < 5, np.nan, confidence), right) is None


def test_a_confidence_that_misleads_becomes_the_share_that_was_right() -> None:
    confidence = np.linspace(0.05, 0.95, 200)
    right = np.arange(200) < 100
    calibration = platt(confidence, right)
    assert calibration is not None
    assert calibration(np.array([0.1, 0.9])) == pytest.approx([0.5, 0.5], abs=0.01)


def test_unknown_stays_unknown_and_the_ends_are_finite() -> None:
    found = Calibration(1.0, 0.0)(np.array([np.nan, 0.0, 0.5, 1.0]))
    assert np.isnan(found[0])
    assert found[1:] == pytest.approx([EDGE, 0.5, 1 - EDGE])


def test_all_equal_confidences_give_the_share_that_was_right() -> None:
    calibration = platt(np.full(100, 0.99), np.arange(100) < 80)
    assert calibration is not None
    assert calibration(np.array([0.99]))[0] == pytest.approx(0.8, abs=0.03)
