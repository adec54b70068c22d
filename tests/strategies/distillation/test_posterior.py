"""Does Bayes overrule the LLM only where the SLM knows better, and never a person?"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from strategies.distillation.habits import Habits
from strategies.distillation.posterior import NOISE_RANGE, SUPPORT, bayes, certain, combine, noise_rates, refuted

Array: TypeAlias = npt.NDArray[Any]

NONE = np.full(400, -1)


def corpus(noise: float, sharp: float) -> tuple[Array, Array, Array]:
    """Truth, LLM labels with `noise`, and SLM probabilities of which a share `sharp` is sure and right, the rest blind."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    llm = np.where(rng.random(400) < noise, 1 - truth, truth)
    right = np.where(rng.random(400) < sharp, 1 - noise, 0.5)
    probs = np.where(np.eye(2)[truth] > 0, right[:, None], 1 - right[:, None])
    return truth, llm, probs


def test_rows_sum_to_one_and_are_finite() -> None:
    _, llm, probs = corpus(0.1, 0.5)
    llm[:20] = -1
    posterior, _ = combine(llm, None, probs, np.full(400, 0.1), NONE)
    np.testing.assert_allclose(posterior.sum(1), 1.0)
    assert (posterior >= 0).all()


def test_a_blind_slm_leaves_every_label() -> None:
    _, llm, _ = corpus(0.2, 0.0)
    _, label = combine(llm, None, np.full((400, 2), 0.5), np.full(400, 0.4), NONE)
    np.testing.assert_array_equal(label, llm)


def test_an_slm_that_knows_better_improves_the_labels() -> None:
    truth, llm, _ = corpus(0.15, 1.0)
    probs = np.where(np.eye(2)[truth] > 0, 0.999, 0.001)
    _, label = combine(llm, None, probs, np.where(llm == truth, 1.0, 0.0), NONE)
    assert (label == truth).mean() > (llm == truth).mean() + 0.1


def test_what_the_mixture_calls_clean_stays() -> None:
    _, llm, probs = corpus(0.15, 1.0)
    posterior, label = combine(llm, None, probs, np.ones(400), NONE)
    np.testing.assert_array_equal(label, llm)
    doubted = llm != probs.argmax(1)
    assert posterior[doubted, llm[doubted]].max() < posterior[~doubted, llm[~doubted]].min(), (
        "it stays, and looks doubtful"
    )


@pytest.mark.parametrize(("p_threshold", "overruled"), [(0.3, False), (0.4, False), (0.5, True)])
def test_the_threshold_says_what_is_clean(p_threshold: float, overruled: bool) -> None:
    truth, llm, _ = corpus(0.15, 1.0)
    probs = np.where(np.eye(2)[truth] > 0, 0.999, 0.001)
    _, label = combine(llm, None, probs, np.full(400, 0.4), NONE, p_threshold=p_threshold)
    np.testing.assert_array_equal(label, truth if overruled else llm)


def test_abstentions_take_the_slm_and_people_are_certain() -> None:
    truth, llm, probs = corpus(0.1, 1.0)
    llm[:50] = -1
    human = NONE.copy()
    human[60:70] = 1 - llm[60:70]
    posterior, label = combine(llm, None, probs, np.ones(400), human)
    np.testing.assert_array_equal(label[:50], truth[:50])
    posterior = certain(posterior, human)
    assert (posterior[np.arange(60, 70), human[60:70]] == 1.0).all()


def test_bayes_by_hand_on_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prior (.7, .2, .1), the LLM says 1 and errs in one of ten answers; not tempered."""
    monkeypatch.setattr("strategies.distillation.posterior.TEMPER", 1.0)
    p, noise = np.array([0.7, 0.2, 0.1]), 0.1
    likelihood = np.array([noise * 0.2 / 0.3, 1 - noise, noise * 0.2 / 0.9])
    expected = p * likelihood / (p * likelihood).sum()
    np.testing.assert_allclose(bayes(np.array([1]), p[None], np.array([noise]))[0], expected)


def test_bayes_by_hand_with_habits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same row; the LLM misses class 0 in half of its texts, and says 1 twice as readily as 0, four times as readily as 2."""
    monkeypatch.setattr("strategies.distillation.posterior.TEMPER", 1.0)
    p, spread = np.array([0.7, 0.2, 0.1]), Habits(np.array([0.5, 0.1, 0.2]), np.array([0.2, 0.4, 0.1]))
    likelihood = np.array([0.5 * 0.4 * 0.2 / (0.08 + 0.01), 0.9, 0.2 * 0.4 * 0.2 / (0.14 + 0.08)])
    expected = p * likelihood / (p * likelihood).sum()
    np.testing.assert_allclose(bayes(np.array([1]), p[None], np.array([0.1]), spread)[0], expected)


