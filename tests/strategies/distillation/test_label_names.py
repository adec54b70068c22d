"""Does nearness to a label's name count, whatever the name?"""

import numpy as np

from strategies.distillation.label_names import label_name_view, label_sentences, silent_names


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


def test_sentences_of_a_label() -> None:
    assert label_sentences("card_not_working", " ") == ("card not working", "This text is about card not working.")
    assert label_sentences("___") == ("___", "This text is about ___.")
    assert label_sentences("a", "the first")[-1] == "the first"


def test_a_silent_view_says_nothing() -> None:
    log_probs, model = silent_names(3, 8, 4)
    np.testing.assert_allclose(np.exp(log_probs), 0.25)
    np.testing.assert_allclose(np.exp(model.log_probs(np.ones((2, 8)))), 0.25)
