"""Do sentiment, topic and a rating of one text go through one round on a real Label Studio, and back from a person's form?"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk.label_interface.interface import LabelInterface

from coral_backend.backend import CoralBackend
from coral_backend.estimate import estimate
from coral_backend.export import export
from coral_backend.labels import read_controls
from coral_backend.labelstudio.tabs import tab_counts
from coral_backend.rounds import RoundRunner
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.sync import refresh_project
from coral_backend.types import Round, RoundStatus, Source
from tests.label_studio_fixture import LabelStudioUnderTest
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, label

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CONFIG = """<View><Text name="text" value="$text"/>
<Choices name="sentiment" toName="text"><Choice value="positive"/><Choice value="negative"/></Choices>
<Choices name="topic" toName="text"><Choice value="food"/><Choice value="travel"/></Choices>
<Rating name="stars" toName="text" maxRating="3"/></View>"""
NAMES = ("sentiment", "topic", "stars")
MOODS = {
    ("positive", "3"): ["was wonderful, we loved every minute", "was excellent and everybody was kind"],
    ("positive", "2"): ["was good, with small flaws", "was nice enough, we would come again"],
    ("negative", "1"): ["was terrible, we were so angry", "was awful and a waste of money"],
}
TOPICS = {
    "food": ["The soup at the corner restaurant", "Our dinner with grilled fish", "The breakfast with fresh bread"],
    "travel": ["The night train to the coast", "Our flight with two stops", "The bus tour through the mountains"],
}
ROWS = 48


@dataclass
class Loop:
    """A project of three controls, an LLM that errs about the topic of some texts, and what is right."""

    studio: LabelStudioUnderTest
    settings: Settings
    store: Store
    project_id: int
    task_ids: list[int]
    gold: dict[int, dict[str, str]]
    wrong: set[int]
    llm: ScriptedOpenAI

    def run(self, *, retrain: bool = False) -> Round:
        begun = self.store.create_round(self.project_id, self.settings.public(), retrain=retrain)
        return RoundRunner(self.store, self.settings, lambda: self.studio.client).run(begun.id)

    @property
    def version(self) -> str:
        return self.store.project(self.project_id).model_version

    def prediction_of(self, task_id: int) -> dict[str, Any]:
        task = self.studio.client.request("GET", f"api/tasks/{task_id}/")
        return next(p for p in task["predictions"] if p["model_version"] == self.version)


def said_in(result: list[dict[str, Any]]) -> dict[str, str]:
    """Return what a prediction's result says, read as Label Studio's form would."""
    found = {}
    for region in result:
        value = region["value"]
        found[region["from_name"]] = str(value["rating"]) if "rating" in value else value["choices"][0]
    return found


@pytest.fixture(scope="module")
def loop(label_studio: LabelStudioUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    rng = random.Random(0)
    texts, said = [], []
    for i in range(ROWS):
        (mood, stars), topic = rng.choice(list(MOODS)), rng.choice(list(TOPICS))
        texts.append(f"{rng.choice(TOPICS[topic])} {rng.choice(MOODS[mood, stars])} ({i}).")
        said.append({"sentiment": mood, "topic": topic, "stars": stars})
    wrong = set(rng.sample(range(ROWS), 4))

    def answer(call: Call) -> Reply:
        [control] = (name for name in NAMES if f'This one is called "{name}"' in call.messages[0]["content"])
        place = int(call.text.rpartition("(")[2].rstrip(")."))
        right = said[place][control]
        other = {"food": "travel", "travel": "food"}.get(right, right)
        return label(other if control == "topic" and place in wrong else right)

    project_id, task_ids = label_studio.new_project(texts, CONFIG)
    folder = tmp_path_factory.mktemp("coral")
    with ScriptedOpenAI(answer) as llm:
        env = {
            "MODEL_DIR": str(folder), "OPENAI_BASE_URL": llm.base_url, "OPENAI_API_KEY": "test-key", "CORAL_EPOCHS": "1",
            "CORAL_DEMOS": "4",
        }  # fmt: skip
        settings = Settings.load(env)
        store = Store(settings.store_url)
        refresh_project(store, label_studio.client, project_id)
        gold = dict(zip(task_ids, said, strict=True))
        yield Loop(label_studio, settings, store, project_id, task_ids, gold, {task_ids[i] for i in wrong}, llm)
        store.close()


def test_1_one_round_asks_about_every_control_once(loop: Loop) -> None:
    found = estimate(loop.store, loop.settings, loop.project_id, lambda: loop.studio.client)
    assert (found.asked, found.requests, len(loop.llm.history)) == (ROWS, 3 * ROWS, 0)
    done = loop.run()
    assert done.status is RoundStatus.DONE
    probes = len(loop.llm.history) - 3 * ROWS
    assert 0 <= probes <= 3, "what the endpoint accepts is found out once"
    assert done.metrics["pushed"]["dropped"] == []
    assert set(done.metrics["controls"]) == set(NAMES)
    right = Counter(
        name
        for v in loop.store.verdicts(loop.project_id, done.id)
        for name, one in (read_controls(v.llm_label) or {}).items()
        if one == loop.gold[v.task_id][name]
    )
    assert right == {"sentiment": ROWS, "topic": ROWS - len(loop.wrong), "stars": ROWS}


def test_2_label_studio_shows_one_prediction_with_all_controls(loop: Loop) -> None:
    interface = LabelInterface(CONFIG)
    for task_id in loop.task_ids[:6]:
        prediction = loop.prediction_of(task_id)
        [verdict] = loop.store.verdicts(
            loop.project_id, loop.store.project(loop.project_id).active_round or 0, [task_id]
        )
        assert said_in(prediction["result"]) == read_controls(verdict.prediction_label)
        assert [region["from_name"] for region in prediction["result"]] == list(NAMES)
        assert prediction["score"] == pytest.approx(min(region["score"] for region in prediction["result"]))
        checked = {key: prediction[key] for key in ("result", "score", "model_version")}
        assert interface.validate_prediction(checked, return_errors=True) == []  # type: ignore[no-untyped-call]
        data = loop.studio.client.request("GET", f"api/tasks/{task_id}/")["data"]
        assert data["coral_llm_topic"] == (read_controls(verdict.llm_label) or {})["topic"]
        doubtful = [detail.name for detail in verdict.details if detail.flag != "clean"]
        assert data.get("coral_doubt", "") == ", ".join(doubtful)
    assert sum(tab_counts(loop.studio.client, loop.project_id).values()) == ROWS


def test_3_predict_answers_what_was_pushed(loop: Loop) -> None:
    backend = CoralBackend(loop.project_id, settings=loop.settings, store=loop.store, nudge=lambda _: None)
    task = loop.studio.client.request("GET", f"api/tasks/{loop.task_ids[0]}/")
    [entry] = backend.predict([task])
    pushed = loop.prediction_of(loop.task_ids[0])
    assert said_in(entry["result"]) == said_in(pushed["result"])
    assert entry["score"] == pytest.approx(pushed["score"])


def test_4_a_correction_of_one_control_is_learned_and_shown(loop: Loop) -> None:
    whole, part = sorted(loop.wrong)[:2]
    for task_id, names in ((whole, NAMES), (part, ("topic",))):
        result = [
            {**region, "id": f"person-{region['from_name']}"}
            for region in loop.prediction_of(task_id)["result"]
            if region["from_name"] in names
        ]
        for region in result:
            region.pop("coral", None)
            if region["from_name"] == "topic":
                region["value"] = {"choices": [loop.gold[task_id]["topic"]]}
        loop.studio.client.request(
            "POST", f"api/tasks/{task_id}/annotations/", body={"result": result, "lead_time": 2.0}
        )
    asked = len(loop.llm.history)
    again = loop.run(retrain=True)
    assert (again.name, len(loop.llm.history)) == ("1.1", asked)
    verdicts = {v.task_id: v for v in loop.store.verdicts(loop.project_id, again.id)}
    assert read_controls(verdicts[whole].label) == loop.gold[whole]
    assert {detail.source for detail in verdicts[whole].details} == {Source.HUMAN}
    sources = {detail.name: detail.source for detail in verdicts[part].details}
    assert (sources["topic"], Source.HUMAN in (sources["sentiment"], sources["stars"])) == (Source.HUMAN, False)
    assert (read_controls(verdicts[part].label) or {})["topic"] == loop.gold[part]["topic"]
    assert said_in(loop.prediction_of(whole)["result"]) == loop.gold[whole]
    agreement = again.metrics["by_control"]
    assert (agreement["topic"]["agreement"]["n"], agreement["topic"]["agreement"]["llm"]) == (2, 0.0)
    assert (agreement["sentiment"]["agreement"]["n"], agreement["sentiment"]["agreement"]["llm"]) == (1, 1.0)


def test_5_the_export_has_columns_for_each_control(loop: Loop, tmp_path: Path) -> None:
    done = export(loop.store, loop.project_id, tmp_path / "labels.csv")
    assert done.rows == ROWS
    with done.path.open(encoding="utf-8", newline="") as file:
        rows = {int(row["task_id"]): row for row in csv.DictReader(file)}
    whole, part = sorted(loop.wrong)[:2]
    assert {name: rows[whole][f"{name}.label"] for name in NAMES} == loop.gold[whole]
    assert {rows[whole][f"{name}.source"] for name in NAMES} == {"human"}
    assert (rows[part]["topic.human_label"], rows[part]["sentiment.human_label"]) == (loop.gold[part]["topic"], "")
    assert rows[part]["sentiment.source"] in ("llm", "slm")
    assert read_controls(rows[part]["label"]) == {name: rows[part][f"{name}.label"] for name in NAMES}
