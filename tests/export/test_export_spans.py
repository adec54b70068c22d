"""Do spans, alone or beside another control, leave as text that reads back, and are they counted by label?"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from openpyxl import load_workbook

from coral_backend.export import export
from coral_backend.labels import MULTIPLE, SEVERAL, SPANS, write_controls
from coral_backend.store import Store
from coral_backend.types import Detail, Flag, LabelSpace, Project, Source, Verdict
from tests import filled_store as filled

NAMES = LabelSpace("Labels", "names", "text", "text", ("PER", "LOC"), kind=SPANS)
TOPICS = LabelSpace("Choices", "topics", "text", "text", ("sport", "news"), kind=MULTIPLE)
SAID = ('[[0, 1, "PER"], [2, 3, "PER"]]', "[]", '[[0, 1, "PER"], [1, 3, "LOC"]]')


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")
    yield made
    made.close()


def summary(path: Path) -> dict[str, object]:
    lines = load_workbook(path)["Summary"].iter_rows(values_only=True)
    return {str(line[0]): line[1] for line in lines if line and line[0]}


def test_a_text_without_spans_has_an_empty_list_of_parts(store: Store, tmp_path: Path) -> None:
    store.save_project(Project(1, "Names", "", "hash", NAMES))
    verdicts = []
    for task_id, said in enumerate(SAID, 1):
        filled.put_sample(store, task_id, "=abc", said)
        part = Detail("0:1", "PER", 0.9, Flag.CLEAN, words="=")
        parts = () if said == "[]" else (part,)
        verdicts.append(Verdict(task_id, said, 0.9, Source.LLM, Flag.CLEAN, task_id, llm_label=said, details=parts))
    filled.finish_round(store, verdicts)
    export(store, 1, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [json.loads(line["label"]) for line in lines] == [json.loads(said) for said in SAID]
    assert [[one["name"] for one in json.loads(line["details"])] for line in lines] == [["0:1"], [], ["0:1"]]
    export(store, 1, tmp_path / "a.xlsx")
    told = summary(tmp_path / "a.xlsx")
    assert (told["PER"], told["LOC"], told["(none)"]) == (2, 1, 1), "tasks are counted by label"
    assert not [line for line in told if line.startswith("[[")]


def test_labels_of_several_controls_are_counted_by_control(store: Store, tmp_path: Path) -> None:
    both = replace(TOPICS, kind=SEVERAL, controls=(TOPICS, NAMES))
    store.save_project(Project(1, "News", "", "hash", both))
    topics = ('["sport", "news"]', '["news"]', None)
    for task_id, (names, topic) in enumerate(zip(SAID, topics, strict=True), 1):
        said = write_controls({"topics": topic, "names": names}, ["topics", "names"])
        filled.put_sample(store, task_id, "abc", said)
    export(store, 1, tmp_path / "a.xlsx")
    told = summary(tmp_path / "a.xlsx")
    labels = {name: told.get(name) for name in ("topics: sport", "topics: news", "names: PER", "names: LOC")}
    assert labels == {"topics: sport": 1, "topics: news": 2, "names: PER": 2, "names: LOC": 1}
