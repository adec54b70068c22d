"""What does a retraining make of people's corrections, in seconds and in minutes? ``python -m benchmarks.corrections FILE.csv.gz ...``.

A person, played by the true labels, looks at the first per cent of the review queue. Then the rest is judged three ways: by the SLM
as it was, after the features-only tier, and after training everything anew. The figures are those of the rest, which nobody has looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.baselines import suspicion_of
from benchmarks.dataset import Dataset, usable
from benchmarks.figures import auroc, found_at, looked_at, share
from coral_backend.exceptions import InputError
from coral_backend.slm.engine import Distilled, Earlier, SLMConfig, distil
from coral_backend.types import UNLABELED, Ints
from strategies.review.verdict import decide

Report: TypeAlias = dict[str, dict[str, dict[str, dict[str, float | None]]]]
"""File -> per cent looked at -> way -> figures."""

WAYS = ("as it was", "features-only", "full")
SHOWN = ("auroc", "verdict_accuracy", "found_at_10", "seconds")


def figures_of(found: Distilled, human: Ints, data: Dataset) -> dict[str, float | None]:
    """Judge the corpus, and score what is said of the samples that nobody looked at."""
    llm, gold = data.task.corpus.llm_labels, data.gold.corpus
    decision = decide(llm, found.probs, found.p_clean, human, data.task.llm_confidence)
    left = human == UNLABELED
    answered = left & (llm != UNLABELED)
    queue = np.argsort(decision.rank, kind="stable")
    queue = np.cumsum(left)[queue[left[queue]]] - 1  # places among those that are left
    wrong = (decision.label != gold)[left]
    return {
        "auroc": auroc(suspicion_of(decision, llm)[answered], (llm != gold)[answered]),
        "verdict_accuracy": share(~wrong),
        "found_at_10": found_at(wrong, queue, 10),
    }


def run_file(data: Dataset, percents: Sequence[float], config: SLMConfig) -> dict[str, dict[str, Any]]:
    """Return the figures of each share looked at and each way."""
    corpus = data.task.corpus
    report: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = distil(corpus, config, progress=_untold, save_to=folder / "first")
        assert first.kept is not None
        earlier = Earlier(first.kept, first.features, folder / "first")
        decision = decide(corpus.llm_labels, first.probs, first.p_clean, corpus.human_labels, data.task.llm_confidence)
        queue = np.argsort(decision.rank, kind="stable")
        for percent in percents:
            human = np.full(len(queue), UNLABELED)
            seen = queue[: looked_at(len(queue), percent)]
            human[seen] = data.gold.corpus[seen]
            now = replace(corpus, human_labels=human)
            ways = {"as it was": {**figures_of(first, human, data), "seconds": 0.0}}
            for way, kept in (("features-only", earlier), ("full", None)):
                began = time.perf_counter()
                found = distil(now, config, progress=_untold, save_to=folder / "then", earlier=kept)
                ways[way] = {"seconds": time.perf_counter() - began, **figures_of(found, human, data)}
            report[f"{percent:g}"] = ways
    return report


def run(paths: Sequence[Path], percents: Sequence[float], rows: int | None, model: str) -> Report:
    """Return the report; files that cannot be used are told of and left out."""
    return {data.task.name: run_file(data, percents, SLMConfig(model=model)) for data in usable(paths, rows)}


def table(report: Report) -> str:
    """Return the figures as Markdown."""
    head = [
        "file",
        "looked at",
        "way",
        "AUROC, rest",
        "verdicts right, rest",
        "found in first 10 % of the rest",
        "seconds",
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, percents in report.items():
        for percent, ways in percents.items():
            for way in WAYS:
                cells = [_cell(ways[way][key]) for key in SHOWN]
                lines.append(f"| {name} | {percent} % | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value <= 1 else f"{value:.0f}"


def _untold(_done: int, _total: int, _detail: Mapping[str, Any]) -> None:
    """Nobody reads along."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the table, write the figures if asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corrections", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--slm", default="embedded", metavar="MODEL")
    parser.add_argument(
        "--percent", type=float, nargs="+", default=[2.0, 10.0], metavar="P", help="shares of the queue"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="a random part of each file")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(argv)
    if not all(0 < percent < 100 for percent in options.percent):
        parser.error(f"--percent is {options.percent}; each must lie between 0 and 100")
    try:
        report = run(options.files, options.percent, options.rows, options.slm)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
