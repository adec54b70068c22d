"""Does the webhook lose nothing and change nothing twice, whatever arrives, however often and in whatever order?"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from coral_backend.app import create_app
from coral_backend.exceptions import QueueUnavailableError
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import RoundStatus, Sample
from tests.web_parts import (
    CONFIG,
    RENAMED,
    SECRET,
    UNSERVABLE,
    annotation,
    basic,
    event,
    finish_round,
    settings_in,
    store_in,
    task,
    text_of,
    verdict,
)

HEADERS = {"X-Coral-Secret": SECRET}


@pytest.fixture
def settings(tmp_path: Path, url: str) -> Settings:
    return settings_in(tmp_path, max_body_mb=1, database_url=SecretStr(url))


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = store_in(settings)
    yield store
    store.close()


@pytest.fixture
def nudged() -> list[int]:
    return []


@pytest.fixture
def app(settings: Settings, store: Store, nudged: list[int], monkeypatch: pytest.MonkeyPatch) -> Flask:
    monkeypatch.setattr("coral_backend.app.Nudger.__call__", lambda _self, project_id: nudged.append(project_id))
    return create_app(settings, store)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def send(client: FlaskClient, body: Any) -> TestResponse:
    return client.post("/webhook", json=body, headers=HEADERS)


def labels(store: Store) -> dict[int, str | None]:
    return {task_id: human.label for task_id, human in store.human_labels(1).items()}


# --- what people do ---------------------------------------------------------------------------------------------------


def test_a_submitted_annotation_is_a_human_label(client: FlaskClient, store: Store) -> None:
    answer = send(client, event("ANNOTATION_CREATED", annotation=annotation(1, 7), task=task(7)))
    assert answer.json == {"status": "ok", "event": "ANNOTATION_CREATED", "received": 1, "changed": 1, "again": False}
    assert labels(store) == {7: "bad"}
    assert store.project(1).changes == 1


def test_the_task_may_stand_only_beside_the_annotation(client: FlaskClient, store: Store) -> None:
    nameless = {key: value for key, value in annotation(1, 7).items() if key != "task"}
    send(client, event("ANNOTATION_CREATED", annotation=nameless, task=task(7)))
    assert labels(store) == {7: "bad"}


def test_annotations_from_predictions_come_as_two_lists(client: FlaskClient, store: Store) -> None:
    annotations = [annotation(1, 7, "good"), annotation(2, 8, "bad")]
    nameless = [{key: value for key, value in a.items() if key != "task"} for a in annotations]
    send(client, event("ANNOTATIONS_CREATED", annotation=nameless, task=[task(7), task(8)]))
    assert labels(store) == {7: "good", 8: "bad"}


def test_an_update_replaces_the_label(client: FlaskClient, store: Store) -> None:
    send(client, event("ANNOTATION_CREATED", annotation=annotation(1, 7, "bad")))
    send(client, event("ANNOTATION_UPDATED", annotation=annotation(1, 7, "good", at=2)))
    assert labels(store) == {7: "good"}


@pytest.mark.parametrize("given", [annotation(1, 7, None), annotation(1, 7, "good", skipped=True)])
def test_a_skipped_task_and_an_empty_result_are_seen_but_no_label(
    client: FlaskClient, store: Store, given: dict[str, Any]
) -> None:
    assert send(client, event("ANNOTATION_CREATED", annotation=given)).status_code == 200
    assert labels(store) == {}
    assert store.annotation_ids(1) == {1}


@pytest.mark.parametrize(
    "body",
    [
        event("ANNOTATIONS_DELETED", annotations=[{"id": 1}, {"id": 999}]),
        event("ANNOTATION_DELETED", annotation={"id": 1}),
    ],
)
def test_a_deleted_annotation_is_no_label_any_more(client: FlaskClient, store: Store, body: dict[str, Any]) -> None:
    send(client, event("ANNOTATION_CREATED", annotation=annotation(1, 7)))
    assert send(client, body).status_code == 200
    assert labels(store) == {}


def story() -> list[dict[str, Any]]:
    """Two annotations of one task: one is corrected and stays, the other is deleted."""
    return [
        event("ANNOTATION_CREATED", annotation=annotation(1, 7, "bad", at=1)),
        event("ANNOTATION_UPDATED", annotation=annotation(1, 7, "good", at=2)),
        event("ANNOTATION_CREATED", annotation=annotation(2, 7, "bad", at=3)),
        event("ANNOTATIONS_DELETED", annotations=[{"id": 2}]),
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_ends_in_the_same_state(client: FlaskClient, store: Store, order: tuple[int, ...]) -> None:
    for position in order:
        assert send(client, story()[position]).status_code == 200
    assert labels(store) == {7: "good"}
    assert store.annotation_ids(1) == {1}


def test_ten_deliveries_are_as_good_as_one(client: FlaskClient, store: Store) -> None:
    events = story() * 10
    random.Random(0).shuffle(events)
    answers = [send(client, body) for body in events]
    assert [answer.status_code for answer in answers] == [200] * 40
    assert sum(not answer.json["again"] for answer in answers if answer.json) == 4
    assert labels(store) == {7: "good"}
    before = store.project(1).changes
    send(client, story()[1])
    assert store.project(1).changes == before


def test_many_at_once_lose_nothing(app: Flask, store: Store) -> None:
    """What eight annotators send at the same moment is all there, and each change is counted."""
    before = store.project(1).changes

    def submit(annotation_id: int) -> int:
        body = event("ANNOTATION_CREATED", annotation=annotation(annotation_id, annotation_id % 40))
        return send(app.test_client(), body).status_code

    with ThreadPoolExecutor(8) as people:
        answers = list(people.map(submit, range(1, 121)))
    assert answers == [200] * 120
    assert store.annotation_ids(1) == set(range(1, 121))
    assert store.project(1).changes == before + 120


def test_five_thousand_annotations_in_one_event(tmp_path: Path, store: Store) -> None:
    client = create_app(settings_in(tmp_path), store).test_client()
    many = [annotation(i, i % 4000) for i in range(1, 5001)]
    answer = send(client, event("ANNOTATIONS_CREATED", annotation=many, task=[task(a["task"]) for a in many]))
    assert answer.json is not None
    assert (answer.json["received"], answer.json["changed"]) == (5000, 5000)
    assert len(labels(store)) == 4000


def test_one_bad_annotation_does_not_cost_the_others(client: FlaskClient, store: Store) -> None:
    odd: list[Any] = [annotation(1, 7), {"id": "x", "task": 8}, "text", {**annotation(3, 9), "task": None}]
    answer = send(client, event("ANNOTATIONS_CREATED", annotation=odd))
    assert answer.status_code == 200
    assert answer.json is not None
    assert (answer.json["received"], answer.json["refused"]) == (1, 3)
    assert "names no task" in answer.json["problems"][2]
    assert labels(store) == {7: "bad"}


# --- tasks and the project --------------------------------------------------------------------------------------------


def test_imported_tasks_are_known_before_the_first_round(client: FlaskClient, store: Store, nudged: list[int]) -> None:
    assert send(client, event("TASKS_CREATED", tasks=[task(5), task(6)])).status_code == 200
    assert [sample.task_id for sample in store.samples(1)] == [5, 6]
    assert (store.wanted(1), nudged) == ([], [])


def test_imported_tasks_are_wanted_once_a_round_serves(client: FlaskClient, store: Store, nudged: list[int]) -> None:
    finish_round(store, [verdict(1)])
    unusable = {"id": 6, "data": {}}
    send(client, event("TASKS_CREATED", tasks=[task(5), unusable]))
    assert (store.wanted(1), nudged) == ([5], [1])
    assert {sample.task_id for sample in store.samples(1)} == {1, 5, 6}


def test_deleted_tasks_are_retired(client: FlaskClient, store: Store) -> None:
    store.put_samples(1, [Sample(5, text_of(5)), Sample(6, text_of(6))])
    send(client, event("TASKS_DELETED", tasks=[{"id": 5}]))
    assert [sample.task_id for sample in store.samples(1)] == [6]


def test_renamed_labels_make_the_round_stale(client: FlaskClient, store: Store) -> None:
    begun = store.create_round(1, {})
    answer = send(client, event("PROJECT_UPDATED", config=RENAMED, title="New"))
    assert answer.json is not None
    assert answer.json["config_changed"] is True
    project = store.project(1)
    assert (project.title, project.label_space.labels) == ("New", ("good", "awful"))
    assert store.round(begun.id).status is RoundStatus.STALE


def test_our_own_change_of_the_project_changes_nothing(client: FlaskClient, store: Store) -> None:
    begun = store.create_round(1, {})
    before = store.project(1)
    answer = send(client, event("PROJECT_UPDATED"))
    assert answer.json is not None
    assert answer.json["config_changed"] is False
    assert store.project(1) == before
    assert store.round(begun.id).status is RoundStatus.PENDING


def test_a_config_there_and_back_ends_where_it_began(client: FlaskClient, store: Store) -> None:
    for config in (RENAMED, CONFIG, RENAMED, CONFIG):  # the second pair are the same bytes as the first
        send(client, event("PROJECT_UPDATED", config=config))
    assert store.project(1).label_config == CONFIG


def test_a_config_that_cannot_be_served_is_answered_and_the_old_one_stays(client: FlaskClient, store: Store) -> None:
    send(client, event("ANNOTATION_CREATED", annotation=annotation(1, 7)))
    before = store.project(1)
    body = event("PROJECT_UPDATED", config=UNSERVABLE)
    for _delivery in range(2):  # a failed event counts as not taken
        answer = send(client, body)
        assert answer.status_code == 422
        assert answer.json is not None
        assert "RectangleLabels" in answer.json["error"]["message"]
    assert store.project(1) == before
    assert labels(store) == {7: "bad"}


def test_the_train_button_starts_a_round(client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_backend import jobs

    asked: list[int] = []
    monkeypatch.setattr(jobs, "request_advance", lambda _settings, round_id, **_more: asked.append(round_id))
    body = event("START_TRAINING")
    # Only basic auth comes with this event.
    answer = client.post("/webhook", json=body, headers=basic())
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["round"] == "1"
    assert asked == [store.rounds(1)[0].id]
    again = client.post("/webhook", json=body, headers=basic())
    assert again.status_code == 409
    assert again.json is not None
    assert "Wait for it, or cancel it" in again.json["error"]["message"]


def test_the_train_button_without_a_queue_says_so(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_backend import jobs

    def down(*_args: Any, **_more: Any) -> None:
        raise QueueUnavailableError("Redis at 127.0.0.1:1 does not answer. Start it.")

    monkeypatch.setattr(jobs, "request_advance", down)
    answer = send(client, event("START_TRAINING"))
    assert answer.status_code == 503
    assert answer.json is not None
    assert "Start it" in answer.json["error"]["message"]


def test_the_train_button_begins_no_round_that_could_not_keep_its_budget(settings: Settings, store: Store) -> None:
    client = create_app(settings.model_copy(update={"openai_base_url": "http://127.0.0.1:9/v1"}), store).test_client()
    store.save_project(replace(store.project(1), options={"llm_model": "unheard-of", "budget": 5.0}))
    answer = send(client, event("START_TRAINING"))
    assert answer.status_code == 503
    assert answer.json is not None
    told = answer.json["error"]["message"]
    assert "The budget is $5 and the price of 'unheard-of' at 127.0.0.1:9 is not known" in told
    assert "CORAL_PRICES" in told
    assert store.rounds(1) == [], "no round that would pause at once"
    store.save_project(replace(store.project(1), options={"annotator": "embedded", "batch": True}))
    answer = send(client, event("START_TRAINING"))
    assert answer.json is not None
    assert "--batch needs an OpenAI-compatible endpoint" in answer.json["error"]["message"]
    assert store.rounds(1) == []


@pytest.mark.parametrize("action", ["LABEL_LINK_CREATED", "PROJECT_DELETED", "made up", "__class__", "x" * 5000])
def test_an_event_that_we_do_not_know_is_ignored(client: FlaskClient, store: Store, action: str) -> None:
    answer = send(client, event(action, annotation=annotation(1, 7)))
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["status"] == "ignored"
    assert labels(store) == {}


# --- bad input --------------------------------------------------------------------------------------------------------

BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    (b"[]", "a list"),
    (b'"text"', "a text"),
    (b"null", "missing"),
    (b"{}", "'action' is missing"),
    (b'{"action": 7, "project": {"id": 1}}', "'action' is a number"),
    (b'{"action": "ANNOTATION_CREATED"}', "names no project"),
    (b'{"action": "ANNOTATION_CREATED", "project": {}}', "must be a number"),
    (b'{"action": "ANNOTATION_CREATED", "project": "../../x"}', "must be a number"),
    (b'{"action": "ANNOTATION_CREATED", "project": {"id": 1}}', "no 'annotation'"),
    (b'{"action": "ANNOTATION_CREATED", "project": 1, "annotation": 7}', "no 'annotation'"),
    (b'{"action": "ANNOTATION_CREATED", "project": 1, "annotation": {"id": 1}}', "names no task"),
    (b'{"action": "ANNOTATIONS_DELETED", "project": 1, "annotations": [{"id": 1e400}]}', "whole number"),
    (b'{"action": "TASKS_CREATED", "project": 1, "tasks": [{"id": "' + b"9" * 5000 + b'"}]}', "whole number"),
    (b'{"action": "TASKS_CREATED", "project": 1, "tasks": [{"id": ' + b"9" * 5000 + b"}]}", "not JSON"),
    (b"[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("body", "complaint"), BAD_BODIES)
def test_a_bad_body_is_answered_and_nothing_is_stored(
    client: FlaskClient, store: Store, body: bytes, complaint: str
) -> None:
    answer = client.post("/webhook", data=body, headers=HEADERS)
    assert answer.status_code == 400
    assert answer.json is not None
    assert complaint in answer.json["error"]["message"]
    assert store.annotation_ids(1) == set()
    assert store.samples(1) == []


def test_an_unknown_project_is_answered(client: FlaskClient) -> None:
    answer = send(client, event("ANNOTATION_CREATED", project_id=8, annotation=annotation(1, 7)))
    assert answer.status_code == 404
    assert answer.json is not None
    assert "Project 8 is not connected" in answer.json["error"]["message"]


def test_a_body_that_is_too_large_is_refused(client: FlaskClient, store: Store) -> None:
    body = event("ANNOTATION_CREATED", annotation={**annotation(1, 7), "note": "x" * 1_100_000})
    answer = send(client, body)
    assert answer.status_code == 413
    assert answer.json is not None
    assert "larger than 1 MB" in answer.json["error"]["message"]
    assert labels(store) == {}


def test_the_content_type_does_not_matter(client: FlaskClient, store: Store) -> None:
    body = json.dumps(event("ANNOTATION_CREATED", annotation=annotation(1, 7)))
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense"):
        assert client.post("/webhook", data=body, content_type=content_type, headers=HEADERS).status_code == 200
    assert labels(store) == {7: "bad"}
