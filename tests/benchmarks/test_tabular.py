"""Does the benchmark of tables run every method on what it may see, say that its errors are simulated, and leave out what is no table?"""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tabular
from benchmarks.tabular import METHODS, flipped, main, read_file
from strategies.distillation import forest

HAS_CLEANLAB = importlib.util.find_spec("cleanlab") is not None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "TREES", 20)
    monkeypatch.setattr(tabular, "RATES", (0.2,))


def write(path: Path, *, llm: bool = False, amount: bool = False, n: int = 120) -> Path:
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "f_age", "f_job", "gold", "llm_label", "llm_name", "split"])
        for i in range(n):
            age = rng.integers(18, 80)
            gold = f"{i}.5" if amount else "old" if age > 50 else "young"
            said = ("old" if i % 5 == 0 else gold) if llm else ""
            job = "" if i % 9 == 0 else ["nurse", "cook"][i % 2]
            writer.writerow([i, age, job, gold, said, "gpt" if llm else "", "test" if i % 4 == 0 else "train"])
    return path


def test_errors_are_as_many_as_asked_for_and_depend_on_the_features() -> None:
    x = np.random.default_rng(1).normal(size=(4_000, 3))
    gold = np.random.default_rng(2).integers(0, 3, 4_000)
    said = flipped(x, gold, 3, 0.2, seed=0)
    assert (said != gold).mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(said, flipped(x, gold, 3, 0.2, seed=0))
    slope = np.linalg.lstsq(x, (said != gold) - 0.2, rcond=None)[0]
    assert np.abs(slope).max() > 0.03


def test_every_method_runs_and_the_table_says_what_is_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write(tmp_path / "tab_a.csv"), write(tmp_path / "tab_amount.csv", amount=True)]
    methods = [name for name in METHODS if name != "cleanlab" or HAS_CLEANLAB]
    args = [*map(str, files), "--seeds", "1", "--methods", ",".join(methods), "--json", str(tmp_path / "out.json")]
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert "Labels are simulated" in shown
    assert "tab_amount: tab_amount.csv: gold is an amount (120 different numbers)" in shown
    found = json.loads((tmp_path / "out.json").read_text())
    figures = found["files"]["tab_a"]["0.2"]
    assert set(figures) == set(methods)
    assert figures["ours"]["auroc"] > 0.8
    assert figures["ours"]["test_accuracy"] > 0.7
    assert figures["labels"]["auroc"] is None


def test_real_labels_are_taken_where_there_are_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "tab_llm.csv", llm=True)
    assert main([str(path), "--seeds", "1", "--methods", "ours,labels"]) == 0
    shown = capsys.readouterr().out
    assert "simulated" not in shown
    assert "| tab_llm | llm | ours |" in shown


def test_a_method_sees_neither_gold_nor_test_labels(tmp_path: Path) -> None:
    file = read_file(write(tmp_path / "tab_a.csv"))
    assert not {"gold", "llm"} & set(tabular.Table.__dataclass_fields__)
    assert all(set(row) == {"age", "job"} for row in file.rows)
    assert any(row["job"] is None for row in file.rows)


def test_what_is_no_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("id,text,gold,llm_label,llm_name,split\n1,good,a,,,train\n")
    assert main([str(path)]) == 1
    assert "no column that begins with f_" in capsys.readouterr().err
