"""Is every LLM of a file judged, once, and gold left for the scoring?"""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from benchmarks import labelings
from benchmarks.dataset import read_dataset, records_of
from tests.slm.tiny import make_encoder


def write(path: Path) -> Path:
    """Sixty texts of two classes; ``llm__b`` errs in six, ``llm__copy`` repeats ``llm_label``, ``llm__dumb`` is always wrong, ``llm__lazy`` silent."""
    words = {"pos": "good fine great", "neg": "bad poor awful"}
    rows = []
    for i in range(60):
        gold = ("pos", "neg")[i % 2]
        other = ("neg", "pos")[i % 2]
        first = other if i in (4, 9) else gold
        rows.append(
            {
                "id": i, "text": f"{words[gold]} film {i}", "gold": gold, "llm_label": first, "llm_name": "a", "split": "train",
                "llm__copy": first, "llm__b": other if i % 10 == 3 else gold, "llm__dumb": other, "llm__lazy": "",
            }
        )  # fmt: skip
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_distinct_usable_columns_are_corpora_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "two.csv.gz")
    found = list(labelings.labelings(read_dataset(path), records_of(path)))
    assert [one.name for one in found] == ["llm_label", "llm__b"]
    assert [(one.labels != one.gold).sum() for one in found] == [2, 6]


def test_wrong_labels_are_found_and_gold_changes_only_the_score() -> None:
    gold = np.arange(200) % 2
    llm = np.where(np.arange(200) % 20 == 7, 1 - gold, gold)
    view = np.log(np.where(np.eye(2)[gold] > 0, 0.9, 0.1))
    row = labelings.judge(labelings.Labeling("a", llm, gold), [view, view, view])
    assert row["auroc"] == row["auroc_even"] == 1.0
    assert row["llm"] == 0.95
    turned = labelings.judge(labelings.Labeling("a", llm, 1 - gold), [view, view, view])
    assert turned["auroc"] == 0.0


def test_the_table_has_a_line_for_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "two.csv.gz")
    assert labelings.main([str(path), "--slm", make_encoder(tmp_path / "encoder")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| two | 2 | ")
    assert lines[-1].startswith("| mean over files | 2 | ")
    (tmp_path / "no.csv").write_text("id,text\n1,a\n")
    assert labelings.main([str(tmp_path / "no.csv")]) == 1
