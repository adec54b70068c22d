"""Does a round of named entities turn on real parts: a real Label Studio, a scripted LLM over real HTTP, the SLM? In one process."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from coral_backend.app import create_app
from coral_backend.auth import secrets_for
from coral_backend.catch_up import catch_up
from coral_backend.labels import Span, read_spans
from coral_backend.labelstudio.tabs import tab_counts
from coral_backend.labelstudio.tasks import sample_from_task
from coral_backend.rounds import RoundRunner
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.sync import reconcile, refresh_project
from coral_backend.types import Flag, Round, RoundStatus, Source, Verdict
from tests.label_studio_fixture import LabelStudioUnderTest
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, completion

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CONFIG = """<View>
  <Labels name="label" toName="text"><Label value="PER" background="red"/><Label value="LOC" background="blue"/></Labels>
  <Text name="text" value="$text"/>
</View>"""

PEOPLE = ("Anna", "Bob", "Carla", "Dmitri", "Eva", "Farid", "Greta", "Hugo")
PLACES = ("Rome", "Oslo", "Paris", "Lima", "Cairo", "Quito", "Delhi", "Turin")
FRAMES = (
    "{p} went to {l} by train", "In {l} it rained when {p} came", "Yesterday {p} called from {l}", "We met {p} near {l} last week",
    "{p} has lived in {l} for years", "The mayor of {l} thanked {p}",
)  # fmt: skip
FOLDER = os.environ.get("CORAL_TEST_SHOTS", "")
"""Where screens are kept; empty for nowhere."""

ODD = "  \U0001f44d\U0001f3fd cafe\u0301\r\n"
"""Before some texts: what moves offsets wherever somebody strips or counts otherwise."""


def texts(n: int) -> list[str]:
    """Return sentences that name one person and one place each."""
    rng = random.Random(0)
    plain = [rng.choice(FRAMES).format(p=rng.choice(PEOPLE), l=rng.choice(PLACES)) for _ in range(n)]
    return [ODD + text if i % 10 == 3 else text for i, text in enumerate(dict.fromkeys(plain))]


def right(text: str) -> set[Span]:
    """Return the spans of a sentence."""
    found = {Span(text.index(word), text.index(word) + len(word), "PER") for word in PEOPLE if word in text}
    return found | {Span(text.index(word), text.index(word) + len(word), "LOC") for word in PLACES if word in text}


@dataclass
class Liar:
    """An LLM that marks what is there, but errs on some texts in three ways, and on one names what is not there."""

    wrong: dict[str, str] = field(default_factory=dict)

    def __call__(self, call: Call) -> Reply:
        text = call.text
        items = [[text[s.start : s.end], s.label] for s in sorted(right(text))]
        error = self.wrong.get(text)
        if error == "type":
            items[0][1] = "LOC" if items[0][1] == "PER" else "PER"
        elif error == "missing":
            items.pop()
        elif error == "boundary":
            at = text.index(items[-1][0])
            items[-1][0] = text[at - 3 : at + len(items[-1][0])].strip()
        elif error == "invented" or (error == "repaired" and not call.is_repair):
            items.append(["Zorro", "PER"])
        listed = [{"before": "", "text": words, "label": label} for words, label in items]
        return completion(json.dumps({"entities": listed}))


@dataclass
class World:
    studio: LabelStudioUnderTest
    settings: Settings
    store: Store
    project_id: int
    ids: dict[str, int]
    liar: Liar
    llm: ScriptedOpenAI

    def run(self, *, retrain: bool = False) -> Round:
        runner = RoundRunner(self.store, self.settings, lambda: self.studio.client)
        done = runner.run(self.store.create_round(self.project_id, self.settings.public(), retrain=retrain).id)
        assert done.status is RoundStatus.DONE, done.error
        return done

    def verdicts(self) -> dict[int, Verdict]:
        active = self.store.project(self.project_id).active_round
        assert active is not None
        return {v.task_id: v for v in self.store.verdicts(self.project_id, active)}

    def pushed(self, task_id: int) -> list[dict[str, Any]]:
        task = self.studio.client.request("GET", f"api/tasks/{task_id}/")
        version = self.store.project(self.project_id).model_version
        return next(list(p["result"]) for p in task["predictions"] if p["model_version"] == version)


@pytest.fixture(scope="module")
def world(label_studio: LabelStudioUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A project whose first round is done."""
    said = [*texts(90), "nothing to see here at all"]
    liar = Liar(
        dict(
            zip(
                said[1::9],
                ["type", "missing", "boundary", "type", "invented", "repaired", "type", "missing"],
                strict=False,
            )
        )
    )
    project_id, ids = label_studio.new_project(said, CONFIG)
    with ScriptedOpenAI(liar) as llm:
        env = {"OPENAI_BASE_URL": llm.base_url, "CORAL_LLM_MODEL": "scripted", "CORAL_EPOCHS": "2", "CORAL_DEMOS": "3"}
        settings = Settings.load(env, model_dir=tmp_path_factory.mktemp("coral"))
        store = Store(settings.store_url)
        refresh_project(store, label_studio.client, project_id)
        made = World(label_studio, settings, store, project_id, dict(zip(said, ids, strict=True)), liar, llm)
        made.run()
        yield made
        store.close()


