"""How fast does the LLM layer annotate, does it keep limits, and does it ever pay twice?

``python -m benchmarks.annotate --json OUT [--only SECTION] [--quick]`` measures against a scripted endpoint on loopback, which is a
process of its own, as the workers are. Every figure stands beside its target. ``--quick`` runs each section in small.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.annotate_parts import Endpoint, at_least, at_most, endpoint, figure, finish, start_worker, table
from benchmarks.annotate_worker import Job, prepare
from coral_backend.services.redis_server import RedisServer
from coral_backend.store import Store
from coral_backend.types import Answer

STRATEGIES = "benchmarks.annotate_strategies"
"""Has ``measure(quick) -> figures`` of its own, if it is there."""

LATENCY_MS = 200
IN_FLIGHT = 64


def throughput(folder: Path, *, quick: bool) -> dict[str, Any]:
    """64 in flight at 200 ms: how near to 320 requests a second, and at what cost in CPU time?"""
    items = 400 if quick else 20_000
    with endpoint("--latency-ms", str(LATENCY_MS)) as server:
        job = Job(str(folder), server.base_url, items=items, concurrency=IN_FLIGHT)
        prepare(job)
        (report,) = finish([start_worker(job)], within_s=1800)
        stats = server.stats()
    most = IN_FLIGHT / (LATENCY_MS / 1000)
    rate = items / report["seconds"]
    return {
        "items": figure(items),
        "labelled": figure(_labelled(job), f"= {items}", met=_labelled(job) == items),
        "requests": figure(stats["requests"], f"= {items}", met=stats["requests"] == items),
        "requests_per_second": at_least(rate, 0.95 * most),
        "share_of_possible": at_least(rate / most, 0.95),
        "worker_cpu_ms_per_item": at_most(report["cpu_seconds"] / items * 1000, 2.0),
        "worker_peak_rss_mb": figure(report["peak_rss_mb"]),
        "most_in_flight": at_most(stats["most_in_flight"], IN_FLIGHT),
        "endpoint_cpu_ms_per_item": figure(stats["cpu_seconds"] / items * 1000),
    }


def memory(folder: Path, *, quick: bool) -> dict[str, Any]:
    """A corpus that is read as a stream: does memory stay flat?"""
    items = 2_000 if quick else 1_000_000
    with endpoint("--no-count") as server:
        job = Job(str(folder), server.base_url, items=items, concurrency=IN_FLIGHT, stream=True)
        prepare(job)
        (report,) = finish([start_worker(job)], within_s=6 * 3600)
    tenth, end = report["rss_mb_by_items"].values()
    return {
        "items": figure(items),
        "labelled": figure(_labelled_rows(job), f"= {items}", met=_labelled_rows(job) == items),
        "rss_mb_at_a_tenth": figure(tenth),
        "rss_mb_at_the_end": figure(end),
        "growth_mb": at_most(end - tenth, 50.0),
        "peak_rss_mb": at_most(report["peak_rss_mb"], 1000.0),
        "items_per_second": figure(items / report["seconds"]),
        "worker_cpu_ms_per_item": figure(report["cpu_seconds"] / items * 1000),
    }


def limit(folder: Path, *, quick: bool) -> dict[str, Any]:
    """3,000 requests a minute for two workers: how much of it is used, and is there one refusal?"""
    rpm, seconds = 3_000, 6 if quick else 190
    each = rpm // 60 * seconds // 2
    with RedisServer(folder), endpoint("--latency-ms", str(LATENCY_MS), "--rpm", str(rpm)) as server:
        jobs = [
            Job(str(folder), server.base_url, project=number, items=each, concurrency=IN_FLIGHT, rpm=rpm)
            for number in (1, 2)
        ]
        for job in jobs:
            prepare(job)
        finish([start_worker(job) for job in jobs], within_s=1800)
        stats = server.stats()
    # From when both work: one alone, just started, is not the steady state.
    times = stats["accepted_at"]
    begin = times[0] + 2.0
    span = 60.0 if not quick else 2.0
    whole = int((times[-1] - begin) / span)
    used = sum(begin <= at < begin + whole * span for at in times)
    allowed = rpm * span / 60 * whole
    return {
        "requests_per_minute_allowed": figure(rpm),
        "workers": figure(len(jobs)),
        "measured_seconds": figure(span * whole),
        "share_used": at_least(used / allowed if allowed else 0.0, 0.97),
        "refused_429": figure(stats["kinds"].get("limited", 0), "= 0", met="limited" not in stats["kinds"]),
        "labelled": figure(sum(map(_labelled, jobs)), f"= {2 * each}", met=sum(map(_labelled, jobs)) == 2 * each),
    }


def faults(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Every twentieth request meets a fault: is every text labelled or abstained from, and none paid twice?"""
    items = 300 if quick else 5_000
    with endpoint("--latency-ms", "20", "--faults", "0.05", "--seed", "7") as server:
        job = Job(str(folder), server.base_url, items=items, concurrency=32, timeout_s=3.0)
        prepare(job)
        finish([start_worker(job)], within_s=1800)
        stats = server.stats()
    answers = _answers(job)
    abstained = [answer for answer in answers.values() if answer.label is None]
    without = sum(not answer.reason for answer in abstained)
    reasons = Counter(_short(answer.reason or "") for answer in abstained)
    kinds = {kind: n for kind, n in sorted(stats["kinds"].items()) if kind != "ok"}
    return {
        "items": figure(items),
        "faults_met": figure(sum(kinds.values())),
        "kinds": figure(kinds),
        "labelled": figure(len(answers) - len(abstained)),
        "abstained": figure(len(abstained)),
        "reasons": figure(dict(reasons)),
        "lost": at_most(items - len(answers), 0),
        "abstained_without_reason": at_most(without, 0),
        "requests": figure(stats["requests"]),
        "paid_twice": at_most(stats["paid_twice"], kinds.get("drip", 0)),
    }


