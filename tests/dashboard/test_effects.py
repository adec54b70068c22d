"""Does the dashboard say what a round changed elsewhere, show it, and go back to an older round: once, and only where it may?"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from benchmarks.dashboard import HOSTILE, fill
from coral_backend.app import create_app
from coral_backend.exceptions import NotFoundError
from coral_backend.settings import Settings
from coral_backend.store import Store, tables
from coral_backend.types import RoundStatus, Sample, Source
from tests.stand_ins import annotation
from tests.test_rounds import World
from tests.web_parts import basic, settings_in

PROJECT = "/dashboard/projects/1"
TASKS = 300


def get(client: FlaskClient, path: str = "") -> TestResponse:
    return client.get(PROJECT + path, headers=basic())


# --- what it changed ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("filled"), label_studio_url="http://studio.test:8080")
    fill(settings, TASKS, people=40)
    return settings


@pytest.fixture
def store(filled: Settings, tmp_path: Path) -> Iterator[Store]:
    import shutil

    shutil.copytree(filled.model_dir, tmp_path / "coral")
    store = Store(filled.model_copy(update={"model_dir": tmp_path / "coral"}).store_url)
    yield store
    store.close()


@pytest.fixture
def client(filled: Settings, store: Store) -> FlaskClient:
    return create_app(filled, store).test_client()


def shown(page: str) -> list[int]:
    """Return the tasks that a round's page lists as changed, in order."""
    return [int(found) for found in re.findall(r"Open task (\d+) in", page)]


def test_the_overview_says_what_the_serving_round_changed_and_leads_to_it(client: FlaskClient, store: Store) -> None:
    effect = store.rounds(1)[0].metrics["effect"]
    assert effect["people"] > 1 < effect["labels"], "the made-up corrections change something"
    page = get(client).text
    said = re.sub(r"<[^>]+>", "", page)
    assert f"Round 1.1 learned from {effect['people']} tasks that people labelled anew since round 1." in said
    assert f"Elsewhere, {effect['labels']} labels and {effect['flags']} flags changed, of {TASKS} tasks." in said
    assert f'href="{PROJECT}/rounds/1.1#changes">Look at these {effect["tasks"]} tasks' in page
    changed = re.findall(r'data-label="Changed">(?:<a [^>]+>)?([^<]+)<', page)
    assert changed == [str(effect["tasks"]), "–"], "the first round had nothing to change"


def test_a_round_of_an_older_coral_is_counted_when_it_serves(client: FlaskClient, store: Store) -> None:
    newest = store.rounds(1)[0]
    counted = {name: value for name, value in newest.metrics.items() if name != "effect"}
    with store.writing() as connection:
        connection.execute(tables.rounds.update().where(tables.rounds.c.id == newest.id).values(metrics=counted))
    assert "effect" not in store.rounds(1)[0].metrics
    page = get(client).text
    assert f"Look at these {newest.metrics['effect']['tasks']} tasks" in page
    assert re.search(rf'data-label="Changed"><a [^>]+>{newest.metrics["effect"]["tasks"]}<', page)


def test_the_pages_of_a_round_list_every_change_once_the_most_doubtful_first(client: FlaskClient, store: Store) -> None:
    new, old = store.rounds(1)
    human = set(store.human_labels(1))
    before = {v.task_id: v for v in store.verdicts(1, old.id)}
    wanted = [
        v.task_id
        for v in sorted(store.verdicts(1, new.id), key=lambda v: v.rank)
        if Source.HUMAN not in (v.source, before[v.task_id].source)
        and (v.label, v.flag) != (before[v.task_id].label, before[v.task_id].flag)
    ]
    assert len(wanted) == new.metrics["effect"]["tasks"] > 25
    seen: list[int] = []
    for number in range(1, 20):
        page = get(client, f"/rounds/1.1?size=25&page={number}").text
        seen += shown(page)
        if 'rel="next"' not in page:
            break
    assert seen == wanted
    assert not human & set(seen), "those are the cause"
    assert f'href="http://studio.test:8080/projects/1/data?task={wanted[-1]}"' in page
    beyond = get(client, f"/rounds/1.1?size=25&page={number + 1}")
    assert beyond.status_code == 400
    assert "does not exist" in beyond.text
    assert get(client, "/rounds/1.1?page=no").status_code == 400


