"""What do the measurements of the LLM layer share? The scripted endpoint and the workers as processes, and how a figure looks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.annotate_worker import Job

WIDEST = 60
"""Characters of a value in the table; the JSON has all of it."""

ROOT = Path(__file__).resolve().parent.parent


def figure(value: Any, target: str = "", *, met: bool | None = None) -> dict[str, Any]:
    """Return a figure with its target beside it."""
    shown = round(value, 4) if isinstance(value, float) else value
    return {"value": shown, "target": target, "met": met}


def at_least(value: float, bound: float) -> dict[str, Any]:
    """Return a figure that should be no smaller than `bound`."""
    return figure(value, f">= {bound:g}", met=value >= bound)


def at_most(value: float, bound: float) -> dict[str, Any]:
    """Return a figure that should be no larger than `bound`."""
    return figure(value, f"<= {bound:g}", met=value <= bound)


@dataclass(frozen=True)
class Endpoint:
    """A scripted endpoint that runs."""

    port: int

    @property
    def base_url(self) -> str:
        """What goes into ``OPENAI_BASE_URL``."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """Return what it was asked since the last reset."""
        with urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=30) as answer:
            return dict(json.load(answer))

    def reset(self) -> None:
        """Have it forget what it was asked."""
        urlopen(Request(f"http://127.0.0.1:{self.port}/reset", data=b"{}"), timeout=30).close()


@contextmanager
def endpoint(*arguments: str) -> Iterator[Endpoint]:
    """Run the scripted endpoint as a process of its own."""
    command = [sys.executable, "-m", "tests.scripted_openai", "--port", "0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        if not told:
            raise RuntimeError("the scripted endpoint did not start")
        yield Endpoint(int(json.loads(told)["port"]))
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def start_worker(job: Job) -> subprocess.Popen[str]:
    """Start a worker for a job that was prepared."""
    command = [sys.executable, "-m", "benchmarks.annotate_worker", json.dumps(asdict(job))]
    # Settings come from the job alone.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CORAL_", "OPENAI_"))}
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)


def finish(workers: Sequence[subprocess.Popen[str]], *, within_s: float) -> list[dict[str, Any]]:
    """Wait for workers and return what they report.

    Raises
    ------
    RuntimeError
        If one failed; its own output says why.
    """
    reports = []
    try:
        for worker in workers:
            told, _ = worker.communicate(timeout=within_s)
            if worker.returncode != 0:
                raise RuntimeError(f"a worker ended with {worker.returncode}")
            reports.append(dict(json.loads(told)))
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
    return reports


def table(report: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as aligned text, a mark where a target is missed."""
    rows = [("section", "figure", "value", "target", "")]
    for section, figures in report.items():
        for name, entry in figures.items():
            plain = entry if isinstance(entry, Mapping) and "value" in entry else figure(entry)
            mark = {True: "met", False: "MISSED", None: ""}[plain["met"]]
            rows.append((section, name, textwrap.shorten(str(plain["value"]), WIDEST), plain["target"], mark))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
