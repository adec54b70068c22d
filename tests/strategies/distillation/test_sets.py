"""Are questions with yes or no scored, divided and weighed as they should be, rare labels too?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from coral_backend.types import Ints
from strategies.distillation.fixmatch import fixmatch_sets_loss
from strategies.distillation.sets import (
    FEWEST_DIVIDED,
    balanced_losses,
    combine_sets,
    divide_sets,
    fit_set_blend,
    frozen_odds,
    lexical_odds,
    name_odds,
    shares,
)
from strategies.review.sets import DOUBT, decide_sets

WORDS = ("match goal team", "bank money loan", "rain wind cloud")


def corpus(n: int = 240, seed: int = 0) -> tuple[list[str], Ints]:
    """Texts about any of three things, the third of them rare, and which."""
    rng = np.random.default_rng(seed)
    answers = (rng.random((n, 3)) < [0.5, 0.4, 0.1]).astype(np.int64)
    texts = [
        " ".join(str(rng.choice(WORDS[k].split())) for k in np.repeat(np.flatnonzero(row), 3)) or "nothing at all"
        for row in answers
    ]
    return texts, answers


def test_the_loss_of_sets_is_what_it_is_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [-3.0, 0.0]])
    answers, clean = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[True, True], [True, False]])
    weak, strong = torch.tensor([[4.0, -4.0, 0.0]]), torch.tensor([[0.0, 1.0, 5.0]])
    loss = fixmatch_sets_loss(
        logits, answers, weak, strong,
        clean_lb=clean, open_ulb=torch.tensor([[True, True, True]]), p_cutoff=0.9, lambda_u=0.5,
    )  # fmt: skip
    supervised = (np.log(2) + np.log1p(np.exp(2.0)) + np.log1p(np.exp(-3.0))) / 2
    unsupervised = np.log(2) + np.log1p(np.exp(1.0))
    assert float(loss.supervised) == pytest.approx(supervised, rel=1e-6)
    assert float(loss.unsupervised) == pytest.approx(unsupervised, rel=1e-6)
    assert float(loss.total) == pytest.approx(supervised + unsupervised / 2, rel=1e-6)
    assert loss.mask.tolist() == [[1.0, 1.0, 0.0]]
    assert loss.pseudo_labels.tolist() == [[1.0, 0.0, 1.0]]


def test_an_answer_that_is_believed_gets_no_pseudo_answer() -> None:
    weak = torch.tensor([[9.0, 9.0]])
    loss = fixmatch_sets_loss(
        torch.zeros((0, 2)), torch.zeros((0, 2)), weak, weak,
        clean_lb=torch.zeros((0, 2), dtype=torch.bool), open_ulb=torch.tensor([[False, True]]), p_cutoff=0.9, lambda_u=1.0,
    )  # fmt: skip
    assert loss.mask.tolist() == [[0.0, 1.0]]
    assert float(loss.supervised) == 0.0


@pytest.mark.parametrize("wrong", ["answers", "open"])
def test_shapes_that_differ_are_refused(wrong: str) -> None:
    answers = torch.zeros((1, 3 if wrong == "answers" else 2))
    weak = torch.zeros((1, 2))
    with pytest.raises(ValueError, match="logits have shape"):
        fixmatch_sets_loss(
            torch.zeros((1, 2)), answers, weak, weak,
            clean_lb=torch.ones((1, 2), dtype=torch.bool), open_ulb=torch.ones((1, 3 if wrong == "open" else 2), dtype=torch.bool),
            p_cutoff=0.9, lambda_u=1.0,
        )  # fmt: skip


def test_words_tell_each_label_out_of_sample_and_for_new_texts() -> None:
    texts, answers = corpus()
    given = answers.copy()
    given[5] = 1 - given[5]  # wrong in every label: each is to be doubted
    given[7] = -1
    odds, model = lexical_odds(texts, given, rng=np.random.default_rng(0))
    assert odds.shape == answers.shape
    rows = np.arange(len(texts)) != 5
    order = [np.argsort(-odds[:, k]) for k in range(3)]
    for k in range(3):
        first = order[k][: int(answers[:, k].sum() * 0.8)]
        assert answers[first, k].mean() > 0.97
    assert ((odds[5] > logit(shares(given))) == (answers[5] == 1)).all()
    found = model.scores(["goal money", "wind"])
    assert (np.argsort(-found, axis=1)[:, 0] == [0, 2]).all() or found[0, 1] > found[0, 2]
    assert found[1].argmax() == 2
    assert rows.sum() == len(texts) - 1


def test_embeddings_and_names_tell_each_label() -> None:
    rng = np.random.default_rng(0)
    _, answers = corpus()
    directions = np.linalg.qr(rng.normal(size=(16, 3)))[0].T
    vectors = answers @ directions + 0.2 * rng.normal(size=(len(answers), 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    odds, model = frozen_odds(vectors, answers)
    for k in range(3):
        assert odds[answers[:, k] == 1, k].mean() > odds[answers[:, k] == 0, k].mean() + 1.0
    assert np.corrcoef(model.scores(vectors).ravel(), odds.ravel())[0, 1] > 0.95
    by_name, _ = name_odds(vectors, [direction[None, :] for direction in directions])
    for k in range(3):
        assert by_name[answers[:, k] == 1, k].mean() > by_name[answers[:, k] == 0, k].mean()


def test_the_blend_is_calibrated_and_trusts_the_better_view() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(2000, 4)) - 2.0
    answers = (rng.random(truth.shape) < expit(truth)).astype(np.int64)
    blend = fit_set_blend([truth * 3.0, rng.normal(size=truth.shape)], answers, [0.5, 0.5])
    assert blend.weights[0] == pytest.approx(1 / 3, abs=0.05)
    assert blend.weights[1] < 0.15
    probs = expit(blend.odds([truth * 3.0, rng.normal(size=truth.shape)]))
    np.testing.assert_allclose(probs.mean(axis=0), answers.mean(axis=0), atol=0.03)


def test_yes_and_no_are_divided_apart_and_a_rare_yes_is_not_noisy_for_being_rare() -> None:
    rng = np.random.default_rng(2)
    n = 600
    answers = np.stack([rng.random(n) < 0.5, rng.random(n) < 0.04], axis=1).astype(np.int64)
    odds = np.where(answers == 1, 2.0, -3.0) + 0.5 * rng.normal(size=answers.shape) + [0.0, -1.5]
    wrong = [0, 1, 2]
    answers[wrong, 0] = 1 - answers[wrong, 0]
    assert (answers[:, 1] == 1).sum() < FEWEST_DIVIDED
    splits = divide_sets(odds, answers, np.zeros(n, dtype=bool), splitter="gmm", seed=0)
    p_clean = splits.p_clean(odds, answers)
    assert (p_clean[wrong, 0] < 0.5).all()
    assert np.median(p_clean[answers[:, 1] == 1, 1]) > 0.5
    assert splits.components.shape == (2, 2, 6)
    answers[4] = -1
    assert np.isnan(splits.p_clean(odds, answers)[4]).all()


def test_balanced_losses_do_not_hang_on_how_frequent_a_label_is() -> None:
    prior = np.array([0.5, 0.01])
    losses = balanced_losses(logit(prior)[None, :], np.array([[1, 1]]), prior)
    np.testing.assert_allclose(losses, np.log(2.0))


def test_an_llm_stays_unless_noisy_and_contradicted_whatever_people_say_of_the_sample() -> None:
    llm = np.tile([[1, 0]], (100, 1))
    probs = np.full((100, 2), [0.9, 0.05])
    p_clean = np.ones((100, 2))
    probs[0], p_clean[0] = [0.0002, 0.05], [0.1, 1.0]  # a noisy yes that the SLM denies
    probs[1], p_clean[1] = [0.0002, 0.05], [0.9, 1.0]  # the same, but clean
    probs[2], p_clean[2] = [0.9, 0.9999], [1.0, 0.1]  # a forgotten label
    llm[3] = -1
    human = np.full((100, 2), -1)
    human[4] = [0, 1]
    llm[10:40, 1] = 1  # the second label is known well enough to overrule
    yes = combine_sets(llm, None, probs, p_clean, human)
    assert yes[0, 0] < 0.5 <= yes[1, 0]
    assert yes[2, 1] > 0.5
    assert yes[4, 0] > 0.5 > yes[4, 1], "a person says otherwise, and that is not the machines' word"
    assert yes[3, 0] > 0.5 > yes[3, 1]
    assert ((yes >= 0) & (yes <= 1)).all()


def test_the_task_with_the_most_doubtful_label_comes_first_and_people_last() -> None:
    llm = np.zeros((60, 3), dtype=np.int64)
    llm[:, 0] = 1
    probs = np.tile([0.95, 0.05, 0.05], (60, 1))
    probs[7, 0] = 0.2
    probs[8] = [0.8, 0.2, 0.2]  # doubtful all over, but in nothing as doubtful as the one above
    human = np.full((60, 3), -1)
    human[9] = [0, 0, 1]
    decision = decide_sets(llm, probs, np.ones((60, 3)), human)
    assert decision.rank[7] == 1
    assert decision.rank[8] == 2
    assert decision.rank[9] == 60
    assert sorted(decision.rank.tolist()) == list(range(1, 61))
    assert decision.flag[7] == "inconsistent"
    assert decision.label_flag[7].tolist() == ["inconsistent", "clean", "clean"]
    assert decision.source[9] == "human"
    assert decision.label[9].tolist() == decision.prediction[9].tolist() == [0, 0, 1]
    np.testing.assert_allclose(decision.score, decision.label_score.prod(axis=1))
    np.testing.assert_allclose(decision.slm_score[0], 0.95**3)


def test_a_large_loss_that_harms_nothing_is_no_flag() -> None:
    llm, probs = np.tile([[1, 0]], (50, 1)), np.tile([0.97, 0.01], (50, 1))
    p_clean = np.ones((50, 2))
    p_clean[3, 1] = 0.0
    decision = decide_sets(llm, probs, p_clean, np.full((50, 2), -1))
    assert decision.label_score[3, 1] > 1 - DOUBT
    assert decision.flag[3] == "clean"


def test_a_required_set_is_never_empty_and_an_optional_one_may_be() -> None:
    llm, human = np.full((2, 2), -1), np.full((2, 2), -1)
    probs = np.array([[0.1, 0.3], [0.9, 0.1]])
    given = (llm, probs, np.full((2, 2), np.nan), human)
    assert decide_sets(*given, required=True).label.tolist() == [[0, 1], [1, 0]]
    free = decide_sets(*given)
    assert free.label.tolist() == [[0, 0], [1, 0]]
    assert set(free.flag.tolist()) == {"noisy"}


def test_what_does_not_fit_is_refused() -> None:
    good = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match="human has shape"):
        decide_sets(np.zeros((2, 2), dtype=int), good, good, np.zeros((2, 3), dtype=int))
    bad = np.array([[0.5, np.nan], [0.5, 0.5]])
    with pytest.raises(ValueError, match="1 of 2 rows of probs are not finite"):
        decide_sets(np.zeros((2, 2), dtype=int), bad, good, np.zeros((2, 2), dtype=int))
