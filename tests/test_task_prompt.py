"""Is the task strategy found that a project's settings mean, and a wrong one refused before anybody is asked?"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from coral_backend.exceptions import SettingsError
from coral_backend.labels import MULTIPLE
from coral_backend.settings import Settings
from coral_backend.task_prompt import prompt_for, strategy_for, with_room
from coral_backend.types import LabelSpace, Project
from strategies.tasks import FOLDER


def project(tag: str = "Choices", *labels: str) -> Project:
    return Project(7, "t", "", "h", LabelSpace(tag, "label", "text", "text", labels or ("billing", "delivery")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    shutil.copy(FOLDER / "topic.yaml", made / "ours.yaml")
    shutil.copy(FOLDER / "sentiment.yaml", made / "mood.yaml")
    return made


def settings(task: str = "auto", folder: Path | None = None) -> Settings:
    return Settings.load({"CORAL_TASK": task, "CORAL_STRATEGIES": str(folder or "")})


def test_auto_looks_at_control_labels_and_the_users_folder(folder: Path) -> None:
    assert strategy_for(settings(), project()).name == "topic"
    assert strategy_for(settings(), project("Rating", "1", "2")).name == "rating"
    assert strategy_for(settings(), project("Choices", "pos", "neg")).name == "sentiment"
    assert strategy_for(settings(folder=folder), project("Choices", "pos", "neg")).name == "mood"
    assert strategy_for(settings(folder=folder), project()).name == "topic"


def test_a_strategy_is_named_or_given_as_a_file(folder: Path) -> None:
    assert strategy_for(settings("ours", folder), project()).name == "ours"
    assert strategy_for(settings(str(folder / "ours.yaml")), project()).name == "ours"
    with pytest.raises(
        SettingsError, match=r"CORAL_TASK is 'ours': There is no task strategy 'ours'. There are: entities, "
    ):
        strategy_for(settings("ours"), project())


def test_a_strategy_for_another_control_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"'rating', which is for <Rating>; project 7 has a <Choices>\. Choose another"
    ):
        strategy_for(settings("rating"), project())


def test_a_wrong_file_is_told_with_its_line(folder: Path) -> None:
    path = folder / "ours.yaml"
    path.write_text(path.read_text().replace("{query}", "{text}"))
    with pytest.raises(
        SettingsError, match=r"ours\.yaml, line \d+: 'output_control' has the unknown placeholder {text}"
    ):
        strategy_for(settings("auto", folder), project())


def test_a_set_has_more_room_than_a_label_unless_a_length_is_set() -> None:
    space = replace(project().label_space, kind=MULTIPLE)
    assert with_room(settings(), project().label_space).llm_max_tokens == 64
    assert with_room(settings(), space).llm_max_tokens == 256
    assert with_room(settings().model_copy(update={"llm_max_tokens": 30}), space).llm_max_tokens == 30
    assert prompt_for(settings(), replace(project(), label_space=space), ()).answer_tokens == 256
