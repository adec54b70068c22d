"""Is what the LLM says too often taken back, and left alone where it is right?"""

import numpy as np
import numpy.typing as npt
import pytest

from strategies.distillation.class_prior import MAX_SHIFT, ONE_SIDED, noise_rate, prior_shift, shares

Floats = npt.NDArray[np.float64]


def views(truth: npt.NDArray[np.int64], sure: float, k: int) -> Floats:
    """Log-probabilities of a model that knows the truth so surely."""
    probs = np.full((len(truth), k), (1 - sure) / (k - 1))
    probs[np.arange(len(truth)), truth] = sure
    return np.asarray(np.log(probs))


def test_an_llm_with_a_favourite_is_corrected_towards_equal_shares() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    given = np.where((truth == 1) & (np.arange(400) % 8 != 1), 0, truth)  # three of four 1s are called 0
    odds = rng.normal(np.where(truth == 1, 1.0, -1.0), 1.0) - 1.9  # a model of the labels has learned the favourite
    learned = np.stack([-np.logaddexp(0, odds), -np.logaddexp(0, -odds)], axis=1)
    shift = prior_shift(learned, given, named=False)
    assert shift[1] > 0.5
    assert shift[0] < 0
    before = (learned.argmax(1) == truth).mean()
    assert before < 0.65
    assert ((learned + shift).argmax(1) == truth).mean() > before + 0.1


def test_shares_move_no_further_than_the_errors_allow() -> None:
    """Nine of ten are 0, and one label in twenty is contradicted: equal shares would need eight times as many errors."""
    truth = (np.arange(2000) % 10 == 0).astype(np.int64)
    given = np.where(np.arange(2000) % 20 == 1, 1 - truth, truth)
    learned = views(truth, 0.9, 2)
    weight = ONE_SIDED * noise_rate(learned, given) / abs(shares(learned)[0] - 0.5)
    moved = (1 - weight) * shares(learned) + weight * 0.5
    assert 0.0 < weight < 1.0
    np.testing.assert_allclose(prior_shift(learned, given, named=False), np.log(moved / shares(learned)))


def test_rare_classes_stay_rare_where_the_llm_is_right() -> None:
    truth = (np.arange(1000) % 20 == 0).astype(np.int64)
    learned = views(truth, 0.99, 2)
    assert noise_rate(learned, truth) == 0.0
    np.testing.assert_allclose(prior_shift(learned, truth, named=False), 0.0, atol=1e-12)


@pytest.mark.parametrize("wrong", [0.1, 0.3])
def test_noise_is_estimated_by_class_not_by_sample(wrong: float) -> None:
    rng = np.random.default_rng(0)
    truth = (np.arange(4000) % 10 == 0).astype(np.int64)
    given = np.where(rng.random(4000) < wrong, 1 - truth, truth)
    assert noise_rate(views(truth, 0.9, 2), given) > wrong, (
        "most labels of the rare class are wrong ones of the frequent"
    )


def test_a_class_that_was_never_given_moves_only_when_its_name_has_a_say() -> None:
    rng = np.random.default_rng(0)
    given = rng.integers(0, 2, 300)
    learned = np.log(rng.dirichlet([5, 5, 0.1], 300))
    assert prior_shift(learned, given, named=False)[2] == 0.0
    assert 0.0 < prior_shift(learned, given, named=True)[2] <= MAX_SHIFT


def test_nothing_given_moves_nothing() -> None:
    learned = views(np.arange(6) % 3, 0.8, 3)
    np.testing.assert_array_equal(prior_shift(learned, np.full(6, -1), named=False), 0.0)
