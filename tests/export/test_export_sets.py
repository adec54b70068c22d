"""Do sets of labels leave as lists where a format has lists, else as a text and a column for each label?"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openpyxl import load_workbook
from pyarrow import parquet

from coral_backend.export import columns, export, rows
from coral_backend.store import Store
from tests import filled_sets as sets
from tests import filled_store as filled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")
    sets.fill(made, tmp_path / "arrays")
    yield made
    made.close()


def by_task(found: Any) -> dict[int, dict[str, Any]]:
    return {int(row["task_id"]): row for row in found}


def test_rows_have_lists_and_what_was_decided_about_each_label(store: Store) -> None:
    table = by_task(rows(store, filled.PROJECT))
    assert list(table[1]) == columns(store, filled.PROJECT)
    assert table[2]["llm_label"] == table[2]["llm_label_r1"] == ["sports", "a, b"]
    assert (table[2]["label"], table[2]["human_label"], table[2]["source"]) == (["sports"], ["sports"], "human")
    assert (table[3]["label"], table[3]["human_label"]) == ([], [])
    assert (table[5]["llm_label"], table[5]["human_label"], table[5]["label"]) == (None, None, ["sports"])
    parts = table[6]["details"]
    assert [(one["name"], one["label"], one["flag"]) for one in parts][2:] == [
        ('x"a', "yes", "clean"),
        ("=1+1", "yes", "inconsistent"),
    ]
    assert all(0 <= one["score"] <= 1 for one in parts)


def test_json_and_parquet_keep_the_lists(store: Store, tmp_path: Path) -> None:
    export(store, 1, tmp_path / "a.jsonl")
    lines = by_task(json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines())
    export(store, 1, tmp_path / "a.parquet")
    table = by_task(parquet.read_table(tmp_path / "a.parquet").to_pylist())
    plain = by_task(rows(store, 1))
    for task_id, row in plain.items():
        assert lines[task_id] == row
        assert table[task_id]["label"] == row["label"]
        assert table[task_id]["details"] == row["details"]


def test_a_dataset_folder_says_the_types_of_the_lists(store: Store, tmp_path: Path) -> None:
    export(store, 1, tmp_path / "set", "hf")
    card = yaml.safe_load((tmp_path / "set" / "README.md").read_text().split("---")[1])
    features = {one["name"]: one for one in card["dataset_info"]["features"]}
    assert features["label"] == {"name": "label", "sequence": "string"}
    assert {"name": "score", "dtype": "float64"} in features["details"]["list"]
    info = json.loads((tmp_path / "set" / "dataset_info.json").read_text())
    assert info["features"]["label"]["_type"] == "Sequence"


def test_sheets_have_a_text_and_a_column_for_each_label(store: Store, tmp_path: Path) -> None:
    export(store, 1, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        lines = by_task(csv.DictReader(file))
    assert lines[2]["llm_label"] == "sports, a, b"
    assert lines[3]["label"] == "(none)"
    assert lines[5]["llm_label"] == ""
    assert "details" not in lines[1]
    assert [lines[4][f"has: {label}"] for label in sets.LABELS] == ["1", "1", "0", "0"]
    done = export(store, 1, tmp_path / "a.xlsx")
    assert done.rows == 6
    book = load_workbook(tmp_path / "a.xlsx")
    header, *found = book["Labels"].iter_rows(values_only=True)
    table = {row[0]: dict(zip(header, row, strict=True)) for row in found}
    assert table[4]["has: sports"] == 1
    assert table[6]["label"] == 'x"a, =1+1'
    summary = {row[0]: row[1] for row in book["Summary"].iter_rows(values_only=True) if row and row[0]}
    assert summary["sports"] == 4, "the summary counts labels, not sets"
    assert summary["has: sports"] == "Whether label has 'sports': 1 or 0."
