"""Does the replay ask whom a round would ask, count what it costs, and keep the gold out of the decisions?"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import annotate_strategies
from benchmarks.annotate_strategies import ANSWER_TOKENS, FILES, PRICES, main, measure, play, read, section
from coral_backend.types import Floats

MODELS = ("gpt-4o-2024-08-06", "gpt-4o-mini", "deepseek-chat", "homemade")
N = 60


def write(path: Path) -> Path:
    """Write texts that four models labelled: the dearest is right, the cheap ones err on every tenth and every seventh."""
    rows = []
    for i in range(N):
        gold = "good" if i % 2 else "bad"
        wrong = "bad" if i % 2 else "good"
        said = (gold, wrong if i % 10 == 0 else gold, wrong if i % 7 == 0 else gold, "" if i == 3 else wrong)
        row = {"id": str(i), "text": f"a {gold} film, number {i}", "gold": gold, "llm_label": said[1]}
        row |= {"llm_name": "gpt-4o-mini", "split": "train"}
        rows.append(row | {f"llm__{model}": label for model, label in zip(MODELS, said, strict=True)})
    rows.append({**rows[0], "id": "t", "llm_name": "", "split": "test"})
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        write(tmp_path / f"{name}.csv.gz")
    return tmp_path


def embed(texts: Sequence[str]) -> Floats:
    rows = np.array([[float("good" in text), float("bad" in text), 0.1] for text in texts])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_links_are_the_priced_models_in_the_order_of_their_prices(folder: Path) -> None:
    replay = read(folder / "policy_en.csv.gz")
    assert replay.links == ("gpt-4o-mini", "deepseek-chat", "gpt-4o-2024-08-06")
    assert len(replay.texts) == N
    assert replay.answers["homemade"][3] is None


def test_costs_are_prices_times_questions(folder: Path) -> None:
    report = section(folder, embed=embed)["files"]["policy_en"]
    replay = read(folder / "policy_en.csv.gz")
    chain, single = report["methods"]["chain"], report["methods"]["single gpt-4o-2024-08-06"]
    given, said = PRICES["gpt-4o-2024-08-06"]
    assert single["usd_per_1000"] == pytest.approx((given * replay.tokens + said * ANSWER_TOKENS) / 1e3, abs=1e-4)
    assert single["cost_of_last"] == 1.0
    spent = sum(replay.price(model) * count for model, count in chain["asked"].items())
    assert chain["cost_of_last"] == pytest.approx(spent / (replay.price("gpt-4o-2024-08-06") * N), abs=1e-4)
    assert chain["asked"]["gpt-4o-mini"] == N
    assert chain["asked"]["gpt-4o-2024-08-06"] <= N // 5
    assert sum(chain["decided"].values()) == N
    assert report["methods"]["single homemade"]["usd_per_1000"] is None
    assert report["methods"]["single homemade"]["abstained"] == pytest.approx(1 / N, abs=1e-4)


def test_the_small_model_sends_on_what_the_first_link_got_wrong(folder: Path) -> None:
    report = section(folder, embed=embed)["files"]["policy_en"]
    assert report["methods"]["single gpt-4o-mini"]["accuracy"] == 0.9
    assert report["methods"]["chain"]["accuracy"] > 0.95


@pytest.mark.parametrize("name", ["chain", "vote", "small_first"])
def test_gold_decides_nothing(folder: Path, name: str) -> None:
    replay = read(folder / "policy_en.csv.gz")
    lied = replace(replay, gold=["bad"] * N)
    vectors = embed(replay.texts)
    assert play(replay, name, replay.links, vectors) == play(lied, name, replay.links, vectors)


def test_figures_have_their_targets(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(folder))
    monkeypatch.setattr(annotate_strategies, "_encoder", lambda: embed)
    figures = measure()
    assert figures["average chain cost of last"]["target"] == "<= 0.5"
    assert figures["average chain cost of last"]["met"] is True
    out = folder / "out.json"
    assert main(["--json", str(out)]) == 0
    assert "chain against the last link" in capsys.readouterr().out
    assert set(json.loads(out.read_text())["files"]) == set(FILES)


def test_missing_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(annotate_strategies, "_encoder", lambda: embed)
    assert main([]) == 1
    assert "toxicity_en, policy_en" in capsys.readouterr().err
    assert measure(quick=True)["missing_files"]["met"] is False
