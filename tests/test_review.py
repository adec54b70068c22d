"""Is what people see in Label Studio true after a push, and soon after a correction? Who is asked twice?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coral_backend import review
from coral_backend.labelstudio import columns, instruction
from coral_backend.labelstudio.predictions import prediction_rows
from coral_backend.store import Store
from coral_backend.sync import reconcile, refresh_project
from coral_backend.types import Flag, HumanLabel, Project, Sample, Source, Verdict
from tests import filled_store as filled
from tests.label_studio_fixture import LabelStudioUnderTest

AT, LATER = "2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def project(store: Store) -> Project:
    made = filled.save_project(store)
    store.put_samples(1, [Sample(number, f"text {number}") for number in range(1, 6)])
    return made


def judged(task_id: int, human: str, machine: str = "pos", score: float = 0.97, **more: Any) -> Verdict:
    """Return the verdict of a task that a person labelled, and LLM and SLM labelled otherwise."""
    given = {"llm_label": machine, "slm_label": machine, "slm_score": score, **more}
    return Verdict(task_id, human, 1.0, Source.HUMAN, Flag.CLEAN, task_id, prediction_label=human, **given)


def say(store: Store, task_id: int, label: str, *, annotation: int | None = None, at: str = AT, **more: Any) -> None:
    store.put_annotations(1, [HumanLabel(annotation or task_id, task_id, label, 7, at, **more)])


def test_sure_machines_against_one_person_ask_once(store: Store, project: Project) -> None:
    for task_id in range(1, 6):
        say(store, task_id, "neg")
    say(store, 5, "neg", annotation=55)  # two people agree already
    verdicts = [
        judged(1, "neg"), judged(2, "neg", score=0.8), judged(3, "neg", llm_label="neg"), judged(4, "neg", machine="neg"),
        judged(5, "neg"),
    ]  # fmt: skip
    [look] = review.ask_again(store, project, verdicts)
    assert (look.task_id, look.label, look.machine_label, look.score) == (1, "neg", "pos", 0.97)
    assert review.ask_again(store, project, verdicts) == [look], "asking again changes nothing"
    say(store, 1, "neg", at=LATER)  # confirmed
    assert review.ask_again(store, project, verdicts) == []
    assert review.ask_again(store, project, verdicts) == [], "it never comes back for the same label"


@pytest.mark.parametrize("how", ["changed", "joined", "deleted"])
def test_a_look_is_answered_by_whatever_a_person_does(store: Store, project: Project, how: str) -> None:
    say(store, 1, "neg")
    assert len(review.ask_again(store, project, [judged(1, "neg")])) == 1
    if how == "changed":
        say(store, 1, "pos", at=LATER)
    elif how == "joined":
        say(store, 1, "neg", annotation=9, at=LATER)
    else:
        store.retire_annotations(1, [1])
    assert review.ask_again(store, project, []) == []
    assert store.second_looks(1)[0].looked_at is not None


def test_ground_truth_is_not_doubted(store: Store, project: Project) -> None:
    say(store, 1, "neg", ground_truth=True)
    assert review.ask_again(store, project, [judged(1, "neg")]) == []


def test_another_label_of_the_task_may_be_asked_about(store: Store, project: Project) -> None:
    say(store, 1, "neg")
    review.ask_again(store, project, [judged(1, "neg")])
    say(store, 1, "pos", at=LATER)
    [look] = review.ask_again(store, project, [judged(1, "pos", machine="neg")])
    assert (look.label, look.machine_label) == ("pos", "neg")


# --- on a real Label Studio ---------------------------------------------------------------------------------------


def verdict(task_id: int, label: str, flag: Flag, rank: int, **more: Any) -> Verdict:
    given = {
        "llm_label": label,
        "slm_label": label,
        "slm_score": 0.7,
        "p_clean": 0.4,
        "prediction_label": label,
        **more,
    }
    return Verdict(task_id, label, 0.7, Source.LLM, flag, rank, prediction_score=0.3, **given)


def test_a_push_a_correction_and_a_second_look(label_studio: LabelStudioUnderTest, store: Store) -> None:
    client = label_studio.client
    project_id, ids = label_studio.new_project([f"text {number}" for number in range(6)])
    client.update_project(project_id, expert_instruction="Read the <b>guide</b>.")
    label_studio.annotate(ids[5], "negative")
    project = refresh_project(store, client, project_id)
    store.put_samples(project_id, [Sample(task_id, "text") for task_id in ids])
    reconcile(store, client, project)
    verdicts = [
        verdict(ids[0], "positive", Flag.NOISY, 10),
        verdict(ids[1], "positive", Flag.NOISY, 2),
        verdict(ids[2], "positive", Flag.NOISY, 9),
        verdict(ids[3], "positive", Flag.INCONSISTENT, 1, slm_label="negative"),
        verdict(ids[4], "positive", Flag.CLEAN, 11),
        judged(ids[5], "negative", "positive", prediction_score=1.0),
    ]
    rows = prediction_rows(project.label_space, "coral-r1", verdicts)
    assert client.push_predictions(project_id, rows).created == 7, "two where LLM and SLM differ"
    client.select_version(project_id, "coral-r1")
    shown = review.show(store, client, project, "coral-r1", verdicts)
    assert list(shown.tabs) == ["Noisy (3)", "Inconsistent (1)", "Clean (2)", "Second look (1)"]
    assert (shown.second_looks, shown.columns["problem"]) == (1, None)
    noisy, inconsistent, _, second = shown.tabs.values()
    assert [task["id"] for task in client.view_tasks(project_id, noisy)] == [ids[1], ids[2], ids[0]]
    assert served(client, project_id, noisy) == ids[1], "Label Tasks As Displayed"
    task = client.request("GET", f"api/tasks/{ids[3]}/")
    newest_first = sorted(task["predictions"], key=lambda row: -int(row["id"]))
    assert [row["model_version"] for row in newest_first] == ["coral-r1", "coral-r1-slm"], "the better one first"
    data = client.request("GET", f"api/tasks/{ids[5]}/")["data"]
    assert data[columns.SECOND_LOOK] == "Person: negative · LLM and SLM: positive (97 %)"
    told = client.project(project_id)["expert_instruction"]
    assert told == f"Read the <b>guide</b>.\n{instruction.PARAGRAPH}"
    assert not instruction.add_instruction(client, project_id), "it is there"

    label_studio.annotate(ids[1], "negative")
    [annotation] = client.request("GET", f"api/tasks/{ids[5]}/annotations/")
    client.request("PATCH", f"api/annotations/{annotation['id']}/", body={"ground_truth": True})
    reconcile(store, client, project)
    active = store.project(project_id)
    tabs = review.tidy(store, client, with_version(active, "coral-r1"))
    assert list(tabs) == ["Noisy (2)", "Inconsistent (1)", "Clean (2)", "Second look (0)"]
    assert client.view_count(project_id, second) == 0
    assert store.project(project_id).tidied_change == store.project(project_id).changes

    client.update_project(project_id, expert_instruction="Only mine.")
    again = review.show(store, client, store.project(project_id), "coral-r1", verdicts)
    assert again.columns["cells"] == 0, "what is there is not written again"
    assert client.project(project_id)["expert_instruction"] == "Only mine.", "taken out, it stays out"
    assert inconsistent in again.tabs.values()


def with_version(project: Project, version: str) -> Project:
    from dataclasses import replace

    return replace(project, model_version=version)


def served(client: Any, project_id: int, view_id: int) -> int:
    """Return the task that "Label Tasks As Displayed" serves in a tab, asked as the Data Manager asks."""
    [data] = [view["data"] for view in client.views(project_id) if view["id"] == view_id]
    body = {
        "filters": data["filters"],
        "ordering": data["ordering"],
        "selectedItems": {"all": True, "excluded": []},
    }
    answer = client.request("POST", "api/dm/actions", params={"id": "next_task", "project": project_id}, body=body)
    return int(answer["id"])