def test_1_spans_are_asked_for_verified_judged_and_pushed(world: World) -> None:
    verdicts, answers = world.verdicts(), world.store.llm_labels(world.project_id)
    assert len(verdicts) == len(world.ids)
    for text, task_id in world.ids.items():
        said = set(read_spans(answers[task_id].label) or ())
        if text not in world.liar.wrong or world.liar.wrong[text] in ("invented", "repaired"):
            assert said == right(text), text
        regions = world.pushed(task_id)
        assert "coral:" in json.dumps(regions), "the tabs find every task by its flag, also one without spans"
        spans = [r for r in regions if "start" in r["value"]]
        assert {Span(r["value"]["start"], r["value"]["end"], r["value"]["labels"][0]) for r in spans} == said
        for region in spans:
            assert region["value"]["text"] == text[region["value"]["start"] : region["value"]["end"]]
            assert 0.0 <= region["score"] <= 1.0
    invented = next(text for text, error in world.liar.wrong.items() if error == "invented")
    assert "1 of 3 spans are not taken: 'Zorro' is not in the text" in str(answers[world.ids[invented]].reason)
    repaired = next(text for text, error in world.liar.wrong.items() if error == "repaired")
    assert answers[world.ids[repaired]].reason is None
    assert sum(tab_counts(world.studio.client, world.project_id).values()) == len(world.ids)


def test_2_wrong_spans_are_doubted_before_right_ones(world: World) -> None:
    answers = world.store.llm_labels(world.project_id)
    wrong = {task for text, task in world.ids.items() if set(read_spans(answers[task].label) or ()) != right(text)}
    ranks = {v.task_id: v.rank for v in world.verdicts().values()}
    assert sorted(ranks.values()) == list(range(1, len(ranks) + 1))
    first = {task for task, rank in ranks.items() if rank <= 2 * len(wrong)}
    assert len(wrong & first) >= len(wrong) - 1, (wrong, sorted(ranks, key=lambda t: ranks[t])[:20])
    doubted = [d for task in wrong for d in world.verdicts()[task].details if d.flag is not Flag.CLEAN]
    assert doubted
    assert all(d.words for d in doubted)


def test_3_a_person_corrects_and_the_next_round_learns_and_shows_neighbours(world: World) -> None:
    client = world.studio.client
    text, task_id = next((t, world.ids[t]) for t, error in world.liar.wrong.items() if error == "type")
    spans = sorted(right(text))
    result = [
        {"id": f"p{i}", "from_name": "label", "to_name": "text", "type": "labels", "value": {"start": s.start, "end": s.end, "text": "x", "labels": [s.label]}}
        for i, s in enumerate(spans)
    ]  # fmt: skip
    client.request("POST", f"api/tasks/{task_id}/annotations/", body={"result": result})
    nothing = world.ids["nothing to see here at all"]
    client.request("POST", f"api/tasks/{nothing}/annotations/", body={"result": []})
    assert reconcile(world.store, client, world.store.project(world.project_id)) == 2
    world.llm.history.clear()
    world.liar.wrong.clear()
    world.run()
    verdicts = world.verdicts()
    assert (verdicts[task_id].source, verdicts[task_id].score, verdicts[task_id].flag) == (
        Source.HUMAN,
        1.0,
        Flag.CLEAN,
    )
    assert set(read_spans(verdicts[task_id].label) or ()) == set(spans)
    assert (verdicts[nothing].label, verdicts[nothing].source) == ("[]", Source.HUMAN)
    shown = [call.messages[1]["content"] for call in world.llm.history]
    assert shown
    assert len({s.split("Given a content")[0] for s in shown}) > 1, "each text has the examples that are nearest to it"
    assert all('"entities": [' in s.split("Given a content")[0] for s in shown)


