"""Do the nearest texts vote, and never a text on itself?"""

import numpy as np
import numpy.typing as npt
import pytest

from strategies.distillation import neighbours
from strategies.distillation.neighbours import NEIGHBOURS, neighbour_view, silent_neighbours

Floats = npt.NDArray[np.float64]


def groups(n_groups: int, each: int, seed: int = 0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Texts in small groups, and the group of each."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), each)
    texts = rng.normal(0, 1, (n_groups, 32))[group] + rng.normal(0, 0.3, (len(group), 32))
    return texts / np.linalg.norm(texts, axis=1, keepdims=True), group


def test_small_groups_on_the_wrong_side_of_any_boundary_are_found() -> None:
    texts, group = groups(40, 20)
    truth = np.random.default_rng(1).permutation(40)[group] % 2
    given = np.where(np.arange(800) % 10 == 0, 1 - truth, truth)
    log_probs, _ = neighbour_view(texts, given, 2, rng=np.random.default_rng(0))
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1.0)
    assert (log_probs.argmax(1) == truth).mean() > 0.99


def test_no_text_votes_on_itself_nor_on_its_copies() -> None:
    """All labels of one group are alike but for a text and its copy: they must not confirm each other."""
    texts, _ = groups(1, 12)
    texts = np.concatenate([texts, texts[:1]])
    given = np.zeros(13, dtype=np.int64)
    given[[0, 12]] = 1
    log_probs, model = neighbour_view(texts, given, 2, rng=np.random.default_rng(0))
    shares = np.log(model.shares)
    assert (log_probs[[0, 12], 1] < shares[1]).all()
    assert (log_probs[1:12, 1] < shares[1] + 0.5).all()
    assert model.log_probs(texts[:1])[0, 1] > log_probs[0, 1], "of a new text a copy in the corpus does tell something"


def test_a_text_without_a_label_is_scored_and_has_no_vote() -> None:
    texts, group = groups(2, 30)
    given = np.where(np.arange(60) % 3 == 0, -1, group)
    log_probs, model = neighbour_view(texts, given, 2, rng=np.random.default_rng(0))
    assert len(model.labels) == 40
    assert (log_probs.argmax(1) == group).all()


@pytest.mark.parametrize("n", [1, 2, NEIGHBOURS - 1])
def test_fewer_texts_than_neighbours(n: int) -> None:
    texts, _ = groups(1, n)
    log_probs, model = neighbour_view(texts, np.zeros(n, dtype=np.int64), 3, rng=np.random.default_rng(0))
    assert np.isfinite(log_probs).all()
    assert np.isfinite(model.log_probs(texts)).all()


def test_where_all_others_are_copies_the_shares_speak() -> None:
    texts = np.tile([[1.0, 0.0]], (20, 1))
    log_probs, model = neighbour_view(texts, np.arange(20) % 2, 2, rng=np.random.default_rng(0))
    np.testing.assert_allclose(np.exp(log_probs), np.tile(model.shares, (20, 1)), rtol=1e-6)


def test_of_very_many_texts_some_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "REFERENCES", 50)
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    texts, group = groups(2, 100)
    log_probs, model = neighbour_view(texts, group, 2, rng=np.random.default_rng(0))
    again, _ = neighbour_view(texts, group, 2, rng=np.random.default_rng(0))
    assert model.vectors.shape == (50, 32)
    assert (log_probs.argmax(1) == group).all()
    np.testing.assert_array_equal(log_probs, again)


def test_it_tells_how_far_it_is_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 40)
    texts, group = groups(2, 50)
    told: list[tuple[int, int]] = []
    neighbour_view(texts, group, 2, rng=np.random.default_rng(0), progress=lambda *at: told.append(at))
    assert told == [(40, 100), (80, 100), (100, 100)]

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        neighbour_view(texts, group, 2, rng=np.random.default_rng(0), progress=stop)


def test_a_silent_view_says_nothing() -> None:
    log_probs, model = silent_neighbours(3, 8, 4)
    np.testing.assert_allclose(np.exp(log_probs), 0.25)
    np.testing.assert_allclose(np.exp(model.log_probs(np.ones((2, 8)))), 0.25, rtol=1e-6)
