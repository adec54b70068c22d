"""Does the web process speak Label Studio's protocol, tell the truth in its statuses, and keep secrets and tracebacks in?"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from sqlalchemy.exc import OperationalError
from werkzeug.test import TestResponse

from benchmarks.web import serving
from coral_backend import queue
from coral_backend.app import Nudger, create_app
from coral_backend.exceptions import SettingsError
from coral_backend.metrics import FRESH_SECONDS, Metrics
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Answer, Sample
from tests.web_parts import (
    CONFIG,
    PASSWORD,
    RENAMED,
    SECRET,
    UNSERVABLE,
    VERSION,
    annotation,
    asked,
    basic,
    chosen,
    event,
    finish_round,
    settings_in,
    store_in,
    task,
    text_of,
    verdict,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, max_body_mb=1)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = store_in(settings)
    yield store
    store.close()


@pytest.fixture
def app(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Flask:
    monkeypatch.setattr("coral_backend.app.Nudger.__call__", lambda _self, _project_id: None)
    return create_app(settings, store)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def post(client: FlaskClient, path: str, body: Any) -> TestResponse:
    return client.post(path, json=body, headers=basic())


def told(answer: TestResponse) -> Any:
    """Return the JSON of an answer that must have one."""
    assert answer.json is not None
    return answer.json


def set_up(project: Any = "2.1795254486", schema: Any = CONFIG, **more: Any) -> dict[str, Any]:
    """Return a body of ``/setup`` as Label Studio sends it."""
    names = {"hostname": "http://localhost:8080", "access_token": "canary-token", "extra_params": None}
    return {"project": project, "schema": schema, **names, **more}


# --- /setup -----------------------------------------------------------------------------------------------------------


def test_setup_connects_a_project_and_says_its_version(client: FlaskClient, store: Store) -> None:
    answer = post(client, "/setup", set_up())
    assert (answer.status_code, answer.json) == (200, {"model_version": "coral-r0"})
    assert store.project(2).label_space.labels == ("good", "bad")


def test_setup_again_writes_nothing_and_says_the_version_that_serves(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_round(store, [verdict(1)])
    monkeypatch.setattr(store, "save_project", None)
    for _time in range(3):
        assert told(post(client, "/setup", set_up("1.5"))) == {"model_version": VERSION}


def test_setup_takes_options_and_never_the_token(client: FlaskClient, store: Store, tmp_path: Path) -> None:
    assert post(client, "/setup", set_up(extra_params='{"epochs": 5}')).status_code == 200
    assert store.project(2).options == {"epochs": 5}
    assert post(client, "/setup", set_up(extra_params={"seed": 3})).status_code == 200
    assert store.project(2).options == {"seed": 3}
    assert b"canary-token" not in b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (set_up(schema=UNSERVABLE), 422, "<RectangleLabels"),
        (set_up(schema="<View"), 422, "not well-formed"),
        (set_up(schema='<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>'), 422, "entity"),
        (set_up(schema=None), 400, "'schema' is missing"),
        (set_up(schema={"a": 1}), 400, "'schema' is an object"),
        (set_up("../../x"), 400, "must be a number"),
        (set_up(None), 400, "must be a number"),
        (set_up(extra_params=[1]), 400, "extra_params is a list"),
        (set_up(extra_params={"openai_api_key": "sk-canary"}), 400, "openai_api_key cannot be set"),
        (set_up(extra_params={"epochs": -1}), 400, "project option"),
        (set_up(extra_params={"slm_model": "/etc"}), 400, "set CORAL_SLM_MODEL in CORAL's environment"),
        ([], 400, "The body is a list"),
    ],
)
def test_setup_refuses_what_it_cannot_serve(
    client: FlaskClient, store: Store, body: Any, status: int, complaint: str
) -> None:
    answer = post(client, "/setup", body)
    assert answer.status_code == status
    assert complaint in told(answer)["error"]["message"]
    assert "canary" not in answer.text
    assert [project.id for project in store.projects()] == [1]


# --- /predict ---------------------------------------------------------------------------------------------------------


def test_predict_answers_as_label_studio_wants_it(client: FlaskClient, store: Store) -> None:
    finish_round(store, [verdict(1, "bad", 0.25)])
    answer = told(post(client, "/predict", asked(task(1), task(2))))
    assert answer["model_version"] == VERSION
    first, second = answer["results"]
    assert (chosen(first), first["score"], first["model_version"], second) == ("bad", 0.25, VERSION, [])


def test_setup_and_predict_carry_the_same_version(client: FlaskClient, store: Store) -> None:
    finish_round(store, [verdict(1)])
    prediction = told(post(client, "/predict", asked(task(1))))["results"][0]
    assert told(post(client, "/setup", set_up("1.5")))["model_version"] == prediction["model_version"]


def test_interactive_pre_annotation_gets_the_same_answer(client: FlaskClient, store: Store) -> None:
    finish_round(store, [verdict(1)])
    plain = told(post(client, "/predict", asked(task(1))))
    assert told(post(client, "/predict", asked(task(1), context={"result": [{"id": "u1"}]}))) == plain


@pytest.mark.parametrize("params", [None, [], "text", {}, {"context": "text"}])
def test_params_of_any_kind_are_taken(client: FlaskClient, store: Store, params: Any) -> None:
    finish_round(store, [verdict(1)])
    assert chosen(told(post(client, "/predict", {**asked(task(1)), "params": params}))["results"][0]) == "good"


def test_predict_takes_a_new_label_config_along(client: FlaskClient, store: Store) -> None:
    assert post(client, "/predict", asked(task(1), config=RENAMED)).status_code == 200
    assert store.project(1).label_space.labels == ("good", "awful")


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        ({"project": "1.5"}, 400, "'tasks' is missing"),
        ({"project": "1.5", "tasks": {"id": 1}}, 400, "'tasks' is an object"),
        (asked(task(1), project="8.5"), 404, "Project 8 is not connected"),
        (asked(project="8.5"), 404, "Project 8 is not connected"),
        (asked(task(1), project="x"), 400, "must be a number"),
        (asked(task(1), config=UNSERVABLE), 422, "RectangleLabels"),
    ],
)
def test_predict_refuses_what_it_cannot_serve(client: FlaskClient, body: Any, status: int, complaint: str) -> None:
    answer = post(client, "/predict", body)
    assert answer.status_code == status
    assert complaint in told(answer)["error"]["message"]


# --- the other routes -------------------------------------------------------------------------------------------------


def test_versions_are_those_of_finished_rounds(client: FlaskClient, store: Store) -> None:
    finish_round(store, [verdict(1)], version="coral-r1")
    finish_round(store, [verdict(1)], version="coral-r2")
    store.create_round(1, {})
    post(client, "/setup", set_up())
    finish_round(store, [verdict(1)], project_id=2, version="other-r1")
    assert told(client.get("/versions?project=1.5", headers=basic())) == {"versions": ["coral-r2", "coral-r1"]}
    assert told(post(client, "/versions", {"project": 1}))["versions"] == ["coral-r2", "coral-r1"]
    assert told(client.get("/versions", headers=basic()))["versions"] == ["coral-r2", "coral-r1", "other-r1"]
    assert client.get("/versions?project=9", headers=basic()).status_code == 404


def test_the_overview_says_what_is_wrong(client: FlaskClient, store: Store) -> None:
    begun = store.create_round(1, {})
    answer = told(client.get("/", headers=basic()))
    assert answer["database"] == {"state": "up"}
    assert answer["queue"]["state"] == "down"
    assert "No Redis is known" in answer["queue"]["reason"]
    [project] = answer["projects"]
    assert (project["id"], project["model_version"], project["labels"]) == (1, "coral-r0", ["good", "bad"])
    assert project["round"] == {"name": begun.name, "status": "pending", "stage": "sync", "progress": {}}


def test_the_overview_leaves_the_queues_client_open(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Redis] = []
    ours = Redis()  # connects when it is first used: never here
    monkeypatch.setattr(ours, "close", lambda: closed.append(ours))
    monkeypatch.setattr(queue, "connect", lambda _settings: ours)
    one = queue.WorkerInfo("w", ("llm",), "idle", None, 1.0)
    monkeypatch.setattr(queue, "workers", lambda redis: [one] if redis is ours else [])
    answer = told(client.get("/", headers=basic()))["queue"]
    assert answer == {"state": "up", "workers": [{"name": "w", "queues": ["llm"], "state": "idle"}]}
    assert closed == []


def test_the_overview_without_a_database(client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store._engine, "connect", _broken)
    answer = told(client.get("/", headers=basic()))
    assert answer["database"]["state"] == "down"
    assert "does not answer (disk I/O error)" in answer["database"]["reason"]
    assert "canary" not in str(answer)


def numbers(text: str) -> dict[tuple[str, str], float]:
    """Return the samples of Prometheus' text by name and labels."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, ",".join(f"{k}={v}" for k, v in sorted(s.labels.items()))): s.value for s in found}


