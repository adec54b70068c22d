"""Does a project of table rows go through the whole loop: rows, an LLM over real HTTP, the SLM for rows, flags, new tasks, export?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from coral_backend import catch_up, export
from coral_backend.exceptions import SettingsError, TrainingError
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.llm.embedded import NO_ROWS
from coral_backend.rounds import RoundRunner
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.sync import refresh_project
from coral_backend.task_prompt import named_strategy
from coral_backend.types import Flag, Round, RoundStatus, Sample, Source
from strategies.distillation import forest
from strategies.tasks import FOLDER
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, label
from tests.stand_ins import FakeLabelStudio, annotation

CONFIG = """<View><Table name="text" value="$row"/><Choices name="label" toName="text">
<Choice value="bad"/><Choice value="good"/></Choices></View>"""
FIELDS = CONFIG.replace(
    '<Table name="text" value="$row"/>', '<Text name="text" value="Age: $age, job: $job, income: $income"/>'
)
COLUMNS = """columns:
  age: {description: of the applicant, unit: years, kind: numeric}
  income: {unit: thousand EUR, kind: numeric}
  job: what they do
"""
N, WRONG = 90, {3, 17, 44, 60}
OTHER = {"good": "bad", "bad": "good"}


def rows() -> dict[int, dict[str, Any]]:
    """Applicants; good is who earns much."""
    rng = np.random.default_rng(0)
    found: dict[int, dict[str, Any]] = {}
    for i in range(1, N + 1):
        row = {
            "age": int(rng.integers(18, 80)),
            "income": round(float(rng.gamma(4, 12)), 1),
            "job": ["clerk", "nurse", "cook"][i % 3],
        }
        found[i] = {"row": row, "id": i}
    found[5]["row"]["job"] = None
    return found


def truth(income: float) -> str:
    return "good" if income > 45 else "bad"


def income_in(text: str) -> float:
    found = re.search(r"income[^:]*: ([\d.]+)", text)
    assert found is not None, text
    return float(found[1])


class World:
    """A store, a Label Studio in memory, an endpoint on loopback that errs about a few rows, and the runner between them."""

    def __init__(
        self, folder: Path, *, config: str = CONFIG, tasks: dict[int, dict[str, Any]] | None = None, **more: Any
    ) -> None:
        self.tasks = rows() if tasks is None else tasks
        wrong = {self.tasks[i]["row"]["income"] for i in WRONG} if tasks is None else set()

        def answer(call: Call) -> Reply:
            right = truth(income_in(call.text))
            return label(OTHER[right] if income_in(call.text) in wrong else right)

        self.server = ScriptedOpenAI(answer)
        given = {
            "annotator": "openai",
            "openai_base_url": self.server.base_url,
            "llm_model": "scripted",
            "model_dir": folder,
        }
        self.settings = Settings.load({}, **{**given, "n_demos": 3, "epochs": 2, **more})
        self.store = Store(self.settings.store_url)
        self.studio = FakeLabelStudio(self.tasks, config)
        refresh_project(self.store, self.client, 1)

    def __enter__(self) -> World:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__(None, None, None)
        self.store.close()

    @property
    def client(self) -> LabelStudioClient:
        return cast("LabelStudioClient", self.studio)

    def run(self, *, retrain: bool = False) -> Round:
        begun = self.store.create_round(1, self.settings.public(), retrain=retrain)
        return RoundRunner(self.store, self.settings, lambda: self.client).run(begun.id)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "TREES", 40)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    path = tmp_path / "credit.yaml"
    path.write_text((FOLDER / "tabular.yaml").read_text().rstrip() + "\n" + COLUMNS)
    with World(tmp_path, task_strategy=str(path)) as made:
        yield made


def test_rows_go_all_the_way(world: World) -> None:
    world.studio.tasks[98] = {"row": {"age": [1]}}
    world.studio.tasks[99] = {"text": "no row"}
    done = world.run()
    assert done.status is RoundStatus.DONE
    asked = [call.text for call in world.server.history]
    assert len(asked) == N
    row = world.tasks[1]["row"]
    told = f"age (of the applicant, in years): {row['age']}\nincome (in thousand EUR): {row['income']}\njob (what they do): nurse"
    assert told in asked
    assert any(text.endswith("job (what they do): missing") for text in asked), "task 5"
    assert any('"content": "age (of the applicant' in call.messages[1]["content"] for call in world.server.history)

    verdicts = {v.task_id: v for v in world.store.verdicts(1, done.id)}
    assert all(verdicts[i].flag is not Flag.CLEAN for i in WRONG), "the LLM's errors are flagged"
    assert {verdicts[i].rank for i in WRONG} <= set(range(1, 19)), "and stand in the first fifth of the queue"
    right = [verdicts[i].slm_label == truth(world.tasks[i]["row"]["income"]) for i in range(1, N + 1)]
    assert np.mean(right) > 0.85
    assert (verdicts[98].label, verdicts[99].label) == (None, None)
    problems = {s.task_id: s.problem for s in world.store.samples(1) if s.problem}
    assert "a list in the column 'age'" in str(problems[98])
    assert "no key 'row'" in str(problems[99])
    assert {t for t, version in world.studio.pushed if version == done.model_version} >= set(range(1, N + 1))
    assert len(world.studio.view_rows) == 3
    assert done.metrics["task_strategy"] == "credit"
    assert {"columns", "forest"} <= set(done.metrics["slm_seconds"])
    path = export.export(world.store, 1, world.settings.model_dir / "labels.jsonl").path
    exported = [json.loads(line) for line in path.read_text().splitlines()]
    assert json.loads(next(one for one in exported if one["task_id"] == 1)["text"]) == row


def test_people_correct_and_the_next_round_shows_their_rows(world: World) -> None:
    world.run()
    world.studio.annotations = {i: [annotation(i, truth(world.tasks[i]["row"]["income"]))] for i in WRONG}
    again = world.run(retrain=True)
    assert again.metrics["human_labels"] == len(WRONG)
    verdicts = {v.task_id: v for v in world.store.verdicts(1, again.id)}
    assert all(verdicts[i].source is Source.HUMAN for i in WRONG)
    second = world.run()
    assert len(second.demos) == 3
    assert all(json.loads(demo.text)["income"] for demo in second.demos)


def test_a_row_that_comes_later_is_labelled_with_the_serving_model(world: World) -> None:
    done = world.run()
    new = Sample(500, json.dumps({"age": 50, "income": 99.5, "shoe": 43}))
    world.studio.tasks[500] = {"row": json.loads(new.text)}
    world.store.put_samples(1, [new], wanted=True)
    assert catch_up.catch_up(world.store, world.settings, lambda: world.client, 1) == 1
    [verdict] = world.store.verdicts(1, done.id, [500])
    assert (verdict.llm_label, verdict.slm_label, verdict.label) == ("good", "good", "good")
    assert world.server.history[-1].text.endswith("job (what they do): missing")


def test_nearest_rows_are_shown_with_retrieval(tmp_path: Path) -> None:
    with World(tmp_path, demonstration="retrieval") as made:
        made.run()
        asked = len(made.server.history)
        second = made.run()
    assert second.status is RoundStatus.DONE
    later = [call.messages[1]["content"] for call in made.server.history[asked:]]
    assert later
    assert len({text.split("Given a row")[0] for text in later}) > 1, "each row has examples of its own"


def test_fields_of_a_template_are_a_row_too(tmp_path: Path) -> None:
    tasks = {i: dict(task["row"]) for i, task in rows().items()}
    del tasks[7]["age"]
    with World(tmp_path, config=FIELDS, tasks=tasks) as made:
        done = made.run()
        problem = next(s.problem for s in made.store.samples(1) if s.task_id == 7)
    assert done.metrics["task_strategy"] == "tabular"
    assert made.server.history[0].text.splitlines()[0].startswith("age: ")
    assert "no key 'age'" in str(problem)


def test_the_embedded_annotator_says_that_it_labels_no_rows_and_people_suffice(tmp_path: Path) -> None:
    with World(tmp_path, annotator="embedded") as made:
        people_suffice(made)


def people_suffice(made: World) -> None:
    with pytest.raises(TrainingError, match="embedded annotator labels none"):
        made.run()
    assert {answer.reason for answer in made.store.llm_labels(1).values()} == {NO_ROWS}
    made.studio.annotations = {i: [annotation(i, truth(made.tasks[i]["row"]["income"]))] for i in range(1, 41)}
    done = made.run()
    assert done.status is RoundStatus.DONE
    verdicts = [v for v in made.store.verdicts(1, done.id) if v.source is Source.SLM]
    assert len(verdicts) == N - 40


@pytest.mark.parametrize(("strategy", "config"), [("topic", CONFIG), ("tabular", None)])
def test_a_strategy_of_the_other_family_is_refused(tmp_path: Path, strategy: str, config: str | None) -> None:
    plain = CONFIG.replace('<Table name="text" value="$row"/>', '<Text name="text" value="$text"/>')
    with (
        World(tmp_path, config=config or plain, tasks={1: {"text": "a"}}, task_strategy=strategy) as made,
        pytest.raises(SettingsError, match=r"whose small model is .* which needs slm"),
    ):
        named_strategy(made.settings, made.store.project(1))
