"""Does the lexical view learn from words, out of sample, whatever the texts?"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from strategies.distillation.lexical import LexicalModel, hashed, leave_one_out, lexical_view, weigh

Array: TypeAlias = npt.NDArray[Any]

RNG = np.random.default_rng


def test_it_learns_words_it_sees_often() -> None:
    texts = [f"{'good fine' if i % 2 else 'bad poor'} text {i}" for i in range(40)]
    given = np.arange(40) % 2
    log_probs, model = lexical_view(texts, given, 2, rng=RNG(0))
    assert (log_probs.argmax(1) == given).all()
    assert model.log_probs(["a fine good one", "poor and bad"]).argmax(1).tolist() == [1, 0]
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1.0)


def random_texts(n: int) -> tuple[list[str], Array]:
    rng = RNG(0)
    return [f"w{rng.integers(9)} w{rng.integers(9)} w{rng.integers(9)}" for _ in range(n)], rng.integers(0, 2, n)


def test_leaving_one_out_is_the_same_as_learning_without_it() -> None:
    texts, given = random_texts(40)
    _, _, features = weigh(hashed(texts))
    targets = np.eye(2, dtype=np.float32)[given]
    _, left_out = leave_one_out(features, targets)
    for i in (0, 7, 39):
        others = np.delete(np.arange(40), i)
        dual, _ = leave_one_out(features[others], targets[others])
        expected = (features[[i]] @ features[others].T) @ dual
        np.testing.assert_allclose(left_out[i], np.asarray(expected).ravel(), atol=1e-4)


def test_a_large_corpus_is_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{'good fine' if i % 2 else 'bad poor'} text {i}" for i in range(40)]
    monkeypatch.setattr("strategies.distillation.lexical.BLOCK", 12)
    told: list[tuple[int, int]] = []
    log_probs, model = lexical_view(texts, np.arange(40) % 2, 2, rng=RNG(0), progress=lambda *c: told.append(c))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (log_probs.argmax(1) == np.arange(40) % 2).all()
    assert model.log_probs(["a fine good one"]).argmax() == 1


@pytest.mark.parametrize("texts", [[""] * 10, ["same"] * 10, ["\ud800\x00", "x" * 100_000] * 5])
def test_odd_texts_give_finite_answers(texts: list[str]) -> None:
    log_probs, model = lexical_view(texts, np.arange(10) % 3, 4, rng=RNG(0))
    assert np.isfinite(log_probs).all()
    assert np.isfinite(model.log_probs(["", "new"])).all()


def test_classes_never_given_and_abstentions() -> None:
    texts = [f"alpha {i}" if i % 2 else f"beta {i}" for i in range(20)]
    given = np.where(np.arange(20) % 2, 3, 1)
    given[:4] = -1
    log_probs, _ = lexical_view(texts, given, 5, rng=RNG(0))
    assert set(log_probs.argmax(1).tolist()) == {1, 3}
    one_class, _ = lexical_view(texts, np.where(given > 0, 3, -1), 5, rng=RNG(0))
    assert set(one_class.argmax(1).tolist()) == {3}


def test_arrays_are_all_there_is_to_save() -> None:
    _, model = lexical_view(["one", "two", "one two", "two one"], np.array([0, 1, 0, 1]), 2, rng=RNG(0))
    copy = LexicalModel(**{name: np.array(getattr(model, name)) for name in ("columns", "idf", "weights", "bias")})
    np.testing.assert_array_equal(copy.log_probs(["one"]), model.log_probs(["one"]))
