"""The only reader of the environment: what it takes, what it refuses, and what it never shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from coral_backend.exceptions import SettingsError
from coral_backend.settings import PROJECT_OPTIONS, Settings

CANARY = "canary-55aa"

SECRETS = {
    "DATABASE_URL": f"postgresql+psycopg://coral:{CANARY}@db/coral",
    "REDIS_URL": f"redis://:{CANARY}@redis:6379/0",
    "LABEL_STUDIO_API_KEY": CANARY,
    "CORAL_BASIC_AUTH_PASSWORD": CANARY,
    "CORAL_WEBHOOK_SECRET": CANARY,
    "OPENAI_API_KEY": CANARY,
}


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.load({})
    assert settings.model_dir == Path(".coral")
    assert settings.p_threshold == 0.5
    assert settings.redis_url is None


def test_names_of_the_environment_and_overrides_are_read() -> None:
    settings = Settings.load({"CORAL_DEMOS": "4", "MODEL_DIR": "/var/coral", "CORAL_P_THRESHOLD": "0.6"}, n_demos=5)
    assert (settings.n_demos, settings.model_dir, settings.p_threshold) == (5, Path("/var/coral"), 0.6)


def test_an_empty_value_is_no_value() -> None:
    assert Settings.load({"CORAL_DEMOS": "", "OPENAI_API_KEY": ""}) == Settings.load({})


def test_other_peoples_variables_are_none_of_our_business() -> None:
    assert Settings.load({"PATH": "/bin", "CORALREEF": "x", "HOST": "x"}) == Settings.load({})


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"Unknown setting CORAL_DEMO\. There are: .*CORAL_DEMOS"):
        Settings.load({"CORAL_DEMO": "4"})


def test_an_unknown_override_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"Unknown setting 'demos'\. There are: .*n_demos"):
        Settings.load({}, demos=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORAL_P_THRESHOLD", "1"),
        ("CORAL_P_THRESHOLD", "0"),
        ("CORAL_P_THRESHOLD", "nan"),
        ("CORAL_DEMOS", "-1"),
        ("CORAL_DEMOS", "many"),
        ("CORAL_LLM_CONCURRENCY", "0"),
        ("CORAL_LLM_TIMEOUT_S", "0"),
        ("CORAL_MAX_LENGTH", "513"),
        ("CORAL_SEED", "-1"),
        ("CORAL_P_THRESHOLD", "perhaps"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_repeats_it(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        Settings.load({name: value})
    assert value in str(caught.value)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"CORAL_DEMOS": "-1", "CORAL_EPOCHS": "0"})
    assert "CORAL_DEMOS" in str(caught.value)
    assert "CORAL_EPOCHS" in str(caught.value)


def test_secrets_are_in_no_representation() -> None:
    settings = Settings.load(SECRETS)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.public())):
        assert CANARY not in shown


def test_a_secret_of_the_wrong_kind_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({}, openai_api_key=[CANARY])
    assert "OPENAI_API_KEY" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_public_holds_what_decides_a_rounds_outcome() -> None:
    public = Settings.load(SECRETS | {"CORAL_SEED": "7", "LABEL_STUDIO_URL": "http://host:1"}).public()
    assert set(public) == PROJECT_OPTIONS
    assert public["seed"] == 7


def test_a_rounds_settings_repeat_it() -> None:
    settings = Settings.load({"CORAL_SEED": "7", "CORAL_P_THRESHOLD": "0.7"})
    assert Settings.load({}).with_options(settings.public()) == settings


def test_a_projects_options_win_over_the_process() -> None:
    settings = Settings.load(SECRETS | {"CORAL_DEMOS": "4"})
    changed = settings.with_options({"n_demos": 2})
    assert changed.n_demos == 2
    assert settings.n_demos == 4
    assert changed.openai_api_key == settings.openai_api_key


@pytest.mark.parametrize("name", ["openai_api_key", "database_url", "model_dir", "no_such_option"])
def test_a_project_cannot_set_everything(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"Project option {name} cannot be set\. Allowed: .*n_demos"):
        Settings.load({}).with_options({name: "x"})


@pytest.mark.parametrize("options", [{"p_threshold": 2}, {"n_demos": "many"}, {"annotator": None}])
def test_a_projects_option_out_of_range_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="Wrong project option"):
        Settings.load({}).with_options(options)


def test_settings_do_not_change() -> None:
    settings = Settings.load({})
    with pytest.raises(ValidationError, match="frozen"):
        settings.n_demos = 3  # type: ignore[misc]


def test_the_store_is_a_file_in_model_dir_or_what_database_url_says(tmp_path: Path) -> None:
    assert Settings.load({}, model_dir=tmp_path).store_url == f"sqlite:///{tmp_path / 'coral.sqlite3'}"
    assert Settings.load(SECRETS).store_url == SECRETS["DATABASE_URL"]


def test_every_field_has_a_name_in_the_environment_and_a_description() -> None:
    for name, field in Settings.model_fields.items():
        assert field.alias
        assert field.alias.isupper()
        assert field.description, name
        assert field.description.endswith("."), name


def test_our_own_columns_are_no_recorded_labels() -> None:
    with pytest.raises(SettingsError, match="CORAL's own columns"):
        Settings.load({"CORAL_RECORDED_KEY": "coral_llm"})


@pytest.mark.parametrize("meanings", ["oops", "[1]", [1], 3, {"a": 1}, '{"a": 1}', "[" * 20_000])
def test_meanings_that_are_none_are_refused_before_a_round_meets_them(meanings: Any) -> None:
    said = json.dumps({"topic": {"label_definitions": meanings}})
    with pytest.raises(SettingsError, match="label_definitions of 'topic': "):
        Settings.load({"CORAL_CONTROL_OPTIONS": said})
    with pytest.raises(SettingsError):
        Settings.load({}).with_options({"control_options": said})


@pytest.mark.parametrize("meanings", [{"a": "first"}, '{"a": "first"}'])
def test_the_meanings_of_a_controls_labels_win_over_the_projects(meanings: Any) -> None:
    said = json.dumps({"topic": {"label_definitions": meanings}, "mood": {"label_definitions": ""}})
    settings = Settings.load({"CORAL_CONTROL_OPTIONS": said, "CORAL_LABEL_DEFINITIONS": '{"a": "x", "b": "second"}'})
    assert settings.of_control("topic", ("a", "b")).definitions == {"a": "first", "b": "second"}
    assert settings.of_control("mood", ("a",)).definitions == {"a": "x"}
