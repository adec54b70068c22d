"""Is the loop the paper's, is it out of sample, and can it be stopped and repeated?"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coral_backend.slm.encoder import Encoder
from coral_backend.slm.network import TextInputs, TextNetwork
from coral_backend.slm.targets import spared
from coral_backend.slm.training import (
    Labels,
    Ticker,
    Trained,
    batches,
    divide,
    given_losses,
    labelled_and_not,
    make_folds,
    paired,
    train,
)
from tests.slm.tiny import make_encoder, quiet, reviews, tiny_config

Array: TypeAlias = npt.NDArray[Any]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(make_encoder(tmp_path_factory.mktemp("encoder")), 16)


def run(
    encoder: Encoder, labels: Array, folds: Array, trusted: Array | None = None, **changes: Any
) -> Trained[TextNetwork]:
    corpus = reviews(len(labels))
    halves = encoder.halves(1)
    config = tiny_config("tiny", **changes)
    known = np.zeros(len(labels), dtype=bool) if trusted is None else trusted
    return train(
        TextInputs(encoder, halves, corpus.texts),
        lambda: TextNetwork(halves, 2, 0.1),
        Labels(labels, known, folds, 2),
        config.plan(len(labels), encoder.width),
        Ticker(quiet, 1),
    )


def test_a_sample_is_scored_by_a_network_that_never_saw_its_label(encoder: Encoder) -> None:
    """With plain epochs only, swapping a label in fold 0 changes no score in fold 0."""
    labels = reviews().llm_labels
    folds = np.arange(48) % 2
    swapped = labels.copy()
    swapped[0] = 1 - swapped[0]
    before, after = (run(encoder, y, folds, warmup_epochs=2, epochs=0).log_probs for y in (labels, swapped))
    np.testing.assert_allclose(before[folds == 0], after[folds == 0], atol=1e-6)
    assert np.abs(before[folds == 1] - after[folds == 1]).max() > 1e-6


def test_the_same_seed_gives_the_same_result(encoder: Encoder) -> None:
    labels, folds = reviews().llm_labels, np.arange(48) % 2
    first, second = (run(encoder, labels, folds, epochs=2) for _ in range(2))
    np.testing.assert_array_equal(first.log_probs, second.log_probs)
    assert [h["loss"] for h in first.history] == [h["loss"] for h in second.history]
    other = run(encoder, labels, folds, epochs=2, seed=1)
    assert not np.array_equal(first.log_probs, other.log_probs)


def test_warm_up_learns_from_all_labels_and_then_the_mixture_divides(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the mixture calls noisy and nothing spares is learned from as a text only."""
    monkeypatch.setattr("coral_backend.slm.targets.spared", lambda p_clean, *_: p_clean)
    labels = reviews().llm_labels
    trained = run(encoder, labels, np.arange(48) // 2 % 2, warmup_epochs=6, epochs=2, learning_rate=3e-3)
    stages = [h["stage"] for h in trained.history]
    assert stages[:6] == ["warm-up"] * 6
    assert set(stages[6:]) == {"training"}
    assert all(h["clean"] == 47 and h["mask_rate"] is None and "gmm" not in h for h in trained.history[:6])
    assert trained.history[6]["clean"] < 47
    assert trained.history[6]["gmm"]["means"][0] < trained.history[6]["gmm"]["means"][1]
    assert 0.0 <= trained.history[6]["mask_rate"] <= 1.0
    assert trained.history[0]["loss"] > trained.history[5]["loss"]


def test_it_stops_when_the_labels_no_longer_change(encoder: Encoder) -> None:
    labels = reviews(wrong=(), abstained=()).llm_labels
    trained = run(encoder, labels, np.arange(48) // 2 % 2, warmup_epochs=6, epochs=40, learning_rate=3e-3)
    assert len(trained.history) < 46
    assert trained.history[-1]["changed"] == 0.0


def test_progress_may_end_the_training(encoder: Encoder) -> None:
    def stop(done: int, total: int, detail: Any) -> None:
        raise InterruptedError

    corpus, halves = reviews(), encoder.halves(1)
    labels = Labels(corpus.llm_labels, corpus.trusted, np.arange(48) % 2, 2)
    plan = tiny_config("tiny").plan(48, encoder.width)
    with pytest.raises(InterruptedError):
        train(
            TextInputs(encoder, halves, corpus.texts),
            lambda: TextNetwork(halves, 2, 0.1),
            labels,
            plan,
            Ticker(stop, 100),
        )


def test_the_ticker_counts_to_its_total_and_is_not_called_for_each_step() -> None:
    calls: list[tuple[int, int, dict[str, Any]]] = []
    ticker = Ticker(lambda *call: calls.append(call), 10, every=1e9)
    for _ in range(20):
        ticker.tick(1, loss=0.5)
    assert ticker.done == 10
    assert calls == [(1, 10, {"loss": 0.5})]


@given(
    st.lists(st.integers(-1, 4), min_size=2, max_size=60),
    st.integers(2, 10),
    st.integers(0, 3),
)
def test_folds_are_even_in_every_class(labels: list[int], n_folds: int, seed: int) -> None:
    y = np.array(labels)
    folds = make_folds(y, n_folds, np.random.default_rng(seed))
    sizes = np.bincount(folds, minlength=n_folds)
    assert np.ptp(sizes) <= 1
    for k in set(labels):
        assert np.ptp(np.bincount(folds[y == k], minlength=n_folds)) <= 1


def test_losses_are_nan_where_nothing_was_given() -> None:
    log_probs = np.log([[0.25, 0.75], [0.5, 0.5]])
    losses = given_losses(log_probs, np.array([1, -1]))
    assert losses[0] == pytest.approx(-np.log(0.75))
    assert np.isnan(losses[1])


def test_trusted_labels_are_always_clean_and_missing_ones_never(encoder: Encoder) -> None:
    losses = np.array([0.1, 0.2, 0.1, 3.0, 3.1, 3.2, np.nan])
    trusted = np.array([0, 0, 0, 0, 0, 1, 0], dtype=bool)
    plan = tiny_config("tiny").plan(7, encoder.width)
    p_clean, split = divide(losses, trusted, plan)
    assert split is not None
    assert p_clean[:5] == pytest.approx([1, 1, 1, 0, 0], abs=1e-3)
    assert p_clean[5] == 1.0
    assert np.isnan(p_clean[6])
    assert divide(np.array([0.5, np.nan]), np.zeros(2, dtype=bool), plan)[1] is None


def test_a_hard_label_is_learned_from_unless_it_is_likely_wrong() -> None:
    """The last twelve labels lie in the noisy heap; of six the networks are merely unsure, the other six they contradict surely."""
    labels = np.arange(60) % 2
    other = 1 - labels
    sure = np.where(np.eye(2)[labels] > 0, 0.999, 0.001)
    sure[48:54] = np.where(np.eye(2)[labels[48:54]] > 0, 0.45, 0.55)
    sure[54:] = np.where(np.eye(2)[other[54:]] > 0, 0.999, 0.001)
    p_clean = np.where(np.arange(60) < 48, 1.0, 0.0)
    nobody = np.zeros(60, dtype=bool)
    found = spared(p_clean, labels, nobody, np.log(sure), 0.5)
    np.testing.assert_array_equal(found, np.where(np.arange(60) < 54, 1.0, 0.0))
    assert np.isnan(spared(np.full(60, np.nan), np.full(60, -1), nobody, np.log(sure), 0.5)).all()


def test_no_class_loses_all_its_labels() -> None:
    given_labels = np.array([0, 0, 0, 1, 1, -1])
    p_clean = np.array([0.9, 0.9, 0.2, 0.1, 0.3, np.nan])
    labelled, unlabelled = labelled_and_not(p_clean, given_labels, 0.5)
    assert labelled.tolist() == [0, 1, 4]
    assert unlabelled.tolist() == [2, 3, 5]


def test_batches_hold_every_row_once() -> None:
    rows = np.arange(100, 205)
    cut = batches(rows, [i % 7 + 1 for i in range(300)], 10, np.random.default_rng(0))
    assert sorted(np.concatenate(cut).tolist()) == rows.tolist()
    assert max(len(batch) for batch in cut) <= 10


def test_unlabelled_batches_are_dealt_out_among_the_labelled() -> None:
    lb = [np.array([i]) for i in range(6)]
    ulb = [np.array([10]), np.array([11])]
    assert [(x.tolist(), u.tolist()) for x, u in paired(lb, ulb)] == [
        ([0], [10]), ([1], []), ([2], []), ([3], [11]), ([4], []), ([5], []),
    ]  # fmt: skip
    assert all(len(u) == 0 for _, u in paired(lb, []))


def test_hidden_states_are_the_same_kept_or_computed_anew(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    halves, texts = encoder.halves(1), reviews().texts
    kept = TextInputs(encoder, halves, texts)
    monkeypatch.setattr("coral_backend.slm.network.CACHE_BYTES", 0)
    anew = TextInputs(encoder, halves, texts)
    assert kept.kept is not None
    assert anew.kept is None
    (one, mask_one), (other, mask_other) = kept.batch([3, 20]), anew.batch([3, 20])
    assert torch.equal(mask_one, mask_other)
    torch.testing.assert_close(one[mask_one].float(), other[mask_other].float(), atol=0.02, rtol=0.02)
