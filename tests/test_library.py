"""Can a project be labelled in a few lines of Python, without Redis, worker and web process?"""

from __future__ import annotations

import csv
import doctest
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import coral_backend
from coral_backend import Coral, library
from coral_backend.exceptions import ConflictError, LabelConfigError, NotFoundError, SettingsError
from coral_backend.types import RoundStatus, Source, Stage
from tests import filled_store as filled
from tests.fake_label_studio import FakeLabelStudio

ROOT = Path(__file__).resolve().parents[1]

GOOD = (
    "a wonderful film",
    "I loved this movie",
    "great acting and a fine story",
    "a joy to watch",
    "brilliant and warm",
)
BAD = ("a terrible film", "I hated this movie", "bad acting and a dull story", "a pain to watch", "boring and cold")
TEXTS = [f"{text}, part {number}" for number in range(4) for text in GOOD + BAD] + [""]
SAID = [label for _ in range(4) for label in ["pos"] * 5 + ["neg"] * 5] + ["pos"]
WRONG = 3  # task 4 is praised and called "neg"
SAID[WRONG] = "neg"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith(("CORAL_", "OPENAI_", "LABEL_STUDIO_", "REDIS_", "DATABASE_"))]:
        monkeypatch.delenv(name)


def coral_on(client: FakeLabelStudio, folder: Path, **settings: Any) -> Coral:
    made = Coral(client.url, "token", project=1, model_dir=folder, **settings)
    made.client = client
    return made


@pytest.fixture
def client() -> FakeLabelStudio:
    return FakeLabelStudio(1, filled.CONFIG, TEXTS, data=[{"llm": label} for label in SAID])


@pytest.fixture
def coral(client: FakeLabelStudio, tmp_path: Path) -> Iterator[Coral]:
    with coral_on(client, tmp_path, annotator="recorded", recorded_key="llm", epochs=1, max_length=8) as made:
        yield made


def test_a_project_is_labelled_from_python(
    coral: Coral, client: FakeLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Batches this small gain nothing from threads, and lose much where other processes share the CPUs.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen: list[Stage] = []
    done = coral.run_round(watch=lambda stage, *_: seen.append(stage))
    assert done.status is RoundStatus.DONE
    assert list(dict.fromkeys(seen)) == list(Stage)
    assert sum(done.metrics["flags"].values()) == len(TEXTS)
    assert client.row["model_version"] == done.model_version
    of_version = [row for row in client.pushed if row[3] == done.model_version]
    assert len(of_version) == len(TEXTS)

    found = coral.status()
    assert (found.tasks, found.unreadable, found.model_version) == (41, 1, done.model_version)
    rows = list(coral.rows())
    assert [row["task_id"] for row in rows] == list(range(1, 42))
    assert [row["llm_label"] for row in rows[:10]] == SAID[:10]
    frame = coral.samples()
    assert list(frame.index) == list(range(1, 42))
    assert list(frame["flag"]) == [row["flag"] for row in rows]
    assert str(frame["rank"].dtype) == "Int64"
    assert set(frame.query("flag == 'clean'")["label"]) <= {"pos", "neg"}
    assert coral.export(tmp_path / "labels.csv").rows == 41
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 41

    # A task as it was judged, one whose text has changed since, a text alone, and what is no text.
    said = coral.predict(
        [
            {"id": 1, "data": {"text": TEXTS[0], "llm": "pos"}},
            {"id": 1, "data": {"text": "boring and cold, a pain"}},
            "what a wonderful movie",
            {"data": {}},
        ]
    )
    assert said[0].label == rows[0]["label"]
    assert said[0].score == pytest.approx(float(str(rows[0]["score"])), abs=1e-6)
    assert said[1].source is said[2].source is Source.SLM
    assert all(p.score is not None and 0 <= p.score <= 1 for p in said[:3])
    assert (said[3].label, said[3].problem) == (None, "the task has no key 'text'; it has none")
    assert coral.predict([]) == []

    client.annotated = [
        {
            "id": WRONG + 1,
            "annotations": [
                {
                    "id": 1,
                    "updated_at": filled.LONG_AGO,
                    "completed_by": 4,
                    "result": [
                        {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["pos"]}}
                    ],
                }
            ],
        }
    ]
    edited = [{"id": 1, "data": {"text": "boring and cold, a pain", "llm": "pos"}}]
    coral.store.put_samples(1, [coral._sample(coral._project(), edited[0])])  # as a /predict does
    assert coral.predict(edited)[0].source is Source.SLM

    again = coral.run_round(retrain=True)
    assert (again.name, again.model_version != done.model_version) == ("1.1", True)
    row = next(row for row in coral.rows() if row["task_id"] == WRONG + 1)
    assert (row["label"], row["source"], row["annotator"]) == ("pos", "human", 4)
    assert coral.status().rounds[0].llm == 0.0

    table = coral.rounds()
    assert list(table.index) == ["1", "1.1"]
    assert list(table["effect.people"].fillna(0)) == [0, 1]
    assert coral.round().name == "1.1"
    metrics = coral.round(1).metrics
    assert metrics["flags.noisy"] == done.metrics["flags"]["noisy"]
    assert metrics["seconds.distil"] > 0
    assert coral.round("1.1").effect is not None
    assert len(coral.round(1).history) == len(done.metrics["history"])
    assert list(coral.round(1).verdicts()["rank"]) == list(range(1, 42))
    changes = coral.changes()
    assert changes.loc[WRONG + 1, "by_person"]
    assert changes.loc[WRONG + 1, "label"] == "pos"
    with pytest.raises(NotFoundError, match="no round '9'"):
        coral.round(9)

    client.tasks[0]["data"]["text"] = TEXTS[0]
    back = coral.roll_back(1)
    assert (back.before, back.model_kept, client.row["model_version"]) == ("1.1", True, done.model_version)


