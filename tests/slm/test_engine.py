"""Does a whole distillation answer any corpus sanely, and does the saved model serve?"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coral_backend.exceptions import InputError, ModelFileError, TrainingError
from coral_backend.settings import Settings
from coral_backend.slm.engine import Corpus, Distilled, Model, SLMConfig, distil, explained
from coral_backend.slm.model_files import read_model, write_model
from tests.slm.tiny import make_encoder, quiet, reviews, tiny_config


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def corpus(texts: list[str], labels: list[int], k: int, human: list[int] | None = None) -> Corpus:
    people = np.full(len(texts), -1) if human is None else np.array(human)
    return Corpus(texts, np.array(labels, dtype=int), people, k)


def check(found: Distilled, what: Corpus) -> None:
    """Everything that ``Distilled`` promises."""
    n, k = len(what.texts), what.n_classes
    assert found.probs.shape == (n, k)
    assert np.isfinite(found.probs).all()
    np.testing.assert_allclose(found.probs.sum(1), 1.0)
    np.testing.assert_array_equal(np.isnan(found.losses), what.given < 0)
    np.testing.assert_array_equal(np.isnan(found.p_clean), what.llm_labels < 0)
    assert np.nanmin(found.losses) >= 0
    assert ((found.p_clean[what.llm_labels >= 0] >= 0) & (found.p_clean[what.llm_labels >= 0] <= 1)).all()
    assert found.features.shape[0] == n
    assert found.features.dtype == np.float32
    assert np.isfinite(found.features).all()
    json.dumps([found.history, found.gmm, found.seconds, found.notes], allow_nan=False)
    assert {"embedding", "lexical", "warm-up", "training", "scoring"} <= set(found.seconds)


def test_wrong_labels_stand_out_and_the_saved_model_agrees(encoder: str, tmp_path: Path) -> None:
    what = reviews(96, wrong=(4, 9, 30), abstained=(7, 60))
    config = tiny_config(encoder, warmup_epochs=4, epochs=2, learning_rate=3e-3)
    found = distil(what, config, progress=quiet, save_to=tmp_path / "m")
    check(found, what)
    truth = np.arange(96) % 2
    assert (found.probs.argmax(1) == truth).mean() > 0.95
    assert set(np.argsort(-np.nan_to_num(found.losses, nan=-1.0))[:3].tolist()) == {4, 9, 30}
    assert found.p_clean[[4, 9, 30]].max() < 0.5 < np.nanmedian(found.p_clean)
    model = Model.load(tmp_path / "m")
    probs, features = model.predict(what.texts)
    assert (probs.argmax(1) == truth).mean() > 0.95
    np.testing.assert_allclose(features, found.features, atol=0.05)
    assert model.p_clean(np.array([0.01, np.nan])).tolist()[0] > 0.5
    assert model.predict([])[0].shape == (0, 2)


def test_the_same_seed_gives_the_same_result(encoder: str, tmp_path: Path) -> None:
    first, second = (distil(reviews(), tiny_config(encoder), progress=quiet, save_to=tmp_path / "m") for _ in range(2))
    for name in ("probs", "losses", "p_clean", "features"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_people_are_trusted(encoder: str, tmp_path: Path) -> None:
    what = reviews()
    human = np.full(48, -1)
    human[3] = 1  # the LLM said 0
    found = distil(
        dataclasses.replace(what, human_labels=human), tiny_config(encoder), progress=quiet, save_to=tmp_path / "m"
    )
    assert found.losses[3] == pytest.approx(-np.log(found.probs[3, 1]), rel=1e-6)
    assert found.p_clean[3] <= 1.0


ODD = {
    "two samples": corpus(["good", "bad"], [1, 0], 2),
    "all texts equal": corpus(["good film"] * 20, [0, 1] * 10, 2),
    "empty texts": corpus([""] * 12, [0, 1, 2] * 4, 3),
    "long and broken texts": corpus(["x" * 100_000, "a\ud800b", "\x00", "good"] * 4, [0, 1] * 8, 2),
    "77 classes of 6": corpus(
        [f"the {chr(97 + i % 26)} {i % 77} film" for i in range(462)], [i % 77 for i in range(462)], 77
    ),
    "a class never used": corpus(["good", "bad", "film"] * 6, [0, 1, 1] * 6, 5),
    "labels are noise": corpus(
        [f"film {i}" for i in range(40)], np.random.default_rng(0).integers(0, 2, 40).tolist(), 2
    ),
    "mostly abstained": corpus([f"good {i}" for i in range(20)], [0, 1] + [-1] * 18, 2),
    "all abstained, some people": corpus(["good", "bad", "film"], [-1, -1, -1], 2, [1, 0, -1]),
    "one class": corpus([f"good {i}" for i in range(12)], [1] * 12, 3),
    "one label in the config": corpus(["good", "bad", "film"], [0, 0, 0], 1),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_corpora_get_a_sane_result(encoder: str, tmp_path: Path, name: str) -> None:
    found = distil(ODD[name], tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    if (ODD[name].llm_labels >= 0).any():
        check(found, ODD[name])
    assert np.isfinite(Model.load(tmp_path / "m").predict(["good", ""])[0]).all()


def test_one_class_is_said_and_accuses_nobody(encoder: str, tmp_path: Path) -> None:
    found = distil(ODD["one class"], tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    assert (found.probs.argmax(1) == 1).all()
    assert any("one class" in note for note in found.notes)


def test_an_slm_that_could_not_help_says_so(encoder: str, tmp_path: Path) -> None:
    found = distil(ODD["labels are noise"], tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    assert any("could not help" in note for note in found.notes)
    helped = distil(
        reviews(96, wrong=()),
        tiny_config(encoder, warmup_epochs=4, learning_rate=3e-3),
        progress=quiet,
        save_to=tmp_path / "m",
    )
    assert not any("could not help" in note for note in helped.notes)


def test_what_is_explained_does_not_hang_on_the_favourites_of_the_llm() -> None:
    """Three of four are called 0; a model that knows the labels, with equal shares put in their place, knows no less."""
    given = np.where(np.arange(80) % 4 == 0, 1, 0)
    sure = np.log(np.where(np.eye(2)[given] == 1, 0.95, 0.05))
    assert explained(sure, given) > 0.5
    assert explained(sure + np.array([0.0, 1.5]), given) == pytest.approx(explained(sure, given), abs=0.15)
    assert explained(np.full((80, 2), np.log(0.5)), given) == pytest.approx(0.0, abs=0.01)
    assert explained(-sure, given) < 0.0


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (corpus([], [], 2), "0 of 0 samples"),
        (corpus(["good"], [1], 2), "1 of 1 samples"),
        (corpus(["a", "b", "c"], [-1, -1, -1], 2), "0 of 3 samples .* at least 2"),
    ],
)
def test_too_little_to_learn_from(encoder: str, tmp_path: Path, what: Corpus, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        distil(what, tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "what",
    [
        Corpus(["a", "b"], np.array([0]), np.array([-1, -1]), 2),
        Corpus(["a", "b"], np.array([0, 5]), np.array([-1, -1]), 2),
        Corpus(["a", "b"], np.array([0, -2]), np.array([-1, -1]), 2),
        Corpus(["a", "b"], np.array([0.0, np.nan]), np.array([-1, -1]), 2),
    ],
)
def test_arrays_that_do_not_fit_are_refused(encoder: str, tmp_path: Path, what: Corpus) -> None:
    with pytest.raises(InputError):
        distil(what, tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")


def test_a_stopped_training_leaves_the_old_model(encoder: str, tmp_path: Path) -> None:
    distil(reviews(), tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    before = Model.load(tmp_path / "m").predict(["good"])[0]

    def stop(done: int, total: int, detail: Any) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        distil(reviews(), tiny_config(encoder, seed=3), progress=stop, save_to=tmp_path / "m")
    np.testing.assert_array_equal(Model.load(tmp_path / "m").predict(["good"])[0], before)


def test_progress_tells_the_stage_and_never_exceeds_its_total(encoder: str, tmp_path: Path) -> None:
    calls: list[tuple[int, int, dict[str, Any]]] = []
    distil(reviews(), tiny_config(encoder), progress=lambda *call: calls.append(call), save_to=tmp_path / "m")
    assert calls
    assert all(0 <= done <= total for done, total, _ in calls)
    assert calls[0][2]["stage"] == "embedding"


def test_a_damaged_model_is_refused(encoder: str, tmp_path: Path) -> None:
    distil(reviews(), tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    path = tmp_path / "m" / "networks.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match="truncated or altered"):
        Model.load(tmp_path / "m")


def test_a_model_from_before_there_were_neighbours_still_serves(encoder: str, tmp_path: Path) -> None:
    what = reviews(96)
    distil(what, tiny_config(encoder, warmup_epochs=4, learning_rate=3e-3), progress=quiet, save_to=tmp_path / "m")
    facts, tensors = read_model(tmp_path / "m")
    assert tensors.pop("neighbours")["vectors"].shape[0] == what.n_labelled
    tensors["blend"]["weights"] = tensors["blend"]["weights"][:-1]
    write_model(tmp_path / "old", facts, tensors)
    probs, _ = Model.load(tmp_path / "old").predict(what.texts)
    assert (probs.argmax(1) == np.arange(96) % 2).mean() > 0.95


def test_a_model_is_not_read_with_another_encoder(tmp_path: Path) -> None:
    own = make_encoder(tmp_path / "own")
    distil(reviews(), tiny_config(own), progress=quiet, save_to=tmp_path / "m")
    make_encoder(tmp_path / "own", intermediate_size=128)
    with pytest.raises(ModelFileError, match="not the one"):
        Model.load(tmp_path / "m")


def test_settings_reach_the_config() -> None:
    settings = Settings.load({}, epochs=7, warmup_epochs=2, p_threshold=0.6, max_length=64, seed=5, slm_model="x")
    config = SLMConfig.from_settings(settings)
    assert (config.model, config.epochs, config.warmup_epochs) == ("x", 7, 2)
    assert (config.p_threshold, config.max_length, config.seed) == (0.6, 64, 5)


def test_wide_encoders_learn_more_slowly_and_small_corpora_in_smaller_batches() -> None:
    config = SLMConfig()
    assert config.plan(10_000, 768).learning_rate == pytest.approx(config.learning_rate / 2)
    assert config.plan(10_000, 384).batch_size > config.plan(500, 384).batch_size >= 8
    assert config.plan(2, 384).n_folds == 2


def test_the_real_encoder_finds_wrong_labels(tmp_path: Path) -> None:
    """MiniLM on a hundred messages about four topics, five labels wrong."""
    topics = [
        ["my card was stolen", "the card has not arrived", "freeze my card please", "card number is blocked"],
        ["what is the exchange rate", "rate for euros was bad", "currency conversion fee", "exchange dollars to yen"],
        ["how do I change my address", "update my phone number", "edit my profile name", "my email has changed"],
        [
            "transfer to my friend failed",
            "money did not reach the account",
            "the transfer is pending",
            "cancel a transfer",
        ],
    ]
    ends = ["", " today", " thanks", ", urgent", " again", "?"]
    texts = [t + e for topic in topics for t in topic for e in ends]
    truth = np.repeat(np.arange(4), 24)
    labels = truth.copy()
    wrong = [3, 20, 40, 61, 90]
    labels[wrong] = (labels[wrong] + 1) % 4
    what = Corpus(texts, labels, np.full(96, -1), 4)
    found = distil(what, SLMConfig(max_length=32, epochs=1), progress=quiet, save_to=tmp_path / "m")
    check(found, what)
    assert len(set(np.argsort(-found.losses)[:8].tolist()) & set(wrong)) >= 4
    assert (found.probs.argmax(1) == truth).mean() > 0.9
