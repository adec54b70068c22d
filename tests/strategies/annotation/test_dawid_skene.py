"""Does the estimate find who is right, from agreement alone?"""

from __future__ import annotations

import numpy as np
import pytest

from strategies.annotation.dawid_skene import PRIOR_ACCURACY, UNASKED, Ints, estimate, uninformed


def votes_of(truth: Ints, accuracies: list[float], n_labels: int, seed: int) -> Ints:
    """Return votes of annotators that err at random, shape (N, A)."""
    rng = np.random.default_rng(seed)
    columns = []
    for accuracy in accuracies:
        wrong = (truth + rng.integers(1, n_labels, len(truth))) % n_labels
        columns.append(np.where(rng.random(len(truth)) < accuracy, truth, wrong))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("n_labels", [2, 5])
def test_accuracies_are_found_without_gold(n_labels: int) -> None:
    truth = np.arange(2000) % n_labels
    given = [0.95, 0.8, 0.6]
    known = estimate(votes_of(truth, given, n_labels, seed=1), n_labels)
    assert known.accuracy == pytest.approx(given, abs=0.05)


def test_the_posterior_beats_the_majority() -> None:
    truth = np.arange(3000) % 3
    votes = votes_of(truth, [0.95, 0.5, 0.5], 3, seed=2)
    right = (estimate(votes, 3).posterior(votes).argmax(axis=1) == truth).mean()
    majority = (uninformed(3, 3).posterior(votes).argmax(axis=1) == truth).mean()
    assert right > majority + 0.1
    assert right > 0.9


def test_rows_are_probabilities_and_the_order_of_samples_does_not_matter() -> None:
    truth = np.arange(300) % 4
    votes = votes_of(truth, [0.9, 0.7, 0.7], 4, seed=3)
    votes[::7, 1] = UNASKED
    posterior = estimate(votes, 4).posterior(votes)
    assert posterior.sum(axis=1) == pytest.approx(1.0)
    turned = estimate(votes[::-1], 4).posterior(votes)
    assert turned == pytest.approx(posterior, abs=1e-6)


def test_three_who_agree_are_surer_than_two_of_three() -> None:
    known = uninformed(3, 3)
    chances = known.posterior(np.array([[0, 0, 0], [0, 0, 1], [0, UNASKED, UNASKED], [UNASKED] * 3]))
    assert chances[0, 0] > chances[1, 0] > 0.5
    assert chances[2, 0] == pytest.approx(PRIOR_ACCURACY)
    assert chances[3] == pytest.approx(1 / 3)


def test_two_annotators_and_one_label_give_no_error() -> None:
    assert estimate(np.zeros((5, 2), dtype=np.int64), 1).posterior(np.zeros((5, 2), dtype=np.int64)).shape == (5, 1)
    assert estimate(np.full((3, 2), UNASKED), 2).accuracy == pytest.approx(PRIOR_ACCURACY)


def test_a_bias_of_one_annotator_is_seen() -> None:
    """It says 0 whatever is true half of the time; its 1 is worth more than its 0."""
    rng = np.random.default_rng(4)
    truth = np.arange(3000) % 2
    votes = votes_of(truth, [0.9, 0.9, 1.0], 2, seed=5)
    votes[:, 2] = np.where(rng.random(3000) < 0.5, 0, truth)
    confusion = estimate(votes, 2).confusion[2]
    assert confusion[0, 0] > 0.9
    assert confusion[1, 1] == pytest.approx(0.5, abs=0.08)
