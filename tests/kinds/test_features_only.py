"""When does a retraining leave the networks as they are, and what does it do when it cannot?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coral_backend import corpus_arrays, kept_views
from coral_backend.kinds import Work
from coral_backend.kinds.single import SingleLabel
from coral_backend.labelstudio.control_tags import config_hash, parse_config
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Answer, HumanLabel, Project, Sample
from tests.slm.tiny import make_encoder, reviews
from tests.stand_ins import CONFIG

N = 60


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")
    what = reviews(N, wrong=(4, 9), abstained=(5,))
    space = parse_config(CONFIG)
    made.save_project(Project(1, "Test", CONFIG, config_hash(CONFIG), space))
    samples = [Sample(i + 1, text) for i, text in enumerate(what.texts)]
    made.put_samples(1, samples)
    for sample, label in zip(samples, what.llm_labels.tolist(), strict=True):
        answer = Answer(None if label < 0 else space.labels[label], annotator="openai:x")
        made.put_llm_label(1, 1, sample, answer, prompt_version="v")
    yield made
    made.close()


@pytest.fixture
def work(store: Store, encoder: str, tmp_path: Path) -> Callable[..., Work]:
    def make(name: str, earlier: str | None = None, **options: Any) -> Work:
        given: dict[str, Any] = {"slm_model": encoder, "epochs": 1, "max_length": 16, **options}
        settings = Settings.load({}, model_dir=tmp_path, **given)
        (tmp_path / name).mkdir(exist_ok=True)
        return Work(store, store.project(1), settings, tmp_path / name, tmp_path / earlier if earlier else None)

    return make


def correct(store: Store, *task_ids: int, label: str = "bad") -> None:
    given = [HumanLabel(100 + task_id, task_id, label, 1, "2026-01-01T10:00:00Z") for task_id in task_ids]
    store.put_annotations(1, given)


def quiet(*_: Any) -> None:
    """Report nothing."""


def tier(work: Work) -> str:
    return str(SingleLabel().distil(work, quiet)["tier"])


def test_a_retraining_takes_what_a_round_kept(store: Store, work: Callable[..., Work]) -> None:
    assert tier(work("one")) == "full"
    correct(store, 5, 10)
    told = SingleLabel().distil(work("two", "one", retrain_tier="features"), quiet)
    assert told["tier"] == "features-only"
    assert any("1 of 60 labels" in note for note in told["notes"]), "the other one was confirmed"
    judged = SingleLabel().judge(work("two"))
    assert judged is not None
    labels = {verdict.task_id: verdict.label for verdict in judged.verdicts}
    assert (labels[5], labels[10]) == ("bad", "bad")
    assert tier(work("three", "two", retrain_tier="features")) == "features-only", "what is kept goes on with the round"


def test_in_doubt_the_networks_learn_again(
    store: Store, work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tier(work("one")) == "full"
    assert tier(work("first", None, retrain_tier="features")) == "full", "a whole round learns everything"
    assert tier(work("asked", "one", retrain_tier="full")) == "full"
    assert tier(work("quick", "one")) == "full", "it took no minute to train"
    monkeypatch.setattr(kept_views, "SLOW_SECONDS", 0.0)
    assert tier(work("slow", "one")) == "features-only"
    correct(store, 1, 3, label="good")  # both are bad: 2 of 60 changed
    assert tier(work("changed", "one")) == "full"
    assert tier(work("wanted", "one", retrain_tier="features")) == "features-only"
    assert tier(work("longer", "one", retrain_tier="features", max_length=20)) == "full", "texts are read otherwise"
    store.put_samples(1, [Sample(7, "edited good film")])
    assert tier(work("edited", "one", retrain_tier="features")) == "full"


def test_what_a_person_confirms_changes_nothing_that_the_networks_learned(
    store: Store, work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_views, "SLOW_SECONDS", 0.0)
    assert tier(work("one")) == "full"
    correct(store, *(i for i in range(1, N, 2) if i not in (5, 9)))
    assert tier(work("two", "one")) == "features-only"


@pytest.mark.parametrize("broken", ["views.safetensors", "arrays.safetensors", "model/networks.safetensors"])
def test_a_damaged_file_is_not_trusted(work: Callable[..., Work], tmp_path: Path, broken: str) -> None:
    assert tier(work("one")) == "full"
    file = tmp_path / "one" / broken
    file.write_bytes(file.read_bytes()[:-40])
    assert tier(work("two", "one", retrain_tier="features")) == "full"


def test_tasks_that_came_between_make_everything_anew(work: Callable[..., Work], tmp_path: Path) -> None:
    assert tier(work("one")) == "full"
    arrays = corpus_arrays.load_arrays(tmp_path / "one")
    assert arrays is not None
    turned = replace(arrays, task_ids=np.ascontiguousarray(arrays.task_ids[::-1]))
    corpus_arrays.save_arrays(tmp_path / "one", turned.task_ids, turned)
    assert tier(work("two", "one", retrain_tier="features")) == "full"
