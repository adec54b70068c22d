"""Does the SLM for rows find wrong labels, beside cleanlab and gradient boosting? ``python -m benchmarks.tabular tab_*.csv.gz``.

A file has columns ``f_*``, ``gold`` and ``split``. Where its rows of split=train carry an LLM's labels (``llm_label``), these are used. Else
labels are **simulated**: gold with 10, 20 and 40 % put wrong, more often in some parts of the table than in others (``flipped``). What a
real LLM gets wrong in a table may look different. Gold is seen by the noise and by the scoring, never by a method.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.baselines import judged, suspicion_of
from benchmarks.dataset import Gold, Record, dataset_name, records_of
from benchmarks.figures import Figures, Outcome, figures_of, over_seeds
from benchmarks.report import machine
from coral_backend.exceptions import CoralError, InputError
from coral_backend.slm.columns import CATEGORICAL, Column, Columns, Row, fit
from coral_backend.slm.engine import Corpus, Model, SLMConfig, distil
from coral_backend.slm.training import make_folds
from coral_backend.types import UNLABELED, Floats, Ints
from strategies.review.flags import CLEAN
from strategies.review.verdict import decide

COLUMNS = ("id", "gold", "llm_label", "llm_name", "split")
"""What a file must have, beside columns that begin with ``PREFIX``."""

PREFIX = "f_"

RATES = (0.1, 0.2, 0.4)
"""Shares of labels that are put wrong."""

MOST_CLASSES = 20
"""Gold that is numbers, and more different ones, is an amount to estimate; CORAL chooses among labels."""

FOLDS = 5
"""Of the baselines."""

SHOWN = {
    "verdicts": ("verdict_accuracy",), "SLM": ("slm_accuracy",), "test": ("test_accuracy",), "AUROC": ("auroc",),
    "found 10 %": ("found_at", "10"), "s": ("seconds",),
}  # fmt: skip
"""Heading -> where the figure is found."""

Report: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Everything a method may see: N rows with labels of which some are wrong, and M test rows."""

    rows: list[Row]
    labels: Ints
    n_classes: int
    test: list[Row]

    @cached_property
    def columns(self) -> Columns:
        """What is read off the columns."""
        return fit(self.rows, {})

    def matrix(self, rows: Sequence[Row]) -> Floats:
        """Return rows as gradient boosting takes them: numbers as they are, words as codes, NaN where a value is missing."""
        return np.stack([_raw(column, rows) for column in self.columns.columns], axis=1)


@dataclass(frozen=True)
class File:
    """A file, read: the labels that a method gets are made anew for each kind of noise and seed."""

    name: str
    rows: list[Row]
    test: list[Row]
    gold: Gold
    llm: Ints | None
    n_classes: int

    def labels(self, noise: str, seed: int) -> Ints:
        """Return the labels of a noise, which is ``"llm"`` or a share."""
        if noise == "llm" and self.llm is not None:
            return self.llm
        return flipped(fit(self.rows, {}).encode(self.rows), self.gold.corpus, self.n_classes, float(noise), seed=seed)


def flipped(x: Floats, gold: Ints, n_classes: int, rate: float, *, seed: int) -> Ints:
    """Return labels of which about `rate` are wrong, depending on the features.

    Along a random direction the share of wrong ones rises from half of `rate` to one and a half times `rate`; which other
    class a wrong one gets depends on the features too.
    """
    rng = np.random.default_rng([seed, 7])
    z = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    place = (z @ rng.normal(size=z.shape[1])).argsort().argsort() / max(1, len(z) - 1)
    wrong = rng.random(len(gold)) < rate * (0.5 + place)
    liking = z @ rng.normal(size=(z.shape[1], n_classes)) / np.sqrt(z.shape[1]) + rng.gumbel(size=(len(z), n_classes))
    liking[np.arange(len(gold)), gold] = -np.inf
    return np.where(wrong, liking.argmax(axis=1), gold)


def ours(table: Table, seed: int) -> Outcome:
    """Run the engine on rows and decide as a round decides."""
    config, nobody = SLMConfig(seed=seed), np.full(len(table.rows), UNLABELED)
    texts = [json.dumps(row) for row in table.rows]
    corpus = Corpus(texts, table.labels, nobody, table.n_classes, family="tabular")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        found = distil(corpus, config, progress=_untold, save_to=Path(name) / "model")
        decision = decide(table.labels, found.probs, found.p_clean, nobody, p_threshold=config.p_threshold)
        seconds = time.perf_counter() - began
        said = Model.load(Path(name) / "model").predict([json.dumps(row) for row in table.test])[0]
    return Outcome(
        decision.label,
        decision.score,
        order=np.argsort(decision.rank, kind="stable"),
        suspicion=suspicion_of(decision, table.labels),
        slm_label=decision.slm_label,
        test_label=said.argmax(axis=1) if len(table.test) else None,
        clean=decision.flag == CLEAN,
        seconds={"all": seconds},
    )