def test_metrics_tell_the_state_of_each_project(client: FlaskClient, store: Store) -> None:
    finish_round(store, [verdict(1), verdict(2)])
    store.put_samples(1, [Sample(3, "", "no text"), Sample(4, text_of(4))], wanted=True)
    answer = Answer("good", prompt_tokens=40, completion_tokens=2)
    store.put_llm_label(1, 1, Sample(1, text_of(1)), answer, prompt_version="v")
    post(client, "/webhook", event("ANNOTATION_CREATED", annotation=annotation(1, 2)))
    begun = store.create_round(1, {})
    lease = store.take_lease("a round")
    assert lease is not None
    store.update_round(begun.id, lease, stage="annotate", progress={"annotate": {"done": 1, "total": 4}})
    now = numbers(client.get("/metrics", headers=basic()).text)
    assert now["coral_samples", "project=1"] == 4
    assert now["coral_samples_unusable", "project=1"] == 1
    assert now["coral_samples_wanted", "project=1"] == 2
    assert now["coral_human_labels", "project=1"] == 1
    assert now["coral_llm_labels", "project=1,round=1"] == 1
    assert now["coral_llm_tokens", "kind=prompt,project=1,round=1"] == 40
    assert now["coral_flags", "flag=noisy,project=1"] == 2
    assert now["coral_flags", "flag=clean,project=1"] == 0
    assert now["coral_round_active", "project=1"] == 1
    assert now["coral_round_progress", "project=1,round=2,stage=annotate"] == 0.25
    assert now["coral_round_stage", "project=1,round=2,stage=annotate"] == 1
    assert now["coral_webhook_events_total", "action=ANNOTATION_CREATED,again=false"] == 1
    assert now["coral_request_seconds_count", "method=POST,route=/webhook,status=200"] == 1


