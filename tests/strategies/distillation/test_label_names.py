"""Does nearness to a label's name count, whatever the name?"""

import numpy as np

from strategies.distillation.label_names import label_name_view, label_sentences, nearest_texts, silent_names


def test_the_nearest_label_wins_although_one_name_is_near_to_everything() -> None:
    rng = np.random.default_rng(0)
    axes = np.eye(4)
    hub = axes[3]
    texts = np.stack([axes[i % 3] + 1.5 * hub for i in range(90)]) + rng.normal(0, 0.1, (90, 4))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    vectors = [axes[[0]], np.stack([axes[1], axes[1]]), (axes[[2]] + 3 * hub) / np.sqrt(10)]
    assert (texts @ vectors[2][0] > texts @ axes[0]).mean() > 0.9, "by the plain cosine the hub would take all"
    log_probs, model = label_name_view(texts, vectors)
    assert (log_probs.argmax(1) == np.arange(90) % 3).mean() > 0.9
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1.0)
    np.testing.assert_allclose(model.log_probs(texts[:5]), log_probs[:5], atol=1e-6)


def test_a_label_moves_to_the_texts_that_its_name_only_hints_at() -> None:
    """The names differ along an axis that hardly tells the two groups apart; what does, no name says."""
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    side = np.where(truth == 1, 1.0, -1.0)
    texts = np.stack([0.15 * side + rng.normal(0, 0.3, 400), side + rng.normal(0, 0.3, 400), np.full(400, 2.0)], axis=1)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    names = [np.array([[-1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.0]])]
    by_name = (texts @ np.concatenate(names).T).argmax(1)
    log_probs, model = label_name_view(texts, names)
    assert (by_name == truth).mean() < 0.8
    assert (log_probs.argmax(1) == truth).mean() > 0.95
    np.testing.assert_allclose(model.log_probs(texts[:7]), log_probs[:7], atol=1e-5)


def test_names_that_are_all_the_same_say_nothing() -> None:
    texts = np.eye(6)[np.arange(60) % 6]
    log_probs, _ = label_name_view(texts, [np.ones((1, 6)) / np.sqrt(6)] * 3)
    np.testing.assert_allclose(np.exp(log_probs), 1 / 3, atol=1e-6)


def test_one_text_has_no_middle_to_lie_off() -> None:
    np.testing.assert_array_equal(nearest_texts(np.array([[1.0, 0.0]]), np.array([[0.7, 0.3]])), np.zeros((2, 2)))
    log_probs, _ = label_name_view(np.array([[1.0, 0.0]]), [np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])])
    assert np.isfinite(log_probs).all()


def test_sentences_of_a_label() -> None:
    assert label_sentences("card_not_working", " ") == ("card not working", "This text is about card not working.")
    assert label_sentences("___") == ("___", "This text is about ___.")
    assert label_sentences("a", "the first")[-1] == "the first"


def test_a_silent_view_says_nothing() -> None:
    log_probs, model = silent_names(3, 8, 4)
    np.testing.assert_allclose(np.exp(log_probs), 0.25)
    np.testing.assert_allclose(np.exp(model.log_probs(np.ones((2, 8)))), 0.25)
