"""How do the figures read? A summary over all files and one table of every file and method, in Markdown; and which machine it was."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from coral_backend.slm.encoder import pick_device, thread_count

Report: TypeAlias = dict[str, Any]

COLUMNS: dict[str, tuple[tuple[str, ...], float, int]] = {
    "verdicts": (("verdict_accuracy",), 100, 1),
    "SLM": (("slm_accuracy",), 100, 1),
    "test": (("test_accuracy",), 100, 1),
    "AUROC": (("auroc",), 1, 3),
    "AP": (("average_precision",), 1, 3),
    **{f"found {p} %": (("found_at", p), 100, 1) for p in ("5", "10", "20")},
    **{f"after {p} %": (("accuracy_after", p), 100, 1) for p in ("5", "10", "20")},
    "ECE": (("ece",), 1, 3),
    "clean": (("clean_share",), 100, 1),
    "pure": (("clean_purity",), 100, 1),
    "demos": (("demo_purity",), 100, 1),
    "s": (("seconds",), 1, 1),
    "MB": (("peak_mb",), 1, 0),
}
"""Heading, where the figure is found, its factor (100 = percent) and digits."""

WORDS = ("file", "method", "LLM")
"""Columns that hold words."""

LEGEND = """\
Percent unless said otherwise; `±` is the standard deviation over seeds; – where a method has no such thing.
**verdicts**: accuracy of the labels handed over without a human; a missing one is wrong. **SLM**: accuracy of the small model on the
corpus, out of sample (`plain`: on what it was trained on). **test**: the same on the file's test texts. **AUROC**, **AP**: of the
ranking as a finder of the LLM's wrong labels, answered rows only, 0 to 1. **found**: share of all wrong verdicts that lie in the first
5, 10, 20 % of the review queue; **after**: accuracy of the verdicts once those are put right. **ECE**: expected calibration error of the
verdict's score, 15 bins, 0 to 1. **clean**: share of verdicts called clean, **pure**: accuracy of those, **demos**: of 100 demonstrations.
**s**: seconds for the corpus, embedding to decision; what baselines share is counted for each. **MB**: largest resident memory.

`ours`: the engine as it ships. `llm`: the LLM's labels. `plain`: fine-tuned on them, confidence on the training set. `crossval`: the same,
cross-validated. `cleanlab`: its issues, on the probabilities of `crossval`. `frozen`: embeddings and logistic regression, cross-validated.
`random`: the LLM's labels, reviewed in random order. The encoder and the folds are the same for all."""


def machine() -> dict[str, Any]:
    """Return what the seconds depend on."""
    device = pick_device()
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": thread_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def markdown(report: Report) -> str:
    """Return the whole report: head, summary, legend, one table."""
    seeds = ", ".join(map(str, report["seeds"]))
    about = report["machine"]
    head = (
        f"# How well the SLM finds the LLM's errors\n\nMade by `python -m benchmarks.quality` on {report['date']}; seeds {seeds}; "
        f"SLM `{report['slm']}`" + (f"; {report['rows']} random rows a file" if report["rows"] else "") + ". "
        f"Machine: {about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, device {about['device']}, "
        f"Python {about['python']}, torch {about['torch']}."
    )
    tables = {"All files": summary, "Every file and method": every_method, "The files": corpora}
    parts = [f"## {title}\n\n{_table(*table(report))}" for title, table in tables.items()]
    return "\n\n".join([head, *parts, LEGEND, *_remarks(report)]) + "\n"


def summary(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of the means over files, and the comparisons that the goals name."""
    files = report["files"].values()
    names = list(dict.fromkeys(name for file in files for name in file["methods"]))
    heading = [
        "method",
        "files",
        "verdicts",
        "verdicts - LLM's",
        "worst",
        "AUROC",
        "AUROC - cleanlab's",
        "found 10 %",
        "s in all",
    ]
    rows = []
    for name in names:
        methods = [file["methods"][name] for file in files]
        gain = [_minus(m["verdict_accuracy"], file["llm"]["accuracy"]) for m, file in zip(methods, files, strict=True)]
        against = [
            _minus(m["auroc"], file["methods"].get("cleanlab", {}).get("auroc"))
            for m, file in zip(methods, files, strict=True)
        ]
        rows.append(
            [
                name,
                str(sum(m["verdict_accuracy"] is not None for m in methods)),
                _number(_mean(m["verdict_accuracy"] for m in methods), 100, 1),
                _number(_mean(gain), 100, 1, sign="+"),
                _number(min((g for g in gain if g is not None), default=None), 100, 1, sign="+"),
                _number(_mean(m["auroc"] for m in methods), 1, 3),
                _number(_mean(against), 1, 3, sign="+"),
                _number(_mean((m["found_at"] or {}).get("10") for m in methods), 100, 1),
                _number(sum(m["seconds"] or 0.0 for m in methods) or None, 1, 0),
            ]
        )
    return heading, rows


def corpora(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of what the files are."""
    heading = ["file", "rows", "classes", "test rows", "LLM right", "answered", "of those right", "LLM"]
    rows = []
    for name, file in report["files"].items():
        llm = file["llm"]
        shares = [_number(llm[key], 100, 1) for key in ("accuracy", "coverage", "accuracy_answered")]
        rows.append([name, *(str(file[key]) for key in ("rows", "classes", "test_rows")), *shares, llm["name"]])
    return heading, rows


def every_method(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of the table of every file and method."""
    rows = [
        [name, method, *(_cell(figures, *column) for column in COLUMNS.values())]
        for name, file in report["files"].items()
        for method, figures in file["methods"].items()
    ]
    return ["file", "method", *COLUMNS], rows


def _cell(figures: Mapping[str, Any], path: Sequence[str], factor: float, digits: int) -> str:
    """Return a figure with its deviation."""
    value, spread = _at(figures, path), _at(figures, (f"{path[0]}_std", *path[1:]))
    return _number(value, factor, digits) + (f" ±{spread * factor:.{digits}f}" if spread is not None else "")


def _at(figures: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = figures
    for key in path:
        value = value.get(key) if value is not None else None
    return None if value is None else float(value)


def _number(value: float | None, factor: float, digits: int, *, sign: str = "") -> str:
    return "–" if value is None else f"{value * factor:{sign}.{digits}f}"


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, columns aligned so that it reads as plain text too: words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in range(len(heading))]
    left = [name in WORDS for name in heading]
    align = ["-" * width if words else "-" * (width - 1) + ":" for words, width in zip(left, widths, strict=True)]
    return "\n".join(_line(row, widths, left) for row in (heading, align, *rows))


def _line(row: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    cells = (
        cell.ljust(width) if words else cell.rjust(width) for cell, width, words in zip(row, widths, left, strict=True)
    )
    return f"| {' | '.join(cells)} |"


def _remarks(report: Report) -> list[str]:
    """Return what the engine said, what failed and what was left out, as lists."""
    said = [f"- {name}: {note}" for name, file in report["files"].items() for note in file["notes"]]
    failed = [
        f"- {name}, {method}: {error}"
        for name, file in report["files"].items()
        for method, error in file["errors"].items()
    ]
    skipped = [f"- {name}: {reason}" for name, reason in report["skipped"].items()]
    titled = (("What the engine says", said), ("What failed", failed), ("Left out", skipped))
    return [f"## {title}\n\n" + "\n".join(lines) for title, lines in titled if lines]
