"""Is a configuration checked field by field, kept with who and when, and safe from Label Studio's echoes?"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from coral_backend.app import create_app
from coral_backend.backend import connect_project
from coral_backend.dashboard import configuration
from coral_backend.dashboard.configuration import ANNOTATION_NAMES, DEMONSTRATION_NAMES
from coral_backend.exceptions import ConflictError, SettingsError
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.rounds import RoundRunner
from coral_backend.settings import PROJECT_OPTIONS, Settings
from coral_backend.store import Store, option_versions
from coral_backend.task_prompt import prompt_for
from coral_backend.types import RoundStatus, Sample
from strategies.annotation.base import ANNOTATION
from strategies.demonstration import DEMONSTRATIONS
from tests.stand_ins import FakeLabelStudio, quick_distil
from tests.web_parts import CONFIG, basic, settings_in, store_in

URL = "/dashboard/projects/1/configuration"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = store_in(settings)
    store.put_samples(1, [Sample(1, "a <b>fine</b> film"), Sample(2, "", "'text' is empty")])
    yield store
    store.close()


@pytest.fixture
def client(settings: Settings, store: Store) -> FlaskClient:
    return create_app(settings, store).test_client()


def send(client: FlaskClient, **values: str) -> TestResponse:
    page = client.get(URL, headers=basic()).text
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page))
    return client.post(URL, data={**hidden, "who": "Ada", **values}, headers=basic())


def test_what_is_saved_is_kept_with_who_and_when(client: FlaskClient, store: Store) -> None:
    answer = send(client, epochs="7", p_threshold="0.6", note="more epochs")
    assert answer.status_code == 303
    assert store.project(1).options == {"epochs": 7, "p_threshold": 0.6}
    newest, first = option_versions.history(store, 1)
    assert (newest.who, newest.note, newest.options) == ("Ada", "more epochs", {"epochs": 7, "p_threshold": 0.6})
    assert (first.who, first.options) == (option_versions.BEFORE, {}), "what was set otherwise is a version too"
    page = client.get(URL, headers=basic()).text
    assert "epochs=7" in page
    assert 'name="epochs" value="7"' in page
    assert 'name="epochs" value=""' in client.get(f"{URL}?version=1", headers=basic()).text


WRONG = [
    ("epochs", "many", "'many' is not allowed"),
    ("epochs", "0", "greater than or equal to 1"),
    ("epochs", "201", "less than or equal to 200"),
    ("p_threshold", "1", "less than 1"),
    ("annotator", "oracle", "none of: auto, openai, embedded, recorded"),
    ("annotator", "recorded", "name the key"),
    ("task_strategy", "/etc/passwd", "none of: auto"),
    ("slm_model", "someone/model", "none of: embedded"),
    ("seed", "-1", "greater than or equal to 0"),
    ("prompt_output", "no slot", "lacks the placeholder {query}"),
    ("prompt_task", "{broken", "wrong braces"),
    ("prompt_task", "{0.__class__}", "unknown placeholder"),
    ("prompt_demonstration", "x" * 9000, "at most 8,000"),
    ("who", " ", "Say who you are"),
    ("who", "x" * 81, "at most 80"),
]


@pytest.mark.parametrize(("field", "value", "said"), WRONG)
def test_an_error_stands_at_its_field(client: FlaskClient, store: Store, field: str, value: str, said: str) -> None:
    answer = send(client, **{field: value})
    assert answer.status_code == 422
    wanted = "recorded_key" if value == "recorded" else field
    found = re.search(rf'id="{wanted}-error">([^<]*)<', answer.text)
    assert found is not None
    assert said in found[1].replace("&#39;", "'")
    if len(value) < 100 and value.strip():
        assert value.replace("'", "&#39;") in answer.text, "what was typed is not lost"
    assert not store.project(1).options
    assert not option_versions.history(store, 1)


def test_a_prompt_part_and_meanings_reach_the_prompt(client: FlaskClient, store: Store, settings: Settings) -> None:
    definition = {"definition-0": "it shines", "prompt_task": "Sort films.\r\nLabels: {labels}.\r\n{definitions}"}
    assert send(client, **definition).status_code == 303
    project = store.project(1)
    assert json.loads(project.options["label_definitions"]) == {"good": "it shines"}
    prompt = prompt_for(settings.with_options(project.options), project, ())
    system = prompt.messages("x")[0]["content"]
    assert system.startswith("Sort films.\nLabels: 'good' and 'bad'.")
    assert "- good: it shines" in system


def test_the_strategys_own_words_are_no_option(client: FlaskClient, store: Store, settings: Settings) -> None:
    values = configuration.values_of(settings, store.project(1), {})
    assert send(client, prompt_task=values["prompt_task"].replace("\n", "\r\n")).status_code == 303
    assert store.project(1).options == {}


def test_a_preview_shows_the_prompt_on_a_real_task_and_saves_nothing(client: FlaskClient, store: Store) -> None:
    answer = send(client, preview="1", prompt_task="Judge: {labels}.")
    assert answer.status_code == 200
    assert "Judge: &#39;good&#39; and &#39;bad&#39;." in answer.text
    assert "a &lt;b&gt;fine&lt;/b&gt; film" in answer.text
    assert not store.project(1).options


@pytest.mark.parametrize(
    ("task", "said"), [("2", "cannot be labelled"), ("x1", "is no task"), ("55", "not where Label Studio is")]
)
def test_a_preview_on_no_good_task_says_so(client: FlaskClient, task: str, said: str) -> None:
    answer = send(client, preview="1", task=task)
    assert answer.status_code == 422
    found = re.search(r'id="task-error">([^<]*)<', answer.text)
    assert found is not None
    assert said in found[1]


def test_two_people_edit_and_nothing_is_overwritten(client: FlaskClient, store: Store) -> None:
    page = client.get(URL, headers=basic()).text
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page))
    assert send(client, epochs="5").status_code == 303
    late = client.post(URL, data={**hidden, "who": "Bob", "epochs": "9"}, headers=basic())
    assert late.status_code == 409
    assert "Ada saved version 2" in late.text
    assert store.project(1).options == {"epochs": 5}


def test_label_studio_repeats_old_options_and_they_stay_old(settings: Settings, store: Store) -> None:
    connect_project(store, settings, 1, CONFIG, options={"epochs": 2})
    option_versions.put(store, 1, {"epochs": 6}, who="Ada")
    assert connect_project(store, settings, 1, CONFIG, options={"epochs": 2}).options == {"epochs": 6}
    assert connect_project(store, settings, 1, CONFIG, options={"epochs": 4}).options == {"epochs": 4}, "a new wish"


def test_a_conflict_writes_nothing(store: Store) -> None:
    option_versions.put(store, 1, {"epochs": 6}, who="Ada", seen=0)
    with pytest.raises(ConflictError, match="Ada saved version 2"):
        option_versions.put(store, 1, {"epochs": 7}, who="Bob", seen=0)
    assert store.project(1).options == {"epochs": 6}


def test_every_option_of_a_project_has_a_control(settings: Settings, store: Store) -> None:
    groups = configuration.fields(settings, store.project(1), {}, {})
    shown = {field.name for rows in groups.values() for field in rows}
    assert {name for name in PROJECT_OPTIONS if name != configuration.DEFINITIONS} <= shown
    assert {"definition-0", "definition-1"} <= shown


def test_the_names_in_the_form_are_those_registered() -> None:
    assert sorted(DEMONSTRATION_NAMES) == sorted(DEMONSTRATIONS.names())
    assert sorted(ANNOTATION_NAMES) == sorted(ANNOTATION.names())


@pytest.mark.parametrize("value", ["[]", '{"a": 1}', "{", '"x"'])
def test_meanings_must_be_an_object_of_texts(settings: Settings, value: str) -> None:
    with pytest.raises(SettingsError):
        settings.with_options({"label_definitions": value})


def test_a_change_is_for_the_next_round_or_for_one_that_is_resumed(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coral_backend.slm.engine.distil", quick_distil)
    studio = FakeLabelStudio({i: {"text": text, "said": text} for i, text in enumerate(("good", "bad", "good"), 1)})
    option_versions.put(store, 1, {"annotator": "recorded", "recorded_key": "said", "epochs": 2}, who="Ada")
    runner = RoundRunner(store, settings, lambda: cast("LabelStudioClient", studio))
    begun = store.create_round(1, settings.with_options(store.project(1).options).public())
    runner.advance(begun.id)
    option_versions.put(store, 1, {**store.project(1).options, "epochs": 9}, who="Ada")
    runner.advance(begun.id)
    assert store.round(begun.id).settings["epochs"] == 2, "it keeps what it began with"
    store.set_round_status(begun.id, RoundStatus.PAUSED)
    store.set_round_status(begun.id, RoundStatus.PENDING)
    runner.advance(begun.id)
    assert store.round(begun.id).settings["epochs"] == 9, "whoever resumes it may have mended something"


def test_a_database_of_an_older_version_gets_the_table(settings: Settings, store: Store) -> None:
    store.close()
    with sqlite3.connect(settings.model_dir / "coral.sqlite3") as old:
        old.execute("DROP TABLE option_versions")
        old.execute("DELETE FROM migrations WHERE name = 'm006_dashboard'")
    old.close()
    upgraded = Store(settings.store_url)
    assert option_versions.history(upgraded, 1) == []
    assert option_versions.put(upgraded, 1, {"epochs": 3}, who="Ada").number == 2
    upgraded.close()
