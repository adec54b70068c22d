"""Does the loop turn where a text may have any number of labels? A real Label Studio, a real endpoint's HTTP, the SLM in small.

One story: the LLM answers with sets, one of them with a label that does not exist; the round judges and pushes; people tick and untick in
Label Studio, one of them everything; a retraining learns from it; a task that came later is judged; the table leaves with lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coral_backend.catch_up import catch_up
from coral_backend.export import export
from coral_backend.labels import read_set, write_set
from coral_backend.labelstudio.control_tags import from_result
from coral_backend.labelstudio.hint import with_hint
from coral_backend.rounds import RoundRunner
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.sync import refresh_project
from coral_backend.types import Flag, Round, RoundStatus, Source, Verdict
from tests.label_studio_fixture import LabelStudioUnderTest
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, completion
from tests.slm.tiny import make_encoder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

LABELS = ("praise", "blame", "film")
WORDS = (("good", "fine", "great"), ("bad", "poor", "awful"), ("film", "plot", "film"))
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text" choice="multiple">'
    + "".join(f'<Choice value="{label}"/>' for label in LABELS)
    + "</Choices></View>"
)
TASKS, WRONG = 120, (11, 30, 57, 90)
"""In the last ones the LLM leaves a label out or adds one."""


def true_set(text: str) -> list[str]:
    return [label for label, words in zip(LABELS, WORDS, strict=True) if set(words) & set(text.split())]


def texts() -> list[str]:
    rng = np.random.default_rng(0)
    chosen = rng.random((TASKS, 3)) < [0.5, 0.5, 0.4]
    return [
        " ".join(["the", *(str(rng.choice(WORDS[k])) for k in np.flatnonzero(row).tolist() * 2), str(i)])
        for i, row in enumerate(chosen)
    ]


@dataclass
class Story:
    """A project in Label Studio, the endpoint, and the runner between them."""

    studio: LabelStudioUnderTest
    server: ScriptedOpenAI
    settings: Settings
    store: Store
    project_id: int
    ids: list[int]
    texts: list[str]
    rounds: list[Round] = field(default_factory=list)

    def run(self, *, retrain: bool = False) -> Round:
        runner = RoundRunner(self.store, self.settings, lambda: self.studio.client)
        made = self.store.create_round(self.project_id, self.settings.public(), retrain=retrain)
        done = runner.run(made.id)
        assert done.status is RoundStatus.DONE, done.error
        self.rounds.append(done)
        return done

    def verdicts(self) -> dict[int, Verdict]:
        return {one.task_id: one for one in self.store.verdicts(self.project_id, self.rounds[-1].id)}

    def annotate(self, task_id: int, labels: list[str]) -> None:
        region = {"id": "p", "from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": labels}}
        body = {"result": [region] if labels else [], "lead_time": 2.0}
        self.studio.client.request("POST", f"api/tasks/{task_id}/annotations/", body=body)


@pytest.fixture(scope="module")
def story(label_studio: LabelStudioUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("multilabel")
    said = texts()

    def answer(call: Call) -> Reply:
        labels = set(true_set(call.text))
        number = int(call.text.split()[-1])
        if number == 5 and not call.is_repair:
            return completion('{"labels": ["music"]}')
        if number in WRONG:
            labels ^= {LABELS[number % 3]}
        return completion(json.dumps({"labels": sorted(labels)}))

    with ExitStack() as stack:
        server = stack.enter_context(ScriptedOpenAI(answer))
        settings = Settings.load({
            "MODEL_DIR": str(folder / "coral"), "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "none",
            "CORAL_SLM_MODEL": make_encoder(folder / "encoder"), "CORAL_EPOCHS": "2", "CORAL_WARMUP_EPOCHS": "3",
            "CORAL_DEMOS": "4",
        })  # fmt: skip
        store = Store(settings.store_url)
        stack.callback(store.close)
        project_id, ids = label_studio.new_project(said, label_config=with_hint(CONFIG))
        refresh_project(store, label_studio.client, project_id)
        yield Story(label_studio, server, settings, store, project_id, ids, said)


def test_1_the_llm_answers_with_sets_and_each_label_is_judged(story: Story) -> None:
    done = story.run()
    answers = story.store.llm_labels(story.project_id)
    assert all(story.store.project(story.project_id).label_space.allows(one.label) for one in answers.values())
    assert answers[story.ids[5]].label == write_set(true_set(story.texts[5]), LABELS), "asked once more, it is right"
    assert "music" in answers[story.ids[5]].raw
    user = story.server.history[-1].messages[1]["content"]
    assert '"labels": [' in user, "examples show sets"
    verdicts = story.verdicts()
    assert done.metrics["tasks"] == TASKS
    assert sum(done.metrics["flags"].values()) == TASKS
    for one in verdicts.values():
        assert [part.name for part in one.details] == list(LABELS)
        assert read_set(one.label) is not None
    wrong = {story.ids[i] for i in WRONG}
    first = {task for task, one in verdicts.items() if one.rank <= 12}
    assert len(wrong & first) >= 3, "wrong sets come first"


def test_2_label_studio_shows_the_sets_the_scores_and_the_doubtful_labels(story: Story) -> None:
    client, done, verdicts = story.studio.client, story.rounds[-1], story.verdicts()
    space = story.store.project(story.project_id).label_space
    stored = {row["task"]: row for row in client.predictions(story.project_id, str(done.model_version))}
    assert len(stored) == TASKS
    assert done.metrics["pushed"]["dropped"] == []
    for task_id, one in verdicts.items():
        assert from_result(space, stored[task_id]["result"]) == one.prediction_label
        assert stored[task_id]["score"] == pytest.approx(one.prediction_score, abs=1e-6)
    assert done.metrics["columns"]["problem"] is None
    doubtful = next(one for one in sorted(verdicts.values(), key=lambda v: v.rank) if one.flag is not Flag.CLEAN)
    data = client.request("GET", f"api/tasks/{doubtful.task_id}/")["data"]
    assert data["coral_llm"] == space.shown(str(doubtful.llm_label))
    assert data["coral_hint"].startswith("**Doubtful:** ")
    part = next(part for part in doubtful.details if part.flag is not Flag.CLEAN)
    assert f"{part.name} " in data["coral_hint"]
    assert sum(view_count for view_count in _counts(done)) == TASKS


def _counts(done: Round) -> list[int]:
    return [int(title.rpartition("(")[2].rstrip(")")) for title in done.metrics["tabs"]]


def test_3_people_tick_and_untick_and_a_retraining_learns_from_it(story: Story) -> None:
    right = [story.ids[i] for i in WRONG]
    for i in WRONG:
        story.annotate(story.ids[i], true_set(story.texts[i]))
    empty = next(i for i, text in enumerate(story.texts) if true_set(text) and i not in WRONG)
    story.annotate(story.ids[empty], [])  # a form that was submitted with nothing ticked: no label applies
    done = story.run(retrain=True)
    verdicts = story.verdicts()
    human = story.store.human_labels(story.project_id)
    assert set(human) == {*right, story.ids[empty]}
    assert human[story.ids[empty]].label == "[]"
    for i in WRONG:
        one = verdicts[story.ids[i]]
        assert (one.label, one.source) == (write_set(true_set(story.texts[i]), LABELS), Source.HUMAN)
    assert verdicts[story.ids[empty]].label == "[]"
    agreement = done.metrics["agreement"]
    assert agreement["n"] == 5
    assert agreement["llm"] == 0.0, "people corrected every one of them"
    assert 0 < agreement["llm_f1"] < 1


def test_4_a_task_that_comes_later_is_judged_and_pushed(story: Story) -> None:
    client = story.studio.client
    [late] = client.import_tasks(story.project_id, [{"data": {"text": "the good film great film 999"}}])
    from coral_backend.labelstudio.tasks import sample_from_task

    task = client.request("GET", f"api/tasks/{late}/")
    space = story.store.project(story.project_id).label_space
    story.store.put_samples(
        story.project_id, [sample_from_task(space, task, recorded_key=None, max_chars=1000)], wanted=True
    )
    assert catch_up(story.store, story.settings, lambda: client, story.project_id) == 1
    one = story.verdicts()[late]
    assert one.llm_label == '["praise", "film"]'
    assert [part.name for part in one.details] == list(LABELS)
    pushed: list[dict[str, Any]] = client.request("GET", f"api/tasks/{late}/")["predictions"]
    assert '["praise", "film"]' in {from_result(space, row["result"]) for row in pushed}


def test_5_the_next_round_shows_the_llm_examples_with_sets(story: Story) -> None:
    before = len(story.server.history)
    done = story.run()
    assert done.number == 2
    assert done.demos
    assert all(read_set(demo.label) is not None for demo in done.demos)
    asked = story.server.history[before:]
    assert all('"labels": [' in call.messages[1]["content"] for call in asked)


def test_6_the_table_leaves_with_lists(story: Story, tmp_path: Path) -> None:
    export(story.store, story.project_id, tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(lines) == TASKS + 1
    by_task = {line["task_id"]: line for line in lines}
    i = WRONG[0]
    assert by_task[story.ids[i]]["label"] == true_set(story.texts[i])
    assert {part["name"] for part in by_task[story.ids[i]]["details"]} == set(LABELS)