def test_foreign_paths_make_no_new_series(client: FlaskClient) -> None:
    for path in ("/a", "/b", "/c"):
        client.get(path, headers=basic())
    text = client.get("/metrics", headers=basic()).text
    assert numbers(text)["coral_request_seconds_count", "method=ANY,route=other,status=404"] == 3


def test_metrics_count_the_store_only_so_often(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    metrics = Metrics(store, clock=lambda: now[0])
    assert numbers(metrics.text().decode())["coral_samples", "project=1"] == 0
    store.put_samples(1, [Sample(1, "text")])
    now[0] = FRESH_SECONDS - 0.1
    assert numbers(metrics.text().decode())["coral_samples", "project=1"] == 0
    now[0] = FRESH_SECONDS
    assert numbers(metrics.text().decode())["coral_samples", "project=1"] == 1


# --- errors -----------------------------------------------------------------------------------------------------------


def _broken(*_args: Any, **_more: Any) -> Any:
    raise OperationalError("select secret-statement", {"text": "canary-text"}, Exception("disk I/O error"))


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/predict", 405), ("POST", "/health", 405)]
)
def test_errors_of_routing_are_json(client: FlaskClient, method: str, path: str, status: int) -> None:
    answer = client.open(path, method=method, headers=basic())
    assert answer.status_code == status
    assert told(answer)["error"]["message"]
    assert ("Allow" in answer.headers) is (status == 405)


def test_a_slash_at_the_end_does_not_matter(client: FlaskClient) -> None:
    assert post(client, "/setup/", set_up()).status_code == 200