def kill(folder: Path, *, quick: bool) -> dict[str, Any]:
    """The worker is killed 20 times in a round: what is asked again?"""
    items, kills, slots = (200, 2, 8) if quick else (5_000, 20, 16)
    rng = random.Random(11)
    with endpoint("--latency-ms", "50") as server:
        job = Job(str(folder), server.base_url, items=items, concurrency=slots)
        prepare(job)
        in_flight: list[int] = []
        for target in sorted(rng.sample(range(items // 20, items - items // 20), kills)):
            in_flight.append(_killed_at(job, server, target + sum(in_flight)))
        finish([start_worker(job)], within_s=1800)
        stats = server.stats()
    answers = _answers(job)
    extra = stats["requests"] - items
    return {
        "items": figure(items),
        "kills": figure(kills),
        "slots": figure(slots),
        "labelled": figure(_labelled(job), f"= {items}", met=_labelled(job) == items),
        "requests": figure(stats["requests"]),
        "requests_beyond_items": at_most(extra, kills * slots),
        "in_flight_at_the_kills": figure(sum(in_flight)),
        "answers_without_cost": figure(sum(a.prompt_tokens == 0 for a in answers.values())),
    }


SECTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "throughput": throughput,
    "memory": memory,
    "limit": limit,
    "faults": faults,
    "kill": kill,
}


def _killed_at(job: Job, server: Endpoint, requests: int) -> int:
    """Run a worker until the endpoint has had so many requests, kill it, and return how many it had in flight."""
    worker = start_worker(job)
    while server.stats()["requests"] < requests and worker.poll() is None:
        time.sleep(0.01)
    worker.kill()  # SIGKILL
    in_flight = int(server.stats()["in_flight"])  # at once: the endpoint goes on answering
    worker.communicate()
    return in_flight


def _answers(job: Job) -> dict[int, Answer]:
    store = Store(job.settings.store_url)
    try:
        return store.llm_labels(job.project)
    finally:
        store.close()


def _labelled(job: Job) -> int:
    return sum(answer.label is not None for answer in _answers(job).values())


def _labelled_rows(job: Job) -> int:
    """Count without the samples, which a streamed corpus has none of in the store."""
    store = Store(job.settings.store_url)
    try:
        return sum(of["labels"] for of in store.llm_usage(job.project).values())
    finally:
        store.close()


def _short(reason: str) -> str:
    return reason.split(":", maxsplit=1)[0].split("(", maxsplit=1)[0].strip()[:60]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotate", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: seconds instead of the better part of an hour"
    )
    parser.add_argument("--only", action="append", metavar="SECTION", help=f"one of {', '.join(SECTIONS)}, strategies")
    options = parser.parse_args(argv)
    sections = dict(SECTIONS)
    if importlib.util.find_spec(STRATEGIES) is not None:
        measure = importlib.import_module(STRATEGIES).measure
        sections["strategies"] = lambda _folder, *, quick: measure(quick=quick)
    unknown = sorted(set(options.only or ()) - set(sections))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are: {', '.join(sections)}")
    report: dict[str, Any] = {}
    for name in options.only or sections:
        print(f"{name} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            report[name] = sections[name](Path(folder), quick=options.quick)
        if options.json:
            options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report))
    return report


if __name__ == "__main__":
    main()
