"""Does a distillation of sets answer any corpus sanely, find wrong labels in them, and does the saved model serve?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coral_backend.exceptions import InputError, ModelFileError, TrainingError
from coral_backend.slm.engine import Model, distil
from coral_backend.slm.set_model import SetModel
from coral_backend.slm.sets import DistilledSets, SetCorpus, distil_sets, micro_f1
from coral_backend.types import Ints
from tests.slm.tiny import make_encoder, quiet, reviews, tiny_config

TOPICS = (("good", "fine", "great"), ("bad", "poor", "awful"), ("film", "plot", "very"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def sets(n: int = 90, seed: int = 0) -> tuple[list[str], Ints]:
    """Texts whose words say which of three labels they have."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 3)) < [0.5, 0.5, 0.3]).astype(np.int64)
    texts = []
    for i, row in enumerate(truth):
        words = [str(rng.choice(TOPICS[k])) for k in np.flatnonzero(row).tolist() * 2]
        texts.append(" ".join(["the", *words, str(i)]))
    return texts, truth


def nobody(n: int, k: int) -> Ints:
    return np.full((n, k), -1)


def check(found: DistilledSets, what: SetCorpus) -> None:
    n, k = len(what.texts), what.n_labels
    assert found.probs.shape == found.losses.shape == found.p_clean.shape == (n, k)
    assert ((found.probs >= 0) & (found.probs <= 1)).all()
    np.testing.assert_array_equal(np.isnan(found.losses), what.given < 0)
    np.testing.assert_array_equal(np.isnan(found.p_clean), what.llm < 0)
    inside = found.p_clean[what.llm >= 0]
    assert ((inside >= 0) & (inside <= 1)).all()
    assert np.isfinite(found.features).all()
    json.dumps([found.history, found.seconds, found.notes], allow_nan=False)


def test_wrong_answers_stand_out_and_the_saved_model_agrees(encoder: str, tmp_path: Path) -> None:
    texts, truth = sets(120)
    said = truth.copy()
    wrong = [(4, 0), (9, 1), (30, 2), (55, 0)]
    for i, k in wrong:
        said[i, k] = 1 - said[i, k]
    said[7] = -1
    what = SetCorpus(texts, said, nobody(120, 3))
    config = tiny_config(encoder, warmup_epochs=3, epochs=2, learning_rate=3e-3)
    found = distil_sets(what, config, progress=quiet, save_to=tmp_path / "m")
    check(found, what)
    assert micro_f1((found.probs >= 0.5).astype(int), truth) > 0.9
    worst = np.argsort(-np.nan_to_num(found.losses, nan=-1.0).ravel())[:8].tolist()
    assert {i * 3 + k for i, k in wrong} <= set(worst)
    model = SetModel.load(tmp_path / "m")
    probs, features = model.predict(texts)
    assert micro_f1((probs >= 0.5).astype(int), truth) > 0.9
    np.testing.assert_allclose(features, found.features, atol=0.05)
    assert model.predict([])[0].shape == (0, 3)
    p_clean = model.p_clean(probs[:2], np.array([[1, 0, 1], [-1, -1, -1]]))
    assert np.isfinite(p_clean[0]).all()
    assert np.isnan(p_clean[1]).all()
    with pytest.raises(ModelFileError):
        Model.load(tmp_path / "m")


def test_the_same_seed_gives_the_same_result(encoder: str, tmp_path: Path) -> None:
    texts, truth = sets(40)
    what = SetCorpus(texts, truth, nobody(40, 3))
    one, two = (distil_sets(what, tiny_config(encoder), progress=quiet, save_to=tmp_path / "m") for _ in range(2))
    for name in ("probs", "losses", "p_clean", "features"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_people_are_learned_from(encoder: str, tmp_path: Path) -> None:
    texts, truth = sets(40)
    human = nobody(40, 3)
    human[:20] = truth[:20]
    what = SetCorpus(texts, nobody(40, 3), human)
    found = distil_sets(what, tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    check(found, what)
    assert any("20 of 40 samples have no set" in note for note in found.notes)


@pytest.mark.parametrize("name", ["all empty", "all full", "one label", "two samples", "empty texts", "a rare label"])
def test_odd_corpora_are_no_error(name: str, encoder: str, tmp_path: Path) -> None:
    texts, truth = sets(24)
    if name == "all empty":
        truth = np.zeros_like(truth)
    elif name == "all full":
        truth = np.ones_like(truth)
    elif name == "one label":
        truth = truth[:, :1]
    elif name == "two samples":
        texts, truth = texts[:2], truth[:2]
    elif name == "empty texts":
        texts = [""] * 24
    else:
        truth[:, 2] = 0
        truth[3, 2] = 1
    what = SetCorpus(texts, truth, nobody(*truth.shape))
    check(distil_sets(what, tiny_config(encoder), progress=quiet, save_to=tmp_path / "m"), what)


def test_too_little_and_misfits_are_refused(encoder: str, tmp_path: Path) -> None:
    texts, truth = sets(4)
    one = nobody(4, 3)
    one[0] = truth[0]
    with pytest.raises(TrainingError, match="1 of 4 samples have a set"):
        distil_sets(SetCorpus(texts, one, nobody(4, 3)), tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    partly = truth.copy()
    partly[1, 1] = -1
    for wrong, says in ((partly, "given in part"), (truth[:3], "must be"), (truth + 5, "other values")):
        with pytest.raises(InputError, match=says):
            SetCorpus(texts, wrong, nobody(4, 3)).check()
    with pytest.raises(InputError, match="label_sentences has 1 entries"):
        SetCorpus(texts, truth, nobody(4, 3), [["a"]]).check()


def test_a_model_of_classes_is_none_of_sets(encoder: str, tmp_path: Path) -> None:
    distil(reviews(16), tiny_config(encoder), progress=quiet, save_to=tmp_path / "m")
    with pytest.raises(ModelFileError, match="no model of ours for sets"):
        SetModel.load(tmp_path / "m")