def as_they_are(table: Table, _seed: int) -> Outcome:
    """Take the labels as they are."""
    return Outcome(table.labels)


def boosting(table: Table, seed: int) -> Outcome:
    """Learn the labels by gradient boosting as scikit-learn has it, cross-validated; doubt what it finds improbable."""
    began = time.perf_counter()
    probs = cross_validated(table, seed)
    said = _boost(table, np.arange(len(table.rows)), table.test, seed) if len(table.test) else None
    seconds = {"all": time.perf_counter() - began}
    return judged(table.labels, probs, test_label=None if said is None else said.argmax(axis=1), seconds=seconds)


def cleanlab(table: Table, seed: int) -> Outcome:
    """Let cleanlab find issues by the same probabilities; the test rows are told by boosting on what raised none.

    References
    ----------
    Northcutt, Jiang, Chuang: Confident Learning, JAIR 2021.
    """
    finder, ranker = importlib.import_module("cleanlab.filter"), importlib.import_module("cleanlab.rank")
    began = time.perf_counter()
    probs = cross_validated(table, seed)
    answered = np.flatnonzero(table.labels != UNLABELED)
    filled = judged(table.labels, probs)
    quality, issue = probs.max(axis=1), np.zeros(len(probs), dtype=bool)
    quality[answered] = ranker.get_label_quality_scores(
        table.labels[answered], probs[answered], method="self_confidence"
    )
    issue[answered] = finder.find_label_issues(table.labels[answered], probs[answered], n_jobs=1)
    said = _boost(table, np.flatnonzero(~issue), table.test, seed) if len(table.test) else None
    return Outcome(
        filled.verdict,
        quality,
        order=np.lexsort((quality, ~issue)),
        suspicion=1.0 - quality,
        test_label=None if said is None else said.argmax(axis=1),
        clean=~issue,
        seconds={"all": time.perf_counter() - began},
    )


METHODS: dict[str, Callable[[Table, int], Outcome]] = {
    "ours": ours, "labels": as_they_are, "boosting": boosting, "cleanlab": cleanlab,
}  # fmt: skip


def cross_validated(table: Table, seed: int) -> Floats:
    """Return boosting's probabilities (N, K) of rows whose labels it has not seen."""
    folds = make_folds(table.labels, FOLDS, np.random.default_rng(seed))
    probs = np.zeros((len(folds), table.n_classes))
    for fold in range(FOLDS):
        out = np.flatnonzero(folds == fold)
        probs[out] = _boost(table, np.flatnonzero(folds != fold), [table.rows[i] for i in out], seed)
    return probs


def _boost(table: Table, learned: Ints, asked: Sequence[Row], seed: int) -> Floats:
    """Learn some rows and return what is said of others; classes never seen get 0."""
    learned = learned[table.labels[learned] != UNLABELED]
    words = [column.kind == CATEGORICAL for column in table.columns.columns]
    model = HistGradientBoostingClassifier(categorical_features=words, random_state=seed)
    probs = np.zeros((len(asked), table.n_classes))
    seen = np.unique(table.labels[learned])
    if len(seen) == 1:
        probs[:, seen] = 1.0
        return probs
    model.fit(table.matrix([table.rows[i] for i in learned]), table.labels[learned])
    probs[:, model.classes_] = model.predict_proba(table.matrix(asked))
    return probs


def _raw(column: Column, rows: Sequence[Row]) -> Floats:
    if column.kind != CATEGORICAL:
        return np.array([np.nan if row.get(column.name) is None else row[column.name] for row in rows], dtype=float)
    place = {word: i for i, word in enumerate(column.words)}
    words = [row.get(column.name) for row in rows]
    return np.array([np.nan if word is None else place.get(str(word), len(place)) for word in words], dtype=float)


def read_file(path: Path, rows: int | None = None) -> File:
    """Read a file; at most `rows` rows of the corpus, at random.

    Raises
    ------
    InputError
        If it is no table of classes.
    """
    records = records_of(path, COLUMNS)
    if not any(name.startswith(PREFIX) for name in records[0] if name):
        raise InputError(f"{path.name} has no column that begins with {PREFIX}; it is no table.")
    found = sorted({r["gold"] for r in records})
    if len(found) > MOST_CLASSES and all(_is_number(gold) for gold in found):
        raise InputError(
            f"{path.name}: gold is an amount ({len(found)} different numbers); CORAL chooses among labels."
        )
    train = [r for r in records if r["split"] == "train"]
    if rows is not None and rows < len(train):
        train = [train[i] for i in np.sort(np.random.default_rng(0).choice(len(train), rows, replace=False))]
    test = [r for r in records if r["split"] == "test"]
    index = {label: i for i, label in enumerate(found)}
    gold = Gold(*(np.array([index[r["gold"]] for r in part], dtype=np.int64) for part in (train, test)))
    llm = np.array([index.get(r["llm_label"], UNLABELED) for r in train]) if any(r["llm_name"] for r in train) else None
    return File(dataset_name(path), [_row(r) for r in train], [_row(r) for r in test], gold, llm, len(found))