def test_a_line_says_what_it_was_and_what_it_is(client: FlaskClient, store: Store) -> None:
    new, old = store.rounds(1)
    changes = store.verdict_changes(1, old.id, new.id, elsewhere=True)
    change = next(c for c in changes if c.label != c.label_before and None not in (c.label, c.label_before))
    page = get(client, "/rounds/1.1?size=200").text
    row = next(row for row in page.split("<tr class=")[1:] if f"Open task {change.task_id} in" in row)
    assert f"{change.label_before} → <strong>{change.label}</strong>" in row
    assert (f"{change.flag_before}</span> →" in row) == (change.flag != change.flag_before)


def test_a_changed_text_is_shown_as_a_text_and_cut(client: FlaskClient, store: Store) -> None:
    new, old = store.rounds(1)
    human = set(store.human_labels(1))
    change = next(v for v in store.verdicts(1, new.id) if v.task_id > len(HOSTILE) and v.task_id not in human)
    text = HOSTILE[0] + "long " * 200_000
    store.put_samples(1, [Sample(change.task_id, text)])
    digest = Sample(change.task_id, text).content_hash
    for one, label in ((old, "<b>was</b>"), (new, "<i>is</i>")):
        store.put_verdicts(
            1, one.id, [replace(change, label=label, source=Source.SLM, rank=0, content_hash=digest)], None
        )
    answer = get(client, "/rounds/1.1")
    assert shown(answer.text)[0] == change.task_id
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert "&lt;b&gt;was&lt;/b&gt; → <strong>&lt;i&gt;is&lt;/i&gt;</strong>" in answer.text
    assert not re.findall(r"<script(?![^>]*src=)|<img|<b>was|<[a-z][^<>]*\s(?:on\w+|style)=", answer.text)
    assert len(answer.data) < 200_000
    [line] = store.verdict_changes(1, old.id, new.id, limit=1, characters=10, elsewhere=True)
    assert line.text == text[:10]


def test_a_first_round_has_no_list(client: FlaskClient) -> None:
    assert 'id="changes"' not in get(client, "/rounds/1").text


# --- the way back ------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, f"sqlite:///{tmp_path / 'coral.sqlite3'}", monkeypatch)
    made.run()
    made.studio.annotations[1] = [annotation(101, "good")]
    made.run(retrain=True)
    monkeypatch.setattr("coral_backend.jobs.client_for", lambda _settings: made.client)
    yield made
    made.store.close()


@pytest.fixture
def lead(world: World) -> FlaskClient:
    return create_app(settings_in(world.settings.model_dir), world.store).test_client()


def token(client: FlaskClient) -> str:
    found = re.search(r'name="form_token" value="([^"]+)"', get(client).text)
    assert found is not None
    return found[1]


def go_back(client: FlaskClient, name: str = "1", given: dict[str, str] | None = None, **headers: str) -> TestResponse:
    data = {"form_token": token(client)} if given is None else given
    return client.post(f"{PROJECT}/rounds/{name}/rollback", data=data, headers={**basic(), **headers})


def serves(world: World) -> str:
    serving = world.store.project(1).active_round
    assert serving is not None
    return world.store.round(serving).name


def test_a_round_serves_again_at_a_press_and_labels_of_people_stay(lead: FlaskClient, world: World) -> None:
    page = get(lead, "/rounds/1").text
    assert f'action="{PROJECT}/rounds/1/rollback"' in page
    assert re.search(
        r"<details class=\"confirm[^>]*>(?:(?!</details>).)*Roll back to round 1</button>", page, re.DOTALL
    )
    assert "/rollback" not in get(lead, "/rounds/1.1").text, "it serves already"
    answer = go_back(lead)
    assert (answer.status_code, serves(world)) == (303, "1")
    assert world.studio.selected == world.store.project(1).model_version == world.store.rounds(1)[1].model_version
    assert world.store.human_labels(1)[1].label == "good"
    told = lead.get(str(answer.location), headers=basic()).text
    assert "The project is back at the round that serves below" in told
    assert "round 1 serves as" in told
    again = lead.get(f"{PROJECT}/rounds/1/rollback", headers=basic())
    assert (again.status_code, again.location) == (302, PROJECT), "loading the address anew presses nothing"


