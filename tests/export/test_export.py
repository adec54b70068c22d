"""Does the labelled corpus leave whole, as it stands now, and harmless to a spreadsheet?"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some
from openpyxl import load_workbook
from pyarrow import parquet

from coral_backend import export as writing
from coral_backend.exceptions import InputError, NotFoundError
from coral_backend.export import FORMATS, Export, columnar, columns, escape, excel, export, rows, table
from coral_backend.store import Store
from coral_backend.types import Answer, Flag, Sample
from tests import filled_store as filled

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")
    yield made
    made.close()


def by_task(store: Store, **options: Any) -> dict[int, dict[str, Any]]:
    return {int(str(row["task_id"])): row for row in rows(store, filled.PROJECT, **options)}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_xlsx(path: Path) -> list[dict[str, Any]]:
    sheet = load_workbook(path)["Labels"]
    header, *lines = sheet.iter_rows(values_only=True)
    return [dict(zip(map(str, header), line, strict=True)) for line in lines]


def test_every_task_is_there_once_with_all_labels(store: Store) -> None:
    table = by_task(filled.fill(store))
    assert sorted(table) == [1, 2, 3, 4, 5, 6]
    assert list(table[1]) == columns(store, filled.PROJECT)
    assert table[2]["llm_label_r1"] == "pos"
    assert table[2]["llm_label_r2"] == "neg"
    assert table[1]["llm_label_r2"] is None
    first = {key: table[1][key] for key in ("text", "flag", "rank", "confidence", "p_clean", "source", "model_version")}
    assert first == {
        "text": "good film", "flag": "clean", "rank": 4, "confidence": 0.7, "p_clean": 0.9, "source": "llm",
        "model_version": filled.VERSION,
    }  # fmt: skip


def test_a_human_label_given_after_the_round_is_the_label(store: Store) -> None:
    table = by_task(filled.fill(store))
    given = {
        key: table[2][key] for key in ("label", "source", "score", "human_label", "annotator", "updated_at", "flag")
    }
    assert given == {
        "label": "pos", "source": "human", "score": 1.0, "human_label": "pos", "annotator": 7,
        "updated_at": filled.LONG_AGO, "flag": "inconsistent",
    }  # fmt: skip


def test_a_human_label_taken_back_since_the_round_no_longer_counts(store: Store) -> None:
    row = by_task(filled.fill(store))[4]  # its verdict says "human", and no annotation is left
    assert (row["label"], row["source"], row["score"], row["human_label"]) == ("neg", "slm", 0.8, None)


def test_tasks_without_a_verdict_or_a_text_are_not_left_out(store: Store) -> None:
    table = by_task(filled.fill(store))
    assert (table[6]["label"], table[6]["source"], table[6]["flag"], table[6]["rank"]) == ("neg", "llm", None, None)
    assert table[6]["model_version"] is None
    assert (table[5]["label"], table[5]["note"]) == (None, "'text' is empty")


def test_a_verdict_about_an_older_text_of_the_task_does_not_count(store: Store) -> None:
    filled.fill(store)
    store.put_samples(filled.PROJECT, [Sample(1, "a bad film after all")])
    row = by_task(store)[1]
    assert (row["text"], row["label"], row["flag"], row["rank"]) == ("a bad film after all", None, None, None)
    assert 1 not in by_task(store, clean_only=True)


def test_clean_only_keeps_the_clean_and_the_human(store: Store) -> None:
    assert sorted(by_task(filled.fill(store), clean_only=True)) == [1, 2, 3, 4]


def test_a_project_before_its_first_round_and_an_empty_one_can_be_exported(store: Store, tmp_path: Path) -> None:
    filled.save_project(store)
    assert export(store, filled.PROJECT, tmp_path / "empty.xlsx", now=NOW).rows == 0
    filled.put_sample(store, 1, "good film", "pos")
    assert by_task(store)[1]["label"] == "pos"


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_formats_hold_the_same(store: Store, tmp_path: Path, suffix: str) -> None:
    filled.fill(store)
    path = tmp_path / f"labels.{suffix}"
    seen: list[int] = []
    written = export(store, filled.PROJECT, path, now=NOW, progress=seen.append)
    assert written == Export(path, suffix, 6)  # type: ignore[arg-type]
    assert seen == [1, 2, 3, 4, 5, 6]
    expected = list(by_task(store).values())
    if suffix == "csv":
        assert read_csv(path) == [{k: "" if v is None else str(v) for k, v in row.items()} for row in expected]
    elif suffix == "jsonl":
        assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == expected
    elif suffix == "parquet":
        assert parquet.read_table(path).to_pylist() == expected
    elif suffix == "hf":
        assert parquet.read_table(path / "data").to_pylist() == expected
    else:
        assert read_xlsx(path) == [{k: v if v != "" else None for k, v in row.items()} for row in expected]


def test_parquet_columns_have_types_and_say_what_they_mean(store: Store, tmp_path: Path) -> None:
    export(filled.fill(store), filled.PROJECT, tmp_path / "labels.parquet")
    schema = parquet.read_schema(tmp_path / "labels.parquet")
    assert schema.names == columns(store, filled.PROJECT)
    kinds = {
        name: str(schema.field(name).type) for name in ("task_id", "rank", "p_clean", "score", "text", "annotator")
    }
    assert kinds == {
        "task_id": "int64", "rank": "int64", "p_clean": "double", "score": "double", "text": "string", "annotator": "int64",
    }  # fmt: skip
    assert schema.field("p_clean").metadata[b"description"].startswith(b"Posterior")
    assert schema.field("llm_label_r2").metadata[b"description"] == b"The annotator's label of round 2."


def test_a_hugging_face_folder_has_shards_and_a_card(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "BATCH_ROWS", 2)
    monkeypatch.setattr(columnar, "SHARD_ROWS", 4)
    folder = tmp_path / "dataset"
    assert export(filled.fill(store), filled.PROJECT, folder, "hf", now=NOW).rows == 6
    shards = sorted((folder / "data").iterdir())
    assert [parquet.read_metadata(shard).num_rows for shard in shards] == [4, 2]
    assert parquet.read_metadata(shards[0]).num_row_groups == 2
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---", 2)
    card = yaml.safe_load(head)
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert [one["name"] for one in card["dataset_info"]["features"]] == columns(store, filled.PROJECT)
    assert "Film reviews (1)" in text
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    assert info["splits"]["train"]["num_examples"] == 6
    assert info["features"]["rank"] == {"dtype": "int64", "_type": "Value"}


def test_an_earlier_folder_is_replaced_and_a_foreign_one_is_not(store: Store, tmp_path: Path) -> None:
    filled.fill(store)
    folder = tmp_path / "dataset"
    export(store, filled.PROJECT, folder, "hf")
    export(store, filled.PROJECT, folder, "hf", clean_only=True)
    assert parquet.read_table(folder / "data").num_rows == 4
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="holds something else"):
        export(store, filled.PROJECT, folder, "hf")
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_hugging_face_folder_can_be_one_file(store: Store, tmp_path: Path) -> None:
    export(filled.fill(store), filled.PROJECT, tmp_path / "dataset.zip", "hf")
    with zipfile.ZipFile(tmp_path / "dataset.zip") as archive:
        assert archive.namelist() == ["README.md", "data/train-00000.parquet", "dataset_info.json"]
    assert sorted(path.name for path in tmp_path.iterdir() if "dataset" in path.name) == ["dataset.zip"]


def test_a_project_without_tasks_is_a_dataset_with_columns(store: Store, tmp_path: Path) -> None:
    filled.save_project(store)
    assert export(store, filled.PROJECT, tmp_path / "dataset", "hf").rows == 0
    assert parquet.read_table(tmp_path / "dataset" / "data").column_names == columns(store, filled.PROJECT)


def test_rows_come_page_by_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(rows(filled.fill(store), filled.PROJECT))
    monkeypatch.setattr(table, "PAGE", 2)
    asked: list[int] = []
    real = store.verdicts

    def verdicts(project_id: int, round_id: int, task_ids: Any = None) -> Any:
        asked.append(len(task_ids))
        return real(project_id, round_id, task_ids)

    monkeypatch.setattr(store, "verdicts", verdicts)
    assert list(rows(store, filled.PROJECT)) == expected
    assert asked == [2, 2, 2]


def test_the_prompt_of_the_newest_answer_is_named(store: Store) -> None:
    filled.fill(store)
    sample = store.samples(filled.PROJECT)[0]
    store.put_llm_label(filled.PROJECT, 3, sample, Answer("neg"), prompt_version="p2")
    found = by_task(store)
    assert (found[1]["prompt_version"], found[2]["prompt_version"]) == ("p2", "p1")


def test_excel_has_a_frozen_header_filters_colours_and_a_summary(store: Store, tmp_path: Path) -> None:
    export(filled.fill(store), filled.PROJECT, tmp_path / "labels.xlsx", now=NOW)
    book = load_workbook(tmp_path / "labels.xlsx")
    sheet = book["Labels"]
    assert sheet.freeze_panes == "A2"
    assert sheet.auto_filter.ref == sheet.dimensions
    assert sheet["A1"].font.bold
    colour = {sheet.cell(line, 1).value: sheet.cell(line, 1).fill.fgColor.rgb for line in range(2, 8)}
    assert colour[1] == colour[4] == "FFC6EFCE"  # clean: green
    assert colour[2] == colour[3] == colour[5] == "FFFFC7CE"
    assert colour[6] not in {"FFC6EFCE", "FFFFC7CE"}  # judged by nobody yet
    facts = {line[0]: line[1] for line in book["Summary"].iter_rows(values_only=True) if line[0]}
    assert facts["Project"] == "Film reviews (1)"
    assert facts["Exported at"] == "2026-11-21T12:00:00+00:00"
    assert (facts["Tasks in this file"], facts["clean"], facts["human"]) == (6, 2, 2)
    assert facts["LLM agrees with people"] == 0.5
    assert str(facts["p_clean"]).startswith("Posterior")


HOSTILE = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "\x00=1", " =1+1", "\uff1d1+1", '=HYPERLINK("http://x","y")',
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_becomes_a_formula(store: Store, tmp_path: Path, text: str) -> None:
    filled.save_project(store)
    filled.put_sample(store, 1, text, "pos")
    stored = store.samples(filled.PROJECT)[0].text
    for suffix in ("csv", "xlsx"):
        export(store, filled.PROJECT, tmp_path / f"labels.{suffix}", now=NOW)
    in_csv = read_csv(tmp_path / "labels.csv")[0]["text"]
    sheet = load_workbook(tmp_path / "labels.xlsx")["Labels"]
    assert sheet["B2"].data_type != "f"
    if not stored.startswith("\ufffd"):  # the store has replaced a NUL
        assert in_csv == f"'{stored}"
        assert str(sheet["B2"].value).startswith("'")


@given(some.text(max_size=60) | some.sampled_from(HOSTILE))
def test_an_escaped_cell_is_the_text_or_the_text_behind_a_quote(text: str) -> None:
    tally = escape.Tally()
    cell = escape.escaped(text, tally)
    assert cell == (f"'{text}" if tally.escaped else text)
    assert tally.escaped or not text.lstrip().startswith(("=", "+", "-", "@"))
    in_excel = escape.in_excel(text, escape.Tally())
    assert isinstance(in_excel, str)
    assert not in_excel.startswith(("=", "+", "-", "@", "\t", "\r", "\x00"))


def test_numbers_stay_numbers(store: Store, tmp_path: Path) -> None:
    export(filled.fill(store), filled.PROJECT, tmp_path / "labels.xlsx", now=NOW)
    assert read_xlsx(tmp_path / "labels.xlsx")[0]["p_clean"] == 0.9
    assert escape.escaped(-0.5, escape.Tally()) == -0.5


def test_excel_survives_what_xml_cannot_hold(store: Store, tmp_path: Path) -> None:
    filled.save_project(store)
    filled.put_sample(store, 1, "a\x07b\ud800c\uffffd", "pos")
    export(store, filled.PROJECT, tmp_path / "labels.xlsx", now=NOW)
    text = read_xlsx(tmp_path / "labels.xlsx")[0]["text"]
    assert (text[0], text[-1]) == ("a", "d")
    assert not set(text) & {"\x07", "\ud800", "\uffff"}


@pytest.mark.parametrize("letter", ["x", "\U0001f600"])
def test_a_text_too_long_for_excel_is_cut_and_says_so(store: Store, tmp_path: Path, letter: str) -> None:
    filled.save_project(store)
    filled.put_sample(store, 1, letter * 40_000, "pos")
    written = export(store, filled.PROJECT, tmp_path / "labels.xlsx", now=NOW)
    text = read_xlsx(tmp_path / "labels.xlsx")[0]["text"]
    assert written.cut == 1
    assert len(text.encode("utf-16-le")) <= 2 * escape.EXCEL_CELL
    assert text.endswith(" [cut: 40,000 characters; the other formats have them all]")
    export(store, filled.PROJECT, tmp_path / "labels.csv", now=NOW)
    assert len(read_csv(tmp_path / "labels.csv")[0]["text"]) == 40_000


def test_more_tasks_than_excel_has_rows_are_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excel, "EXCEL_ROWS", 3)
    with pytest.raises(InputError, match="parquet, csv or jsonl"):
        export(filled.fill(store), filled.PROJECT, tmp_path / "labels.xlsx", now=NOW)
    assert [p.name for p in tmp_path.iterdir() if "labels" in p.name] == []


def test_json_lines_are_one_line_a_task(store: Store, tmp_path: Path) -> None:
    filled.save_project(store)
    filled.put_sample(store, 1, "=a\nb\u2028c", "pos")
    export(store, filled.PROJECT, tmp_path / "labels.jsonl")
    lines = (tmp_path / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["=a\nb\u2028c"]


def test_a_failed_export_leaves_the_old_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("old", encoding="utf-8")

    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "escaped", fail)
    with pytest.raises(InputError, match="No space left"):
        export(filled.fill(store), filled.PROJECT, path)
    assert path.read_text(encoding="utf-8") == "old"
    assert sorted(p.name for p in tmp_path.glob("*labels*")) == ["labels.csv"]


@pytest.mark.parametrize(
    ("name", "wanted", "words"),
    [
        ("labels.doc", None, "Allowed: xlsx, csv, jsonl, parquet, hf"),
        ("labels.csv", "excel", "'excel'"),
        ("nowhere/labels.csv", None, "does not exist"),
        (".", "csv", "is a folder"),
    ],
)
def test_a_wrong_place_or_format_is_told(
    store: Store, tmp_path: Path, name: str, wanted: str | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        export(filled.fill(store), filled.PROJECT, tmp_path / name, wanted)


def test_the_format_wins_over_the_ending(store: Store, tmp_path: Path) -> None:
    written = export(filled.fill(store), filled.PROJECT, tmp_path / "labels.txt", "CSV")
    assert written.format == "csv"
    assert len(read_csv(tmp_path / "labels.txt")) == 6


def test_an_unknown_project_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Project 9"):
        export(store, 9, tmp_path / "labels.csv")


def test_retired_tasks_are_left_out(store: Store) -> None:
    filled.fill(store).retire_samples(filled.PROJECT, [1])
    assert 1 not in by_task(store)


def test_every_flag_has_its_colour() -> None:
    assert {str(flag) for flag in Flag} == {"clean", "noisy", "inconsistent"}