def test_a_paused_round_goes_on_and_a_cancelled_one_is_told(coral: Coral, monkeypatch: pytest.MonkeyPatch) -> None:
    project = coral._project()
    begun = coral.store.create_round(project.id, {})
    coral.store.set_round_status(begun.id, RoundStatus.PAUSED, "No quota.")

    class Cancelling:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, round_id: int) -> Any:
            assert coral.store.round(round_id).status is RoundStatus.PENDING
            return coral.store.set_round_status(round_id, RoundStatus.CANCELLED, "By hand.")

    monkeypatch.setattr(library, "RoundRunner", Cancelling)
    with pytest.raises(ConflictError, match="Round 1 is cancelled at sync: By hand"):
        coral.run_round()


def test_labels_of_another_config_are_not_told(coral: Coral) -> None:
    filled.fill(coral.store)
    first = {"id": 1, "data": {"text": filled.TEXTS[0]}}
    assert coral.predict([first])[0].label == "pos"
    turned = replace(filled.SPACE, labels=("neg", "pos"))
    coral.store.save_project(replace(coral.store.project(1), config_hash="other", label_space=turned))
    for task in (first, "a text that the model would be asked about"):
        with pytest.raises(ConflictError, match=r"changed since round 1, .* Run a new round: coral\.run_round"):
            coral.predict([task])


def test_connect_needs_no_round(coral: Coral, client: FakeLabelStudio) -> None:
    done = coral.connect("http://coral.test:9090", title="Ours", epochs=2)
    assert (done.url, done.project.options) == ("http://coral.test:9090", {"epochs": 2})
    assert client.backends[0]["title"] == "Ours"


def test_what_is_not_there_is_told(coral: Coral, client: FakeLabelStudio, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Project 1 is not connected"):
        coral.status()
    filled.save_project(coral.store)
    with pytest.raises(NotFoundError, match="no finished round"):
        coral.predict(["text"])
    with coral_on(client, tmp_path / "other") as other:
        other.project_id = 9
        with pytest.raises(NotFoundError, match="It sees: 1"):
            other.run_round()
    client.row["label_config"] = "<View/>"
    with coral_on(client, tmp_path / "third") as third, pytest.raises(LabelConfigError):
        third.run_round()


def test_settings_are_checked_at_once_and_win_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://environment")
    monkeypatch.setenv("CORAL_EPOCHS", "7")
    assert Coral().settings.label_studio_url == "http://environment"
    assert Coral("http://given", epochs=2).settings.epochs == 2
    with pytest.raises(SettingsError, match="Unknown setting 'epoch'"):
        Coral(epoch=2)
    with Coral("http://given", model_dir=tmp_path) as coral, pytest.raises(SettingsError, match="LABEL_STUDIO_API_KEY"):
        coral.client  # noqa: B018
    assert list(tmp_path.iterdir()) == [], "nothing was made"


def test_no_secret_is_shown() -> None:
    coral = Coral("http://given", "canary-4711")
    assert "canary-4711" not in f"{coral!r} {coral.settings!r}"


def test_the_package_imports_coral_late_and_without_torch() -> None:
    code = (
        "import sys, coral_backend\nassert not {'numpy', 'sqlalchemy', 'torch'} & set(sys.modules)\n"
        "from coral_backend import Coral\n"
        "assert not {'torch', 'transformers', 'openai', 'label_studio_ml'} & set(sys.modules)\nprint(Coral.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("Coral\n", "")
    with pytest.raises(AttributeError, match="no attribute 'Choral'"):
        coral_backend.Choral  # noqa: B018


def test_the_examples_of_the_docstrings_run() -> None:
    assert doctest.testmod(library).failed == 0