def test_tasks_that_nothing_can_label_now_are_told_of(lead: FlaskClient, world: World) -> None:
    from coral_backend import corpus_arrays

    (corpus_arrays.round_folder(world.settings, world.store.rounds(1)[1]) / corpus_arrays.ARRAYS_FILE).unlink()
    world.studio.tasks[99] = {"text": "good late film"}
    world.run(retrain=True)
    answer = go_back(lead)
    assert "wait for the next round" in lead.get(str(answer.location), headers=basic()).text


def test_two_people_who_press_at_once_go_back_once(
    lead: FlaskClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, inside, go_on = {"form_token": token(lead)}, threading.Event(), threading.Event()
    push, pushes = world.studio.push_predictions, []

    def slow(*given: Any, **more: Any) -> Any:
        pushes.append(given)
        inside.set()
        assert go_on.wait(30)
        return push(*given, **more)

    monkeypatch.setattr(world.studio, "push_predictions", slow)
    answers: list[TestResponse] = []
    first = threading.Thread(target=lambda: answers.append(go_back(lead.application.test_client(), "1", given)))
    first.start()
    try:
        assert inside.wait(30)
        second = go_back(lead, "1", given)
        assert second.status_code == 409
        assert "going back already" in second.text
        assert serves(world) == "1.1"
    finally:
        go_on.set()
        first.join(30)
    assert [answer.status_code for answer in answers] == [303]
    assert (len(pushes), serves(world)) == (1, "1")
    third = go_back(lead, "1", given)
    assert third.status_code == 409
    assert "Round 1 serves already" in third.text


def test_a_round_under_way_comes_first(lead: FlaskClient, world: World) -> None:
    begun = world.begin(retrain=True)
    page = get(lead, "/rounds/1").text
    assert "/rollback" not in page
    assert "wait for round 1.2 or cancel it: it is pending" in page
    answer = go_back(lead)
    assert answer.status_code == 409
    assert "Round 1.2 of project 1 is pending. Wait for it, or pause or cancel it below." in answer.text
    world.store.set_round_status(begun.id, RoundStatus.CANCELLED)
    never = go_back(lead, "1.2")
    assert never.status_code == 409
    assert "Round 1.2 is cancelled; only one that is done can serve." in never.text
    assert serves(world) == "1.1"


def test_what_is_not_there_cannot_serve(lead: FlaskClient, world: World) -> None:
    answer = go_back(lead, "7")
    assert answer.status_code == 404
    assert "Its rounds: 1.1, 1." in answer.text
    gone = lead.post("/dashboard/projects/77/rounds/1/rollback", data={"form_token": token(lead)}, headers=basic())
    assert gone.status_code == 404
    with pytest.raises(NotFoundError):
        world.store.project(77)
    assert serves(world) == "1.1"


def test_label_studio_may_be_away(lead: FlaskClient, world: World) -> None:
    world.studio.down = True
    answer = go_back(lead)
    assert answer.status_code == 503
    assert "Label Studio does not answer" in answer.text
    assert serves(world) == "1.1"
    world.studio.down = False
    assert go_back(lead).status_code == 303, "nothing is left in the way of a second try"


@pytest.mark.parametrize(
    ("given", "headers"),
    [({}, {}), ({"form_token": "1.abc"}, {}), (None, {"Origin": "http://evil.test"}), (None, {"Sec-Fetch-Site": "cross-site"})],
)  # fmt: skip
def test_a_form_of_another_site_goes_nowhere(
    lead: FlaskClient, world: World, given: dict[str, str] | None, headers: dict[str, str]
) -> None:
    assert go_back(lead, "1", given, **headers).status_code == 403
    assert serves(world) == "1.1"


def test_without_the_password_nothing_goes_back(lead: FlaskClient, world: World) -> None:
    answer = lead.post(f"{PROJECT}/rounds/1/rollback", data={"form_token": token(lead)})
    assert (answer.status_code, serves(world)) == (401, "1.1")
