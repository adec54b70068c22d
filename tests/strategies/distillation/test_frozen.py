"""Is the leave-one-out score what leaving one out gives, and does the view survive odd corpora?"""

from __future__ import annotations

import numpy as np
import pytest

from strategies.distillation import frozen
from strategies.distillation.frozen import SCALE, Floats, frozen_view, silent_view


def unit(rng: np.random.Generator, n: int, d: int = 6) -> Floats:
    points = rng.normal(size=(n, d))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def test_leaving_one_out_without_refitting_is_leaving_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "RIDGES", (1.0,))
    rng = np.random.default_rng(0)
    points, labels = unit(rng, 30), np.arange(30) % 3
    log_probs, _ = frozen_view(points, labels, 3)
    prior = (np.bincount(labels, minlength=3) + 0.5) / 31.5
    targets = np.eye(3)[labels] - prior
    for i in (0, 7, 29):
        others = np.delete(np.arange(30), i)
        mean_x, mean_y = points[others].mean(axis=0), targets[others].mean(axis=0)
        x, y = points[others] - mean_x, targets[others] - mean_y
        weights = np.linalg.solve(x.T @ x + np.eye(6), x.T @ y)
        said = SCALE * ((points[i] - mean_x) @ weights + mean_y + prior)
        expected = said - np.log(np.exp(said).sum())
        # The intercept is taken from all rows, which moves it by a thirtieth of one target.
        assert log_probs[i] == pytest.approx(expected, abs=0.35)
        assert log_probs[i].argmax() == expected.argmax()


def test_a_flipped_label_is_doubted_and_a_new_text_is_told_apart() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 2
    points = unit(rng, 200) * 0.3
    points[:, 0] += np.where(labels == 1, 1.0, -1.0)
    given = labels.copy()
    given[:10] = 1 - given[:10]
    log_probs, model = frozen_view(points, given, 2)
    own = log_probs[np.arange(200), given]
    assert own[:10].max() < own[10:].min()
    assert model.log_probs(points).argmax(axis=1).tolist() == labels.tolist()


def test_what_has_no_label_is_scored_as_a_new_text_is() -> None:
    rng = np.random.default_rng(2)
    points = unit(rng, 40)
    given = np.where(np.arange(40) < 30, np.arange(40) % 2, -1)
    log_probs, model = frozen_view(points, given, 2)
    assert log_probs[30:] == pytest.approx(model.log_probs(points)[30:], abs=1e-4)


@pytest.mark.parametrize("given", [[0, -1, -1], [1, 1, 1], [0, 1, 2]])
def test_few_labels_one_class_and_all_different(given: list[int]) -> None:
    log_probs, model = frozen_view(unit(np.random.default_rng(3), 3), np.array(given), 3)
    assert np.isfinite(log_probs).all()
    assert np.exp(log_probs).sum(axis=1) == pytest.approx(1.0)
    assert np.isfinite(model.weights).all()


def test_all_texts_the_same() -> None:
    log_probs, _ = frozen_view(np.ones((20, 4)) / 2, np.arange(20) % 2, 2)
    assert np.isfinite(log_probs).all()


def test_a_silent_view_prefers_nothing() -> None:
    log_probs, model = silent_view(4, 6, 3)
    assert np.exp(log_probs) == pytest.approx(np.full((4, 3), 1 / 3))
    assert np.exp(model.log_probs(np.ones((2, 6)))) == pytest.approx(np.full((2, 3), 1 / 3))
