"""Is each model asked once what it takes, when a project is connected, and does a round then know it?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_backend import doctor
from coral_backend.connect import connect
from coral_backend.doctor import Status
from coral_backend.labelstudio.control_tags import config_hash, parse_config
from coral_backend.probe import probe, remembered
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Project
from tests import filled_store as filled
from tests.fake_label_studio import FakeLabelStudio
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, label, status

NOBODY = "http://127.0.0.1:9"
KEY = "sk-test-key-123"


def plain(call: Call) -> Reply:
    """Answer as an endpoint that knows neither schemas nor log-probabilities."""
    for part in ("logprobs", "response_format"):
        if part in call.body:
            return status(400, message=f"{part} is not supported")
    return label(parse_config(filled.CONFIG).labels[0], usage={"prompt_tokens": 100, "completion_tokens": 5})


@pytest.fixture
def server() -> Iterator[ScriptedOpenAI]:
    with ScriptedOpenAI(plain) as made:
        yield made


@pytest.fixture
def settings(tmp_path: Path, server: ScriptedOpenAI) -> Settings:
    return filled.settings_in(tmp_path, public_url=NOBODY, openai_base_url=server.base_url, openai_api_key=KEY)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    made = Store(settings.store_url)
    made.save_project(project())
    yield made
    made.close()


def project() -> Project:
    return Project(1, "t", filled.CONFIG, config_hash(filled.CONFIG), parse_config(filled.CONFIG))


def test_connecting_asks_once_and_remembers(store: Store, settings: Settings, server: ScriptedOpenAI) -> None:
    client = FakeLabelStudio(1, filled.CONFIG, ["good film"])
    (found,) = connect(store, settings, client, 1).endpoints
    assert found.takes == ("temperature", "max_tokens")
    assert found.annotator == f"openai:{settings.llm_model}"
    assert found.told() == f"openai:{settings.llm_model} takes temperature, max_tokens"
    asked = len(server.history)
    assert asked == 3, "once with all, once without log-probabilities, once without the schema too"
    assert store.replies.accepts(server.base_url, settings.llm_model, since=0.0) == {
        "schema": False, "temperature": True, "logprobs": False, "tokens_name": "max_tokens",
    }  # fmt: skip
    spent = store.ledger.spending(1)[0]
    assert [(one.requests, one.prompt_tokens) for one in spent] == [(1, 100)], "what was refused cost nothing"
    assert connect(store, settings, client, 1).endpoints == (found,)
    assert len(server.history) == asked, "a second time nobody is asked"
    assert "good film" not in {call.text for call in server.history}, "a text of nobody is sent"


def test_every_model_of_the_strategy_is_asked(store: Store, settings: Settings, server: ScriptedOpenAI) -> None:
    several = settings.model_copy(update={"llm_models": "small,large", "annotation": "chain"})
    assert [one.annotator for one in probe(store, several, project())] == ["openai:small", "openai:large"]
    assert {str(call.body["model"]) for call in server.history} == {"small", "large"}


def test_what_was_answered_long_ago_does_not_tell_what_is_taken_now(
    store: Store, settings: Settings, server: ScriptedOpenAI
) -> None:
    probe(store, settings, project())
    store.replies.put_accepts(server.base_url, settings.llm_model, {})
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE endpoints SET probed_at = 0")
    before = len(server.history)
    assert probe(store, settings, project())[0].takes == ("temperature", "max_tokens")
    assert len(server.history) > before


def test_of_a_project_with_several_controls_one_is_asked_about(
    store: Store, settings: Settings, server: ScriptedOpenAI
) -> None:
    both = filled.CONFIG.replace("</View>", '<Choices name="x" toName="text"><Choice value="yes"/></Choices></View>')
    store.save_project(Project(2, "t", both, config_hash(both), parse_config(both)))
    assert probe(store, settings, store.project(2))[0].takes == ("temperature", "max_tokens")
    assert server.history[0].body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == [
        "pos",
        "neg",
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(401, message="wrong key"), "OPENAI_API_KEY"),
        (status(404, message="no such model"), "CORAL_LLM_MODEL"),
        (Reply(body=b"<html>", headers={"Content-Type": "text/html"}), "a web page"),
    ],
)
def test_an_endpoint_in_trouble_keeps_nobody_from_connecting(
    store: Store, settings: Settings, server: ScriptedOpenAI, answer: Reply, words: str
) -> None:
    server.answer = lambda _: answer
    done = connect(store, settings, FakeLabelStudio(1, filled.CONFIG, ["good film"]), 1)
    (found,) = done.endpoints
    assert found.takes is None
    assert words in found.told()
    assert KEY not in found.told()
    assert store.replies.accepts(server.base_url, settings.llm_model, since=0.0) is None


def test_an_endpoint_that_is_away_keeps_nobody_from_connecting(store: Store, settings: Settings) -> None:
    away = settings.model_copy(update={"openai_base_url": f"{NOBODY}/v1"})
    (found,) = probe(store, away, project())
    assert found.takes is None
    assert "cannot be reached" in found.told()


def test_where_no_llm_is_asked_there_is_nothing_to_find(store: Store, tmp_path: Path) -> None:
    none = filled.settings_in(tmp_path, public_url=NOBODY)
    assert probe(store, none, project()) == []
    assert remembered(store, none, project()) == []
    wrong = none.model_copy(update={"annotator": "oracle"})
    assert "Allowed: auto" in probe(store, wrong, project())[0].told()


def test_the_doctor_says_what_is_remembered_and_asks_nobody(
    store: Store, settings: Settings, server: ScriptedOpenAI
) -> None:
    (before,) = doctor._takes(settings, store, project())
    assert (before.status, "coral connect --project 1" in str(before.cure)) == (Status.WARN, True)
    assert server.history == []
    probe(store, settings, project())
    (after,) = doctor._takes(settings, store, project())
    assert (after.status, "takes temperature" in after.found) == (Status.OK, True)
    wrong = settings.model_copy(update={"annotator": "oracle"})
    assert list(doctor._takes(wrong, store, project())) == []