def _row(record: Record) -> Row:
    return {name[len(PREFIX) :]: _cell(text) for name, text in record.items() if name.startswith(PREFIX)}


def _cell(text: str) -> str | float | None:
    return float(text) if _is_number(text) else text or None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def run(
    paths: Sequence[Path],
    methods: Sequence[str],
    seeds: Sequence[int],
    rows: int | None,
    keep: Callable[[Report], None],
) -> Report:
    """Run methods on files; `keep` is given the report after each. Files that cannot be used are told under ``skipped``."""
    about = {"date": datetime.now(UTC).date().isoformat(), "seeds": list(seeds), "rows": rows, "machine": machine()}
    report: Report = {**about, "simulated": True, "files": {}, "skipped": {}, "errors": {}}
    for path in paths:
        try:
            file = read_file(path, rows)
        except InputError as error:
            report["skipped"][dataset_name(path)] = str(error)
            continue
        noises = ["llm"] if file.llm is not None else [str(rate) for rate in RATES]
        report["simulated"] &= file.llm is None
        report["files"][file.name] = {
            noise: {name: _figures(file, noise, name, seeds, report) for name in methods} for noise in noises
        }
        keep(report)
        print(f"{file.name}: done", file=sys.stderr, flush=True)
    if not report["files"]:
        raise InputError("No file can be used. " + " ".join(report["skipped"].values()))
    return report


def _figures(file: File, noise: str, name: str, seeds: Sequence[int], report: Report) -> Figures | None:
    """Return the means over seeds, or None when the method cannot run."""
    runs = []
    for seed in seeds:
        table = Table(file.rows, file.labels(noise, seed), file.n_classes, file.test)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other people's packages
                outcome = METHODS[name](table, seed)
        except (CoralError, ModuleNotFoundError, ValueError) as error:
            report["errors"][name] = f"{file.name}: {type(error).__name__}: {error}"
            return None
        runs.append(figures_of(outcome, table.labels, file.gold))
    return over_seeds(runs)


def markdown(report: Report) -> str:
    """Return one table: the means over files for each noise, then each file."""
    heading = ["file", "wrong", "method", *SHOWN]
    noises = list(dict.fromkeys(noise for file in report["files"].values() for noise in file))
    lines = [
        [f"mean of {len(files)}", _share(noise), name, *_cells([file[noise][name] for file in files])]
        for noise in noises
        if (files := [file for file in report["files"].values() if noise in file])
        for name in files[0][noise]
    ]
    lines += [
        [name, _share(noise), method, *_cells([figures])]
        for name, file in report["files"].items()
        for noise, found in file.items()
        for method, figures in found.items()
    ]
    said = (
        "Labels are simulated (see the module); gold is seen by the noise and the scoring only."
        if report["simulated"]
        else ""
    )
    table = ["| " + " | ".join(row) + " |" for row in (heading, ["---"] * len(heading), *lines)]
    more = [f"- {name}: {why}" for part in ("skipped", "errors") for name, why in report[part].items()]
    return "\n".join([f"Seeds {report['seeds']}. {said}".strip(), "", *table, "", *more]) + "\n"


def _cells(found: Sequence[Figures | None]) -> list[str]:
    cells = []
    for heading, path in SHOWN.items():
        values = [value for figures in found if figures and (value := _at(figures, path)) is not None]
        mean = float(np.mean(values)) if values else None
        cells.append(
            "–"
            if mean is None
            else f"{mean:.3f}"
            if heading == "AUROC"
            else f"{mean * (1 if heading == 's' else 100):.1f}"
        )
    return cells


def _at(figures: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = figures
    for key in path:
        value = None if value is None else value.get(key)
    return None if value is None else float(value)


def _share(noise: str) -> str:
    return noise if noise == "llm" else f"{float(noise):.0%}"


def _untold(_done: int, _total: int, _detail: Mapping[str, Any]) -> None:
    """Nobody reads along."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the table, write what was asked for; return 1 when no file could be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tabular", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="CSV, may be gzipped")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="run with seeds 0 to N - 1 (default 3)")
    parser.add_argument("--rows", type=int, metavar="N", help="at most so many random rows of each file")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures there")
    options = parser.parse_args(argv)
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"--methods: {', '.join(unknown)}; there are {', '.join(METHODS)}")

    def keep(report: Report) -> None:
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    try:
        report = run(options.files, methods, range(options.seeds), options.rows, keep)
    except CoralError as error:
        print(error, file=sys.stderr)
        return 1
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
