"""Is a project connected once, completely, and with a clear word about what is missing?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from coral_backend.app import create_app
from coral_backend.auth import secrets_for
from coral_backend.connect import connect, parse_options, reach, secrets_place
from coral_backend.exceptions import (
    InputError,
    LabelConfigError,
    LabelStudioError,
    NotFoundError,
    SettingsError,
)
from coral_backend.labelstudio.client import LabelStudioHTTPError
from coral_backend.settings import Settings
from coral_backend.store import Store
from tests import filled_store as filled
from tests.fake_label_studio import FakeLabelStudio
from tests.label_studio_fixture import LabelStudioUnderTest
from tests.labelstudio.backend_stand_in import backend_stand_in

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return filled.settings_in(tmp_path, public_url=NOBODY)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    made = Store(settings.store_url)
    yield made
    made.close()


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve the real web application on a free port."""
    server = make_server("127.0.0.1", 0, create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_project_is_connected_with_our_secrets(store: Store, settings: Settings) -> None:
    client = FakeLabelStudio(1, filled.CONFIG)
    done = connect(store, settings, client, 1, options={"epochs": "5", "p_threshold": "0.6"}, public_url=f"{NOBODY}/")
    assert (done.first, done.url, done.backend_id, done.webhook_id) == (True, NOBODY, 6, 5)
    assert store.project(1).label_space == filled.SPACE
    assert store.project(1).options == {"epochs": 5, "p_threshold": 0.6}
    known = secrets_for(settings)
    told = client.backends[0]
    assert (told["secret"], told["password"], told["user"]) == (known.webhook_secret, known.password, "coral")
    assert told["extra_params"] == {"epochs": 5, "p_threshold": 0.6}


def test_connecting_again_keeps_options_and_changes_named_ones(store: Store, settings: Settings) -> None:
    client = FakeLabelStudio(1, filled.CONFIG)
    connect(store, settings, client, 1, options={"epochs": 5, "p_threshold": 0.6})
    again = connect(store, settings, client, 1, options={"p_threshold": None, "seed": 3})
    assert again.first is False
    assert store.project(1).options == {"epochs": 5, "seed": 3}


def hooks_and_backends(label_studio: LabelStudioUnderTest, project: int) -> tuple[set[str], set[str]]:
    hooks = label_studio.client.request("GET", "api/webhooks/", params={"project": project})
    backends = label_studio.client.request("GET", "api/ml", params={"project": project})
    return {hook["url"] for hook in hooks}, {row["url"] for row in backends}


@pytest.mark.e2e
def test_another_address_takes_the_place_of_the_old_one_and_of_nothing_else(
    store: Store, settings: Settings, label_studio: LabelStudioUnderTest
) -> None:
    client = label_studio.client
    ours, others = label_studio.new_project()[0], label_studio.new_project()[0]
    with serving(settings) as old, serving(settings) as new, backend_stand_in() as stranger:
        for project in (ours, others):
            connect(store, settings, client, project, public_url=old)
        client.ensure_backend(ours, stranger.url, "Somebody else's")  # Label Studio adds a webhook without our secret
        body: dict[str, Any] = {"project": ours, "url": f"{stranger.url}/log", "headers": {"X-Coral-Secret": "mine"}}
        client.request("POST", "api/webhooks/", body=body)
        selected = client.project(ours)["model_version"]
        assert selected == "CORAL"

        connect(store, settings, client, ours, public_url=new)
        assert hooks_and_backends(label_studio, ours) == (
            {f"{new}/webhook", f"{stranger.url}/webhook", f"{stranger.url}/log"},
            {new, stranger.url},
        )
        assert client.project(ours)["model_version"] == selected
        assert hooks_and_backends(label_studio, others) == ({f"{old}/webhook"}, {old})


def test_a_backend_that_this_machine_cannot_reach_is_a_doubt_and_no_error(store: Store, settings: Settings) -> None:
    done = connect(store, settings, FakeLabelStudio(1, filled.CONFIG), 1)
    assert done.doubt is not None
    assert "coral serve" in done.doubt


def test_what_label_studio_refuses_is_told_with_what_was_seen_from_here(store: Store, settings: Settings) -> None:
    client = FakeLabelStudio(1, filled.CONFIG)
    client.refuse = LabelStudioHTTPError("Label Studio forbids it. Start it with X=false.", 403)
    with pytest.raises(LabelStudioError, match=r"X=false\. Tried from here too: http://127.0.0.1:9 does not answer"):
        connect(store, settings, client, 1)


def test_an_unknown_project_lists_those_that_exist(store: Store, settings: Settings) -> None:
    with pytest.raises(NotFoundError, match=r"no project 7 .* It sees: 1 \('Film reviews'\)"):
        connect(store, settings, FakeLabelStudio(1, filled.CONFIG), 7)
    assert store.projects() == []


@pytest.mark.parametrize("config", ["", "<View/>", "<View>", '<View><Rating name="r" toName="t"/></View>'])
def test_a_config_that_cannot_be_served_writes_nothing(store: Store, settings: Settings, config: str) -> None:
    client = FakeLabelStudio(1, config)
    with pytest.raises(LabelConfigError):
        connect(store, settings, client, 1)
    assert store.projects() == []
    assert client.backends == []


@pytest.mark.parametrize("options", [{"epochs": "many"}, {"epochs": 0}, {"openai_api_key": "x"}, {"nonsense": None}])
def test_a_wrong_option_writes_nothing(store: Store, settings: Settings, options: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        connect(store, settings, FakeLabelStudio(1, filled.CONFIG), 1, options=options)
    assert store.projects() == []


def test_options_are_read_from_the_command_line() -> None:
    assert parse_options(["epochs=5", "seed=", "slm_model=a=b"]) == {"epochs": "5", "seed": None, "slm_model": "a=b"}
    for wrong in ("epochs", "=5", ""):
        with pytest.raises(InputError, match="name=value"):
            parse_options([wrong])


def test_our_web_process_is_reached_and_another_password_is_noticed(settings: Settings, tmp_path: Path) -> None:
    with serving(settings) as url:
        assert reach(url, "coral", secrets_for(settings)) is None
        stranger = secrets_for(filled.settings_in(tmp_path / "other"))
        assert "does not take the password" in str(reach(url, "coral", stranger))
        assert "not as CORAL does" in str(reach(f"{url}/nowhere", "coral", secrets_for(settings)))


def test_the_place_of_the_secrets_is_told_and_not_the_secrets(tmp_path: Path) -> None:
    assert secrets_place(filled.settings_in(tmp_path)) == str(tmp_path / "secrets.json")
    both = filled.settings_in(tmp_path, basic_auth_password="canary-one", webhook_secret="canary-two")
    assert secrets_place(both) == "CORAL_BASIC_AUTH_PASSWORD and CORAL_WEBHOOK_SECRET"
