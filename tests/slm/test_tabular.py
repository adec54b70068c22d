"""Does the SLM learn from rows as it does from texts, and does its model serve?"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from coral_backend.exceptions import ModelFileError, TrainingError
from coral_backend.slm.engine import Corpus, Model, SLMConfig, distil
from coral_backend.slm.families import FAMILIES
from coral_backend.slm.tabular import plan_for
from coral_backend.slm.tabular_model import RowInputs
from strategies.distillation import forest
from strategies.tasks import base
from tests.slm.tiny import quiet

QUICK = SLMConfig(epochs=1)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "TREES", 30)


def patients(n: int = 160, wrong: tuple[int, ...] = (2, 5, 11, 40)) -> tuple[Corpus, npt.NDArray[Any]]:
    """Rows of which the old and the smokers are ill; some values are missing, some labels wrong, two abstained from."""
    rng = np.random.default_rng(0)
    age, smokes = rng.integers(18, 90, n), rng.random(n) < 0.4
    truth = ((age > 60) | smokes).astype(int)
    rows = [
        {
            "age": int(age[i]),
            "smokes": "yes" if smokes[i] else "no",
            "ward": f"w{i % 5}",
            "bmi": None if i % 7 == 0 else 25.5,
        }
        for i in range(n)
    ]
    labels = truth.copy()
    labels[list(wrong)] = 1 - labels[list(wrong)]
    labels[[20, 21]] = -1
    texts = [json.dumps(row) for row in rows]
    return Corpus(texts, labels, np.full(n, -1), 2, family="tabular"), truth


def test_the_families_are_those_that_strategies_may_name() -> None:
    assert tuple(FAMILIES) == base.FAMILIES


def test_wrong_labels_stand_out_and_the_saved_model_agrees(tmp_path: Path) -> None:
    corpus, truth = patients()
    found = distil(corpus, SLMConfig(), progress=quiet, save_to=tmp_path / "m")
    assert (found.probs.argmax(axis=1) == truth).mean() > 0.95
    assert set(np.argsort(-np.nan_to_num(found.losses, nan=-1.0))[:6].tolist()) >= {2, 5, 11, 40}
    assert found.p_clean[[2, 5, 11, 40]].max() < 0.5 < np.nanmedian(found.p_clean)
    np.testing.assert_allclose(found.probs.sum(axis=1), 1.0)
    np.testing.assert_array_equal(np.isnan(found.losses), corpus.llm_labels < 0)
    assert found.features.shape == (160, 128)
    assert {"columns", "additive", "forest", "warm-up", "training", "scoring"} <= set(found.seconds)
    json.dumps([found.history, found.gmm, found.seconds, found.notes], allow_nan=False)
    model = Model.load(tmp_path / "m")
    probs, features = model.predict(corpus.texts)
    assert (probs.argmax(axis=1) == truth).mean() > 0.95
    np.testing.assert_allclose(features, found.features, atol=0.02)
    assert model.p_clean(np.array([0.01, np.nan])).tolist()[0] > 0.5
    assert model.predict([])[0].shape == (0, 2)
    assert {path.suffix for path in (tmp_path / "m").iterdir()} == {".json", ".safetensors"}


def test_new_rows_may_lack_columns_and_have_others(tmp_path: Path) -> None:
    corpus, _ = patients()
    distil(corpus, QUICK, progress=quiet, save_to=tmp_path / "m")
    model = Model.load(tmp_path / "m")
    new = ['{"age": 85}', '{"age": "85", "new": 3}', '{"smokes": ["?"], "age": true}', "{}", "no row", '{"age": 1e300}']
    probs, features = model.predict(new)
    assert np.isfinite(probs).all()
    assert np.isfinite(features).all()
    np.testing.assert_allclose(probs[0], probs[1], atol=1e-6)
    alone = np.concatenate([model.predict([text])[0] for text in new])
    np.testing.assert_allclose(alone, probs, atol=1e-5)


def test_the_same_seed_gives_the_same_result_and_restores_the_threads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    corpus, _ = patients(60, wrong=(1, 2))
    first, second = (distil(corpus, QUICK, progress=quiet, save_to=tmp_path / "m") for _ in range(2))
    for name in ("probs", "losses", "p_clean", "features"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert torch.get_num_threads() == threads


def test_declared_columns_are_the_only_ones(tmp_path: Path) -> None:
    corpus, _ = patients()
    corpus = dataclasses.replace(corpus, columns={"age": "numeric", "smokes": "", "weight": ""})
    found = distil(corpus, QUICK, progress=quiet, save_to=tmp_path / "m")
    assert found.notes[0].startswith("No row has the column 'weight'")
    assert "left out: 'ward', 'bmi'" in found.notes[1]
    facts = json.loads((tmp_path / "m" / "model.json").read_text())
    assert (facts["family"], [column["name"] for column in facts["columns"]]) == ("tabular", ["age", "smokes"])


ODD = {
    "all rows equal": (['{"a": 1}'] * 20, [0, 1] * 10, 2),
    "two rows": (['{"a": 1}', '{"a": 2}'], [0, 1], 2),
    "no columns at all": (["{}"] * 12, [0, 1, 2] * 4, 3),
    "nothing but missing values": (['{"a": null}'] * 12, [0, 1] * 6, 2),
    "a class never used": ([f'{{"a": {i}}}' for i in range(18)], [0, 1, 1] * 6, 5),
    "one class": ([f'{{"a": "{i}"}}' for i in range(12)], [1] * 12, 3),
    "77 classes": ([f'{{"a": {i % 77}, "b": "{i}"}}' for i in range(231)], [i % 77 for i in range(231)], 77),
    "mostly abstained": ([f'{{"a": {i}}}' for i in range(20)], [0, 1] + [-1] * 18, 2),
    "no rows but texts": (["good", "bad"] * 6, [0, 1] * 6, 2),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tables_get_a_sane_result(tmp_path: Path, name: str) -> None:
    texts, labels, k = ODD[name]
    corpus = Corpus(texts, np.array(labels), np.full(len(labels), -1), k, family="tabular")
    found = distil(corpus, QUICK, progress=quiet, save_to=tmp_path / "m")
    assert np.isfinite(found.probs).all()
    assert np.isfinite(Model.load(tmp_path / "m").predict([*texts[:3], '{"z": 1}'])[0]).all()


def test_without_labels_it_says_who_gives_some(tmp_path: Path) -> None:
    corpus = Corpus(['{"a": 1}'] * 3, np.full(3, -1), np.full(3, -1), 2, family="tabular")
    with pytest.raises(TrainingError, match=r"0 of 3 .* the embedded annotator labels none"):
        distil(corpus, QUICK, progress=quiet, save_to=tmp_path / "m")


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    distil(patients(60, wrong=())[0], QUICK, progress=quiet, save_to=tmp_path / "m")
    path = tmp_path / "m" / "forest.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match="truncated or altered"):
        Model.load(tmp_path / "m")


def test_values_of_other_rows_are_put_in_column_by_column() -> None:
    x = np.stack([np.arange(50), np.arange(50), 100 + np.arange(50)], axis=1).astype(np.float32)
    inputs = RowInputs(x, np.array([0, 0, 1]))
    batch = inputs.batch(list(range(50)))
    assert inputs.augmented(batch, 0.0, torch.Generator()) is batch
    (changed,) = inputs.augmented(batch, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(changed[:, 0], changed[:, 1]), "the features of a column go together"
    differs = (changed != batch[0])[:, [0, 2]].float().mean(dim=0)
    assert ((differs > 0.25) & (differs < 0.75)).all()
    assert set(changed[:, 2].tolist()) <= set(x[:, 2].tolist())


def test_small_tables_are_passed_more_often_and_in_smaller_batches() -> None:
    small, large = plan_for(SLMConfig(), 100), plan_for(SLMConfig(), 50_000)
    assert (small.passes, large.passes) == (4, 1)
    assert small.batch_size < large.batch_size
    assert plan_for(SLMConfig(), 2).n_folds == 2
