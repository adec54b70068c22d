"""Is every door locked, and do the keys stay in one place?"""

from __future__ import annotations

import base64
import json
import multiprocessing as mp
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from coral_backend.app import create_app
from coral_backend.auth import SECRETS_FILE, Secrets, same, secrets_for
from coral_backend.exceptions import SettingsError
from coral_backend.settings import Settings
from tests.web_parts import PASSWORD, SECRET, annotation, basic, event, settings_in, store_in


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    settings = settings_in(tmp_path)
    store = store_in(settings)
    yield create_app(settings, store)
    store.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def encoded(text: bytes) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text).decode()}


WRONG: list[dict[str, str]] = [
    {},
    basic(password="wrong"),
    basic(user="somebody"),
    basic(user="", password=""),
    basic(password=PASSWORD + " "),
    basic(password="ключ"),
    encoded(b"coral"),
    encoded(b"coral:\xff\xfe\x00"),
    {"Authorization": "Basic %%%"},
    {"Authorization": "Basic"},
    {"Authorization": ""},
    {"Authorization": f"Bearer {PASSWORD.encode().hex()}"},
    {"Authorization": "Digest username=coral"},
    {"Authorization": "Basic " + "QQ" * 20_000},
    {"X-Coral-Secret": "wrong"},
    {"X-Coral-Secret": "\xe9"},
    {"X-Coral-Secret": ""},
]


@pytest.mark.parametrize("headers", WRONG)
def test_no_route_answers_without_credentials(app: Flask, headers: dict[str, str]) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint != "health"]
    assert len(rules) >= 6
    for rule in rules:
        for method in sorted(rule.methods or ()):
            answer = app.test_client().open(rule.rule, method=method, headers=headers, json={})
            assert answer.status_code == 401, (rule.rule, method)
            assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize("path", ["/nowhere", "/health/more", "//", "/../etc/passwd", "/static/x", "/%00"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_even_what_does_not_exist_is_locked(client: FlaskClient, path: str, method: str) -> None:
    assert client.open(path, method=method).status_code == 401


def test_only_health_is_open_and_it_tells_nothing(client: FlaskClient) -> None:
    answer = client.get("/health", headers=basic(password="wrong"))
    assert (answer.status_code, answer.json) == (200, {"status": "UP", "model_class": "CoralBackend"})


def test_health_is_open_for_reading_only(client: FlaskClient) -> None:
    assert client.post("/health").status_code == 401


def test_the_password_opens_every_door(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            answer = app.test_client().open(rule.rule, method=method, headers=basic(), json={})
            assert answer.status_code != 401, (rule.rule, method)


def test_the_webhook_secret_opens_the_webhook(client: FlaskClient) -> None:
    body = event("ANNOTATION_CREATED", annotation=annotation(1, 1))
    assert client.post("/webhook", json=body, headers={"X-Coral-Secret": SECRET}).status_code == 200


def test_the_webhook_secret_opens_nothing_else(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        if rule.endpoint not in ("webhook", "health"):
            method = "POST" if "POST" in (rule.methods or ()) else "GET"
            answer = app.test_client().open(rule.rule, method=method, headers={"X-Coral-Secret": SECRET}, json={})
            assert answer.status_code == 401, rule.rule


def test_a_page_of_another_site_changes_nothing(client: FlaskClient) -> None:
    # A browser that remembers the password sends it with the form of any site.
    foreign = {**basic(), "Origin": "http://evil.example"}
    answer = client.post("/webhook", json=event("START_TRAINING"), headers=foreign)
    assert answer.status_code == 403
    own = {**basic(), "Origin": "http://localhost"}
    assert client.post("/webhook", json=event("UNKNOWN"), headers=own).status_code == 200
    assert client.get("/", headers=foreign).status_code == 200


@pytest.mark.parametrize(
    ("received", "equal"),
    [("pässword", True), ("password", False), ("", False), ("\ud800", False), ("pässword\x00", False)],
)
def test_comparing(received: str, equal: bool) -> None:
    assert same(received, "pässword") is equal


# --- where the secrets are kept ---------------------------------------------------------------------------------------


def test_secrets_that_are_set_need_no_file(tmp_path: Path) -> None:
    assert secrets_for(settings_in(tmp_path)) == Secrets(PASSWORD, SECRET)
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_made_once_and_only_for_their_owner(tmp_path: Path) -> None:
    settings = Settings.load({}, model_dir=tmp_path / "new")
    made = secrets_for(settings)
    assert secrets_for(settings) == made
    assert made.password != made.webhook_secret
    assert min(len(made.password), len(made.webhook_secret)) >= 32
    file = tmp_path / "new" / SECRETS_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_what_is_set_wins_over_what_was_made(tmp_path: Path) -> None:
    made = secrets_for(Settings.load({}, model_dir=tmp_path))
    mixed = secrets_for(Settings.load({}, model_dir=tmp_path, basic_auth_password="mine"))
    assert mixed == Secrets("mine", made.webhook_secret)


def test_secrets_have_no_repr(tmp_path: Path) -> None:
    made = secrets_for(Settings.load({}, model_dir=tmp_path))
    assert made.password not in repr(made)
    assert made.webhook_secret not in repr(made)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"password": "x"}', '{"password": "", "webhook_secret": "y"}', '"\\ud800"', "\x00"],
)
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / SECRETS_FILE).write_text(content)
    with pytest.raises(SettingsError, match="Delete it"):
        secrets_for(Settings.load({}, model_dir=tmp_path))
    assert (tmp_path / SECRETS_FILE).read_text() == content


def test_a_model_dir_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="Make MODEL_DIR writable"):
        secrets_for(Settings.load({}, model_dir=tmp_path / "file"))


def test_a_half_written_file_of_a_killed_process_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "secrets.new").write_text('{"passw')
    made = secrets_for(Settings.load({}, model_dir=tmp_path))
    assert json.loads((tmp_path / SECRETS_FILE).read_text())["password"] == made.password


def _read(folder: Path) -> tuple[str, str]:
    made = secrets_for(Settings.load({}, model_dir=folder))
    return made.password, made.webhook_secret


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    with mp.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(_read, [tmp_path / "shared"] * 8, chunksize=1))) == 1
