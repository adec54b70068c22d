"""Is the share of labels read off that are wrong everywhere, and are those that are wrong where it is hard left alone?"""

import numpy as np
import pytest

from strategies.distillation.noise_floor import FEWEST, TRUST, noise_floor, of_the_truth


def test_what_is_taken_out_is_what_was_put_in() -> None:
    """The formula of the module, by hand: three classes, a fifth of the labels wrong."""
    truth = np.array([[0.9, 0.06, 0.04], [0.5, 0.3, 0.2]])
    labels = (1 - 0.2) * truth + 0.2 / 2 * (1 - truth)
    each = 0.2 / 2
    np.testing.assert_allclose((labels - each) / (labels - each).sum(axis=1, keepdims=True), truth)
    np.testing.assert_allclose(np.exp(of_the_truth(np.log(labels), 0.2)), truth, atol=0.01)


def test_the_order_is_kept_also_where_nothing_is_left() -> None:
    """A cut would make a heap of equal losses, which the mixture takes for the wrong labels."""
    p = np.linspace(0.001, 0.5, 200)
    found = of_the_truth(np.log(np.stack([p, 1.0 - p], axis=1)), 0.3)[:, 0]
    assert np.isfinite(found).all()
    assert (np.diff(found) > 1e-4).all()


def test_a_floor_is_found_where_easy_rows_are_wrong_too() -> None:
    rng = np.random.default_rng(0)
    given = rng.integers(0, 2, 1_000)
    wrong = rng.random(1_000) < 0.2
    sure = np.where(np.eye(2)[np.where(wrong, 1 - given, given)] == 1, 0.8, 0.2)
    assert noise_floor(np.log(sure), given) == pytest.approx(TRUST * 0.2, abs=0.05)


def test_errors_on_difficult_rows_only_make_no_floor() -> None:
    place = np.linspace(0.0, 1.0, 1_000)
    probs = np.stack([0.5 + 0.49 * place, 0.5 - 0.49 * place], axis=1)
    given = np.where((place < 0.4) & (np.arange(1_000) % 3 == 0), 1, 0)
    assert noise_floor(np.log(probs), given) == 0.0
    log_probs = np.log(probs)
    assert of_the_truth(log_probs, 0.0) is log_probs


def test_few_rows_one_class_and_no_labels_make_none() -> None:
    few = np.log(np.full((FEWEST, 2), 0.5))
    assert noise_floor(few, np.ones(FEWEST, dtype=int)) == 0.0
    assert noise_floor(np.zeros((500, 1)), np.zeros(500, dtype=int)) == 0.0
    assert noise_floor(np.log(np.full((500, 2), 0.5)), np.full(500, -1)) == 0.0


def test_labels_that_say_the_opposite_leave_probabilities() -> None:
    log_probs = np.log(np.tile([0.9, 0.1], (500, 1)))
    floor = noise_floor(log_probs, np.ones(500, dtype=int))
    assert floor < 0.5
    probs = np.exp(of_the_truth(log_probs, floor))
    np.testing.assert_allclose(probs.sum(axis=1), 1.0)
    assert probs.min() > 0