def test_an_unexpected_error_shows_only_a_reference(
    client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_project_id: int) -> None:
        raise ZeroDivisionError("canary in the text")

    monkeypatch.setattr(store, "project", fail)
    answer = post(client, "/predict", asked(task(1)))
    assert answer.status_code == 500
    error = told(answer)["error"]
    assert "canary" not in answer.text
    assert "Traceback" not in answer.text
    assert error["reference"] in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_database_that_is_away_is_a_503(client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store._engine, "connect", _broken)
    answer = post(client, "/predict", asked(task(1)))
    assert answer.status_code == 503
    assert "canary" not in answer.text
    assert "secret-statement" not in answer.text


def test_answers_are_not_kept_by_anybody(client: FlaskClient) -> None:
    answer = client.get("/", headers=basic())
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_no_secret_gets_into_an_answer_or_the_log(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [client.get(path, headers=basic()).text for path in ("/", "/metrics", "/versions", "/nowhere")]
    texts += [post(client, "/setup", set_up(schema=schema)).text for schema in (CONFIG, "<broken")]
    texts.append(client.get("/", headers=basic(password="wrong-canary")).text)
    for secret in (PASSWORD, SECRET, "canary"):
        assert secret not in "".join(texts)
        assert secret not in caplog.text


def test_wrong_settings_are_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Unknown setting CORAL_EPOCH"):
        create_app(Settings.load({"MODEL_DIR": str(tmp_path), "CORAL_EPOCH": "3"}))


# --- the queue is told behind the scenes ------------------------------------------------------------------------------


def test_the_nudger_tells_the_queue_off_the_requests_path(settings: Settings) -> None:
    told_of: list[int] = []
    began, go_on, all_told = threading.Event(), threading.Event(), threading.Event()

    def slow(_settings: Settings, project_id: int) -> None:
        began.set()
        go_on.wait(30)
        told_of.append(project_id)
        if len(told_of) == 3:
            all_told.set()

    nudger = Nudger(settings, slow)
    nudger(1)
    assert began.wait(30)
    for _time in range(100):
        nudger(1)
        nudger(2)
    go_on.set()
    assert all_told.wait(30)
    assert told_of == [1, 1, 2]


def test_the_nudger_outlives_an_error(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    second = threading.Event()

    def fail_first(_settings: Settings, project_id: int) -> None:
        if project_id == 1:
            raise ZeroDivisionError
        second.set()

    nudger = Nudger(settings, fail_first)
    nudger(1)
    nudger(2)
    assert second.wait(30)
    assert "project 1: the queue could not be told" in caplog.text


# --- a real server ----------------------------------------------------------------------------------------------------


def test_gunicorn_serves_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    store = store_in(settings)
    finish_round(store, [verdict(i) for i in range(1, 101)])
    environ = {
        "MODEL_DIR": str(tmp_path),
        "CORAL_BASIC_AUTH_PASSWORD": PASSWORD,
        "CORAL_WEBHOOK_SECRET": SECRET,
        "CORAL_MAX_BODY_MB": "1",
    }
    log_file = tmp_path / "web.log"
    with serving(environ, log_file=log_file) as web:
        assert web.call("GET", "/health") == (200, {"status": "UP", "model_class": "CoralBackend"})
        assert web.call("GET", "/")[0] == 401
        body = event("ANNOTATION_CREATED", annotation=annotation(1, 7, "bad"))
        assert web.call("POST", "/webhook", body, {"X-Coral-Secret": SECRET})[0] == 200
        assert web.call("POST", "/webhook", b"x" * 1_100_000, {"X-Coral-Secret": SECRET})[0] == 413
        status, answer = web.call("POST", "/predict", asked(*(task(i) for i in range(1, 121))), basic())
        assert status == 200
        assert [bool(prediction) for prediction in answer["results"]] == [True] * 100 + [False] * 20
        assert web.rss_mb()["all"] < 600
    assert store.human_labels(1)[7].label == "bad"
    assert len(store.wanted(1)) == 20
    store.close()
    log = log_file.read_text()
    for secret in (PASSWORD, SECRET, base64.b64encode(f"coral:{PASSWORD}".encode()).decode(), json.dumps(PASSWORD)):
        assert secret not in log
