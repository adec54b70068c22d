"""How well does the SLM find the LLM's wrong labels, beside what others do? ``python -m benchmarks.quality FILE.csv.gz ...``.

Each file holds an LLM's recorded labels and, for scoring only, the true ones (``dataset.py``). The engine and six baselines
(``baselines.py``) run on it with several seeds; ``figures.py`` scores them, ``report.py`` prints. ``make bench`` runs it on
everything that ``../shared/data`` holds and writes ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.baselines import METHODS, Workbench
from benchmarks.dataset import Dataset, dataset_name, read_dataset
from benchmarks.figures import METRICS, Figures, figures_of, over_seeds, share
from benchmarks.memory import peak_memory
from benchmarks.report import Report, machine, markdown
from coral_backend.exceptions import CoralError, InputError
from coral_backend.slm.engine import SLMConfig
from coral_backend.types import UNLABELED

FAILED: Figures = dict.fromkeys((*METRICS, "seconds_by_stage"))
"""The figures of a method that could not run."""


def run_file(
    data: Dataset, methods: Sequence[str], seeds: Sequence[int], config: SLMConfig, *, quiet: bool = False
) -> dict[str, Any]:
    """Run methods on one file.

    Parameters
    ----------
    methods : sequence of str
        Of ``METHODS``; run in that table's order, each with all seeds before the next.
    seeds : sequence of int
        One run of each method a seed.
    config : SLMConfig
        The engine's; its seed is not used.
    quiet : bool
        Say nothing on stderr.

    Returns
    -------
    dict
        ``rows``, ``classes``, ``test_rows``, ``llm``, ``methods`` (figures, means over seeds), ``errors``, ``notes``.
    """
    name = data.task.name
    bench = Workbench(data.task, config, partial(_told, name) if sys.stderr.isatty() and not quiet else _untold)
    found: dict[str, Figures] = {}
    errors: dict[str, str] = {}
    notes: list[str] = []
    for method in (known for known in METHODS if known in methods):
        runs: list[Figures] = []
        for seed in seeds:
            try:
                figures, said = _run(bench, data, method, seed)
            except (CoralError, ModuleNotFoundError, ValueError) as error:
                errors[method] = f"{type(error).__name__}: {error}"
                break
            runs.append(figures)
            notes += [note for note in said if note not in notes]
            if not quiet:
                _log(f"{name}: {method}, seed {seed}: {_brief(figures)}")
        if method in errors and not quiet:
            _log(f"{name}: {method} failed: {errors[method]}")
        found[method] = over_seeds([FAILED] if method in errors else runs)
    return {**_about(data), "methods": found, "errors": errors, "notes": notes}


def _run(bench: Workbench, data: Dataset, method: str, seed: int) -> tuple[Figures, Sequence[str]]:
    """Run one method with one seed; only afterwards look at gold."""
    with peak_memory() as peak, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's packages, about classes that a fold lacks
        outcome = METHODS[method](bench, seed)
    works = bool(outcome.seconds)
    figures = figures_of(outcome, bench.llm, data.gold) | {"peak_mb": peak.mb if works else None}
    return figures, outcome.notes


def _about(data: Dataset) -> dict[str, Any]:
    """Return what is known about a file before any method runs."""
    llm, gold = data.task.corpus.llm_labels, data.gold.corpus
    answered = llm != UNLABELED
    return {
        "rows": len(llm),
        "classes": len(data.labels),
        "test_rows": len(data.gold.test),
        "llm": {
            "name": data.llm_name,
            "accuracy": share(llm == gold),
            "accuracy_answered": share((llm == gold)[answered]),
            "coverage": share(answered),
        },
    }


def run(
    paths: Sequence[Path],
    *,
    config: SLMConfig,
    methods: Sequence[str],
    seeds: Sequence[int],
    rows: int | None,
    date: str,
    quiet: bool = False,
    keep: Callable[[Report], None] | None = None,
    done: Mapping[str, Any] | None = None,
) -> Report:
    """Run methods on files that can be used; the others are named under ``skipped`` with the reason.

    Parameters
    ----------
    date : str
        Of today, for the report.
    keep : callable, optional
        Given the report after every file: hours of work should not be lost with the last file.
    done : mapping, optional
        What an earlier run found, by file: these are not run again.

    Raises
    ------
    InputError
        If two files have the same name, or none can be used.
    """
    names = [dataset_name(path) for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)}: more than one file has this name; each must have its own.")
    known = {name: done[name] for name in names if name in done} if done else {}
    report: Report = {"files": known, "seeds": list(seeds), "slm": config.model, "machine": machine()}
    report |= {"date": date, "rows": rows, "skipped": {}}
    for name, path in zip(names, paths, strict=True):
        if name in report["files"]:
            continue
        try:
            data = read_dataset(path, rows)
        except InputError as error:
            report["skipped"][name] = str(error)
            if not quiet:
                _log(f"{name}: left out. {error}")
            continue
        report["files"][name] = run_file(data, methods, seeds, config, quiet=quiet)
        if keep is not None:
            keep(report)
    if not report["files"]:
        raise InputError("No file can be used. " + " ".join(report["skipped"].values()))
    return report


def unfinished(path: Path, *, config: SLMConfig, methods: Sequence[str], seeds: Sequence[int], rows: int | None) -> Any:
    """Return the files of an earlier report that the same run would come to; nothing where there is none.

    Raises
    ------
    InputError
        If it is no report of ours, or one of another run.
    """
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        files = dict(report["files"])
        found = {name: report[name] for name in ("seeds", "slm", "rows")}
        found["methods"] = sorted({method for one in files.values() for method in one["methods"]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no report of this benchmark ({type(error).__name__}); name another file."
        ) from None
    wanted = {"seeds": list(seeds), "slm": config.model, "rows": rows, "methods": sorted(methods)}
    if found != wanted:
        raise InputError(f"{path} is of another run ({found}; this one is {wanted}); name another file for --json.")
    return files


def write(report: Report, *, json_to: Path | None, markdown_to: Path | None) -> None:
    """Write the report where it is wanted."""
    if json_to is not None:
        json_to.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if markdown_to is not None:
        markdown_to.write_text(markdown(report), encoding="utf-8")


def _brief(figures: Figures) -> str:
    shown = {"verdicts": "verdict_accuracy", "AUROC": "auroc", "s": "seconds", "MB": "peak_mb"}
    return ", ".join(f"{key} {figures[name]:.4g}" for key, name in shown.items() if figures[name] is not None)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _told(name: str, done: int, total: int, detail: Mapping[str, Any]) -> None:
    """Rewrite one line with how far the engine is."""
    print(
        f"{name}: ours, {detail.get('stage', '')} {done / max(total, 1):.0%}   ", end="\r", file=sys.stderr, flush=True
    )


def _untold(_done: int, _total: int, _detail: Mapping[str, Any]) -> None:
    """Nobody reads along."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="CSV, may be gzipped")
    parser.add_argument(
        "--slm", default="embedded", metavar="MODEL", help="'embedded', a folder, or a Hugging Face name"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="run with seeds 0 to N - 1 (default 3)")
    parser.add_argument("--rows", type=int, metavar="N", help="a random part of each file, for a quick look")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures there")
    parser.add_argument("--resume", action="store_true", help="do not run again what the file of --json has already")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the tables there too")
    options = parser.parse_args(argv)
    options.methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    if options.resume and options.json is None:
        parser.error("--resume needs --json, the file that an earlier run wrote")
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown or not options.methods:
        parser.error(f"--methods: {', '.join(unknown) or 'none given'}; there are {', '.join(METHODS)}")
    if options.seeds < 1 or (options.rows is not None and options.rows < 2):
        parser.error(f"--seeds is {options.seeds}, at least 1; --rows is {options.rows}, at least 2")
    missing = [str(path) for path in options.files if not path.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the tables, write what was asked for; return 1 when no file could be used."""
    options = _arguments(argv)
    logging.basicConfig(level=logging.WARNING)
    same: dict[str, Any] = {
        "config": SLMConfig(model=options.slm),
        "methods": options.methods,
        "seeds": range(options.seeds),
        "rows": options.rows,
    }
    keep = partial(write, json_to=options.json, markdown_to=options.markdown)
    try:
        report = run(
            options.files,
            **same,
            date=datetime.now(UTC).date().isoformat(),
            keep=keep,
            done=unfinished(options.json, **same) if options.resume else None,
        )
    except CoralError as error:
        _log(str(error))
        return 1
    keep(report)
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