def test_of_two_equally_doubtful_labels_the_one_said_too_often_is_more_suspect() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    llm = np.where((truth == 1) & (rng.random(400) < 0.3), 0, truth)  # it says 0 too often, and never 1 wrongly
    probs = np.where(np.eye(2)[truth] > 0, 0.8, 0.2)
    probs[:2] = 0.5
    llm[:2] = 0, 1
    posterior, _ = combine(llm, None, probs, np.ones(400), NONE)
    assert posterior[0, 0] < posterior[1, 1] - 0.1


def test_a_blind_slm_leaves_the_llm_as_right_as_it_is() -> None:
    posterior = bayes(np.array([1]), np.full((1, 2), 0.5), np.array([0.3]))
    assert posterior[0, 1] == pytest.approx(0.7)


def test_people_who_find_more_errors_than_expected_raise_the_noise() -> None:
    _, llm, probs = corpus(0.1, 0.5)
    human = NONE.copy()
    human[:100] = 1 - llm[:100]
    agreed = np.where(human >= 0, llm, -1)
    before, raised, lowered = (noise_rates(llm, None, probs, h)[0] for h in (NONE, human, agreed))
    assert lowered < before < raised <= NOISE_RANGE[1]


def test_low_confidence_of_the_llm_makes_it_easier_to_overrule() -> None:
    _, llm, probs = corpus(0.15, 1.0)
    unsure = np.where(llm == probs.argmax(1), 0.9, 0.5)
    without, _ = combine(llm, None, probs, np.zeros(400), NONE)
    with_it, _ = combine(llm, unsure, probs, np.zeros(400), NONE)
    differ = llm != probs.argmax(1)
    rows = np.flatnonzero(differ)
    assert (with_it[rows, llm[rows]] <= without[rows, llm[rows]] + 1e-12).all()
    assert np.isfinite(combine(llm, np.full(400, np.nan), probs, np.zeros(400), NONE)[0]).all()


@pytest.mark.parametrize("k", [1, 77])
def test_any_number_of_classes(k: int) -> None:
    probs = np.full((6, k), 1.0 / k)
    posterior, label = combine(np.zeros(6, dtype=int), None, probs, np.ones(6), np.full(6, -1))
    assert posterior.shape == (6, k)
    assert np.isfinite(posterior).all()
    assert (label == 0).all()


def test_a_label_that_was_hardly_ever_given_overrules_nothing() -> None:
    llm = np.array([0] * 385 + [1] * (SUPPORT - 5))
    probs = np.where(np.arange(400)[:, None] < 10, [0.001, 0.999], [0.999, 0.001])
    _, label = combine(llm, None, probs, np.zeros(400), NONE)
    assert (label[:385] == 0).all()
    often = np.where(np.arange(400) < 300, llm, 1)
    assert (combine(often, None, probs, np.zeros(400), NONE)[1][:10] == 1).all()


def test_refuted_is_what_is_likely_wrong_and_never_a_persons_label() -> None:
    truth, llm, _ = corpus(0.15, 1.0)
    llm[:3] = -1
    log_probs = np.log(np.where(np.eye(2)[truth] > 0, 0.999, 0.001))
    trusted = np.arange(400) % 2 == 0
    found = refuted(log_probs, llm, trusted, np.where(np.arange(400) < 300, 0.1, 0.9), 0.5)
    np.testing.assert_array_equal(found, (llm >= 0) & (llm != truth) & ~trusted & (np.arange(400) < 300))