def test_4_a_task_that_comes_later_is_labelled_beside_the_round(world: World) -> None:
    text = ODD + "Bob met Eva in Oslo"
    client, project = world.studio.client, world.store.project(world.project_id)
    task_id = client.import_tasks(world.project_id, [{"data": {"text": text}}])[0]
    sample = sample_from_task(
        project.label_space, client.request("GET", f"api/tasks/{task_id}/"), recorded_key=None, max_chars=1000
    )
    world.store.put_samples(world.project_id, [sample], wanted=True)
    assert catch_up(world.store, world.settings, lambda: client, world.project_id) == 1
    verdict = world.verdicts()[task_id]
    assert set(read_spans(verdict.llm_label) or ()) == right(text)
    assert {"Bob", "Eva", "Oslo"} <= {detail.words for detail in verdict.details}
    assert len(world.pushed(task_id)) == 3


def test_5_the_pages_show_the_spans_and_nothing_of_a_text_is_a_tag(world: World) -> None:
    page = create_app(world.settings, world.store).test_client()
    password = secrets_for(world.settings).password
    for path in ("", "/samples", "/map", "/quality", "/rounds/1", "/rounds/2", "/configuration"):
        answer = page.get(f"/dashboard/projects/{world.project_id}{path}", auth=("coral", password))
        assert answer.status_code == 200, (path, answer.text[-500:])
        if path == "/samples":
            assert re.search(r'<mark class="\w+( out)?" title="[^"]+">Bob<small> PER \d', answer.text)
            assert "[[" not in answer.text, "no JSON is shown to people"
        _keep(f"dashboard{path.replace('/', '-') or '-overview'}.html", answer.text)
    for form in ("csv", "jsonl"):
        address = f"/dashboard/projects/{world.project_id}/download?format={form}"
        with page.get(address, auth=("coral", password)) as sent:
            assert sent.status_code == 200
            text = sent.get_data(as_text=True)
            _keep(f"labels.{form}", text)
            for line in text.splitlines() if form == "jsonl" else ():
                row = json.loads(line)
                for span in read_spans(row["label"]) or ():
                    assert row["text"][span.start : span.end].strip()


def test_6_the_form_is_pre_filled_with_the_spans(world: World, browser: Browser) -> None:
    studio = world.studio
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{studio.url}/user/login/")
    credentials = json.loads((studio.server.data_dir / "credentials.json").read_text())
    page.fill("input[name=email]", "tester@example.com")
    page.fill("input[name=password]", credentials["password"])
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/user/login" not in url, wait_until="commit")
    shown = 0
    for text, task_id in world.ids.items():
        if shown == 2 or task_id not in world.verdicts() or world.verdicts()[task_id].source is Source.HUMAN:
            continue
        if not text.startswith(ODD) and shown == 0:
            continue  # first one whose offsets are easily wrong
        page.goto(f"{studio.url}/projects/{world.project_id}/data?task={task_id}")
        words = {text[s.start : s.end] for s in read_spans(world.verdicts()[task_id].prediction_label) or ()}
        marks = page.locator(".htx-highlight")
        expect(marks).to_have_count(len(words), timeout=60_000)
        page.wait_for_timeout(1_000)  # the form draws them once more when the task is loaded
        expect(marks).to_have_count(len(words), timeout=60_000)
        assert set(marks.all_inner_texts()) == words
        if FOLDER:
            page.screenshot(path=str(Path(FOLDER) / f"form-{shown}.png"))
        shown += 1
    assert shown == 2


def _keep(name: str, text: str) -> None:
    """Keep what a person may look at, where they ask for it."""
    if FOLDER:
        (Path(FOLDER) / name).write_text(text, encoding="utf-8")
