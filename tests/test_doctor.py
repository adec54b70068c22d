"""Does the doctor see each thing that is absent or wrong, and name its cure?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coral_backend import doctor
from coral_backend.auth import secrets_for
from coral_backend.connect import connect
from coral_backend.doctor import Check, Status, examine, failed
from coral_backend.labelstudio.client import LabelStudioHTTPError
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Flag
from tests import filled_store as filled
from tests.fake_label_studio import FakeLabelStudio

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens
CANARY = "canary-4711-secret"


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Answer every request on a free port of loopback in the same way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return filled.settings_in(tmp_path, public_url=NOBODY)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    made = Store(settings.store_url)
    yield made
    made.close()


@pytest.fixture
def client(store: Store, settings: Settings) -> FakeLabelStudio:
    """Return a Label Studio with project 1 connected."""
    made = FakeLabelStudio(1, filled.CONFIG, ["good film"])
    connect(store, settings, made, 1)
    return made


def project_checks(settings: Settings, store: Store, client: FakeLabelStudio, now: float = 0.0) -> dict[str, Check]:
    found = by_name(list(doctor._project(settings, store, client, store.project(1), now)))
    return {name.removeprefix("project 1: "): check for name, check in found.items()}


# --- our own parts ------------------------------------------------------------------------------------------------


def test_where_nothing_runs_every_failure_has_its_cure(tmp_path: Path) -> None:
    checks = examine(filled.settings_in(tmp_path / "fresh", public_url=NOBODY))
    found = by_name(checks)
    assert failed(checks)
    assert {name for name, check in found.items() if check.status is Status.FAIL} >= {
        "settings", "redis", "worker", "web process",
    }  # fmt: skip
    assert all(check.cure for check in checks if check.status in (Status.FAIL, Status.WARN))
    assert "LABEL_STUDIO_API_KEY" in str(found["settings"].cure)
    assert "coral worker" in str(found["worker"].cure)
    assert found["Label Studio"].status is Status.SKIP
    assert "no LLM" in found["annotator"].found
    assert found["small model"].status is Status.OK
    assert not (tmp_path / "fresh").exists(), "the doctor makes nothing"


def test_a_database_that_cannot_be_reached_is_told_without_its_password(tmp_path: Path) -> None:
    settings = filled.settings_in(
        tmp_path, public_url=NOBODY, database_url=f"postgresql://coral:{CANARY}@127.0.0.1:9/coral"
    )
    checks = examine(settings)
    assert by_name(checks)["database"].status is Status.FAIL
    assert CANARY not in json.dumps([check.to_json() for check in checks])


def test_a_label_studio_that_is_away_is_one_failure(tmp_path: Path) -> None:
    settings = filled.settings_in(tmp_path, public_url=NOBODY, label_studio_url=NOBODY, label_studio_api_key=CANARY)
    checks = examine(settings)
    found = by_name(checks)
    assert found["settings"].status is Status.OK
    assert found["Label Studio"].status is Status.FAIL
    assert "Start it" in str(found["Label Studio"].cure)
    assert "token" not in found
    assert CANARY not in json.dumps([check.to_json() for check in checks])


@pytest.mark.parametrize(
    ("status", "body", "state", "words"),
    [
        (200, b'{"data": [{"id": "gpt-4o-mini"}]}', Status.OK, "gpt-4o-mini"),
        (200, b'{"data": [{"id": "llama3"}]}', Status.FAIL, "CORAL_LLM_MODEL to one of: llama3"),
        (401, b"no", Status.FAIL, "OPENAI_API_KEY"),
        (404, b"no", Status.WARN, "without a list of models"),
        (200, b"<html>", Status.WARN, "without a list of models"),
        (200, b'{"data": 3}', Status.WARN, "without a list of models"),
    ],
)
def test_the_llm_endpoint_is_asked_for_its_models(
    tmp_path: Path, status: int, body: bytes, state: Status, words: str
) -> None:
    with answering(status, body) as url:
        settings = filled.settings_in(tmp_path, openai_base_url=f"{url}/v1", openai_api_key=CANARY)
        check = doctor._check("annotator", lambda: doctor._annotator(settings))
    assert check.status is state
    assert words in f"{check.found} {check.cure}"
    assert CANARY not in f"{check.found} {check.cure}"


@pytest.mark.parametrize(
    ("more", "state", "words"),
    [
        ({"openai_base_url": NOBODY}, Status.FAIL, "does not answer"),
        ({"annotator": "recorded"}, Status.FAIL, "CORAL_RECORDED_KEY"),
        ({"annotator": "recorded", "recorded_key": "llm"}, Status.OK, "'llm'"),
        ({"annotator": "oracle"}, Status.FAIL, "Allowed: auto"),
    ],
)
def test_an_annotator_that_lacks_something_is_told(
    tmp_path: Path, more: dict[str, Any], state: Status, words: str
) -> None:
    settings = filled.settings_in(tmp_path, **more)
    check = doctor._check("annotator", lambda: doctor._annotator(settings))
    assert (check.status, words in f"{check.found} {check.cure}") == (state, True)


def test_a_small_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    settings = filled.settings_in(tmp_path, slm_model=str(tmp_path))
    check = doctor._check("small model", lambda: doctor._encoder(settings))
    assert (check.status, "config.json" in str(check.cure)) == (Status.FAIL, True)


# --- a project ----------------------------------------------------------------------------------------------------


def test_a_connected_project_is_well_in_both_directions(
    settings: Settings, store: Store, client: FakeLabelStudio
) -> None:
    store.put_event(1, "ANNOTATION_CREATED", "digest")
    last = store.last_event_at(1)
    assert last is not None
    found = project_checks(settings, store, client, now=last + 120)
    states = {name: check.status for name, check in found.items()}
    assert states == {
        "model": Status.WARN,  # no round yet
        "readable": Status.OK, "backend": Status.OK, "webhook": Status.OK, "address filter": Status.OK,
        "last event": Status.OK,
        "language": Status.SKIP,  # no texts yet
    }  # fmt: skip
    assert "2 min ago" in found["last event"].found
    assert [hook["url"] for hook in client.hooks] == [f"{NOBODY}/webhook"], "the trial webhook is gone"


def test_the_address_filter_is_told_with_its_switches(
    settings: Settings, store: Store, client: FakeLabelStudio
) -> None:
    client.refuse = LabelStudioHTTPError("HTTP 403", 403)
    check = project_checks(settings, store, client)["address filter"]
    assert check.status is Status.FAIL
    for switch in ("USE_DEFAULT_BANNED_SUBNETS=false", "ML_BLOCK_LOCAL_IP=false", "SSRF_PROTECTION_ENABLED=false"):
        assert switch in str(check.cure)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"headers": {}}, "does not carry our secret"),
        ({"headers": {"X-Coral-Secret": "other"}}, "does not carry our secret"),
        ({"headers": None}, "does not carry our secret"),
        ({"is_active": False}, "switched off"),
        ({"send_payload": False}, "no payload"),
        ({"url": "http://elsewhere/webhook"}, "No webhook leads to"),
    ],
)
def test_a_webhook_that_is_not_ours_any_more_is_told(
    settings: Settings, store: Store, client: FakeLabelStudio, change: dict[str, Any], words: str
) -> None:
    client.hooks[0].update(change)
    check = project_checks(settings, store, client)["webhook"]
    assert check.status is Status.FAIL
    assert words in check.found
    assert "coral connect --project 1" in str(check.cure)
    assert secrets_for(settings).webhook_secret not in f"{check.found} {check.cure}"


def test_a_header_name_counts_in_any_case(settings: Settings, store: Store, client: FakeLabelStudio) -> None:
    client.hooks[0]["headers"] = {"x-coral-secret": secrets_for(settings).webhook_secret}
    assert project_checks(settings, store, client)["webhook"].status is Status.OK


def test_a_backend_that_label_studio_cannot_reach_is_told(
    settings: Settings, store: Store, client: FakeLabelStudio
) -> None:
    client.backends[0].update(state="DI", readable_state="Disconnected")
    check = project_checks(settings, store, client)["backend"]
    assert (check.status, check.found) == (Status.FAIL, "Label Studio says 'Disconnected'.")
    assert "CORAL_PUBLIC_URL" in str(check.cure)
    client.backends.insert(0, {"id": 1, "url": "http://other"})
    assert "comes first" in project_checks(settings, store, client)["backend"].found
    client.backends.clear()
    assert "it has: none" in project_checks(settings, store, client)["backend"].found


def test_a_changed_config_and_a_version_that_is_not_shown_are_told(
    settings: Settings, store: Store, client: FakeLabelStudio
) -> None:
    assert "label config has changed" not in project_checks(settings, store, client)["readable"].found
    client.row["label_config"] = filled.CONFIG.replace("neg", "negative")
    check = project_checks(settings, store, client)["readable"]
    assert (check.status, "label config has changed" in check.found) == (Status.WARN, True)
    client.row["label_config"] = filled.CONFIG
    filled.put_sample(store, 1, "good film", "pos")
    filled.finish_round(store, [filled.verdict(1, "pos", Flag.CLEAN, 1)])
    check = project_checks(settings, store, client)["readable"]
    assert (check.status, filled.VERSION in check.found) == (Status.WARN, True)


def test_missing_and_altered_model_files_are_told(settings: Settings, store: Store, client: FakeLabelStudio) -> None:
    filled.put_sample(store, 1, "good film", "pos")
    filled.finish_round(store, [filled.verdict(1, "pos", Flag.CLEAN, 1)])
    check = project_checks(settings, store, client)["model"]
    assert check.status is Status.FAIL
    assert check.cure == "Train again: coral round --project 1 --retrain."


def test_an_unknown_project_is_a_failure(settings: Settings, store: Store) -> None:
    filled.save_project(store)
    check = by_name(examine(settings, 9))["project 9"]
    assert (check.status, "coral connect --project 9" in str(check.cure)) == (Status.FAIL, True)


def test_a_project_is_examined_as_far_as_possible_without_label_studio(settings: Settings, store: Store) -> None:
    filled.save_project(store)
    found = by_name(examine(settings))
    assert found["project 1: Label Studio"].status is Status.SKIP
    assert found["project 1: model"].status is Status.WARN


def test_a_legacy_token_is_a_warning() -> None:
    client = FakeLabelStudio(1, filled.CONFIG)
    assert doctor._token(client)[0] is Status.OK
    client.kind = "legacy"
    state, found, cure = doctor._token(client)
    assert (state, "legacy" in found, "personal access token" in str(cure)) == (Status.WARN, True, True)
