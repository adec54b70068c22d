"""How is CORAL doing, in numbers? Prometheus text: latencies of the routes, and the state of each project.

The numbers of requests belong to one process. With more than one web process, each scrape shows the one that answered.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coral_backend.costs import cost_lines
from coral_backend.slices import slice_lines, worth_showing
from coral_backend.store import Store
from coral_backend.types import Flag, Project, Stage

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 100.0)
"""Seconds. 0.05 is what a webhook may take, 0.2 a prediction of 100 tasks, 1, 3 and 100 are Label Studio's own limits."""

FRESH_SECONDS = 30.0
"""How old the state of the projects may be: counting reads every sample and verdict, and a scrape comes often."""


class Metrics:
    """The numbers of one web process.

    Parameters
    ----------
    store : Store
        Where the state of the projects is read.
    clock : callable, optional
        Returns seconds that only grow; tests pass their own.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "coral_request_seconds",
            "Time to answer a request.",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._events = Counter(
            "coral_webhook_events", "Webhook events taken.", ("action", "again"), registry=self.registry
        )
        self.registry.register(_ProjectState(store, clock))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is the rule (``/predict``), so that foreign paths make no new series."""
        self._seconds.labels(method, route, str(status)).observe(seconds)

    def took_event(self, action: str, *, again: bool) -> None:
        """Count one webhook event of a known `action`; `again` when the same one had come before."""
        self._events.labels(action, str(again).lower()).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _ProjectState(Collector):
    """Counts what the store holds, at most every ``FRESH_SECONDS``."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: list[Metric] = []
        self._counted_at: float | None = None

    def describe(self) -> Iterable[Metric]:
        return []  # else registering would read the whole store

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            now = self._clock()
            if self._counted_at is None or now - self._counted_at >= FRESH_SECONDS:
                self._counted = self._count()
                self._counted_at = now
            return list(self._counted)

    def _count(self) -> list[Metric]:
        gauges = _Gauges()
        for project in self._store.projects():
            self._count_samples(gauges, project)
            self._count_labels(gauges, project)
            self._count_costs(gauges, project)
            self._count_slices(gauges, project)
            self._count_round(gauges, project)
        return gauges.families()

    def _count_samples(self, gauges: _Gauges, project: Project) -> None:
        samples = self._store.samples(project.id)
        gauges.add("coral_samples", "Tasks known.", len(samples), project)
        unusable = sum(1 for sample in samples if sample.problem)
        gauges.add("coral_samples_unusable", "Tasks that cannot be labelled.", unusable, project)
        gauges.add(
            "coral_samples_wanted", "Tasks asked for, not labelled yet.", len(self._store.wanted(project.id)), project
        )

    def _count_labels(self, gauges: _Gauges, project: Project) -> None:
        gauges.add(
            "coral_human_labels", "Tasks labelled by people.", len(self._store.human_labels(project.id)), project
        )
        for number, usage in self._store.llm_usage(project.id).items():
            answers, where = usage["answers"], {"round": str(number)}
            gauges.add("coral_llm_labels", "Answers of the annotator.", answers, project, **where)
            for kind in ("prompt", "completion"):
                tokens = usage[f"{kind}_tokens"] or 0
                gauges.add("coral_llm_tokens", "Tokens the annotator took.", tokens, project, **where, kind=kind)
        if project.active_round is not None:
            flags = Tally(verdict.flag for verdict in self._store.verdicts(project.id, project.active_round))
            for flag in Flag:
                gauges.add("coral_flags", "Verdicts by flag.", flags[flag], project, flag=flag.value)

    def _count_costs(self, gauges: _Gauges, project: Project) -> None:
        for line in cost_lines(self._store, project.id, self._store.rounds(project.id)):
            where = {"round": line.round, "annotator": line.annotator, "batch": str(line.batch).lower()}
            gauges.count("coral_llm_requests", "Requests to the LLM.", line.requests, project, **where)
            tokens = {
                "prompt": line.prompt_tokens,
                "cached": line.cached_tokens,
                "completion": line.completion_tokens,
            }
            for kind, taken in tokens.items():
                gauges.count(
                    "coral_llm_request_tokens",
                    "Tokens by the endpoint's usage; cached ones are among those of the prompt.",
                    taken,
                    project,
                    **where,
                    kind=kind,
                )
            if line.cost is not None:
                gauges.count("coral_llm_cost_usd", "Cost of the requests, in USD.", line.cost, project, **where)

    def _count_slices(self, gauges: _Gauges, project: Project) -> None:
        lines = slice_lines(self._store, project)
        for line in lines if worth_showing(lines) else ():
            where = {"slice": line.name}
            gauges.add("coral_slice_samples", "Tasks of a slice.", line.tasks, project, **where)
            gauges.add("coral_slice_checked", "Of them labelled by people.", line.checked, project, **where)
            gauges.add("coral_slice_slm_first", "1 where the SLM goes first.", int(line.slm_first), project, **where)
            for who, right in (("llm", line.llm_right), ("slm", line.slm_right)):
                gauges.add(
                    "coral_slice_right", "Checked tasks on which each is right.", right, project, **where, who=who
                )

    def _count_round(self, gauges: _Gauges, project: Project) -> None:
        now = self._store.active_round(project.id)
        gauges.add("coral_round_active", "1 while a round is under way.", 0 if now is None else 1, project)
        if now is None:
            return
        for stage in Stage:
            begun = now.progress.get(stage.value) or {}
            total = begun.get("total") or 0
            done = begun.get("done", 0) / total if total else 0.0
            where = {"round": now.name, "stage": stage.value}
            gauges.add("coral_round_progress", "Done part of a stage, 0 to 1.", done, project, **where)
            here = 1 if stage is now.stage else 0
            gauges.add("coral_round_stage", "1 for the stage the round is in.", here, project, **where)


class _Gauges:
    """Gauge and counter families by name, each with ``project`` as its first label."""

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily] = {}
        self._counters: dict[str, CounterMetricFamily] = {}

    def count(self, name: str, text: str, value: float, project: Project, **where: Any) -> None:
        family = self._counters.setdefault(name, CounterMetricFamily(name, text, labels=("project", *where)))
        family.add_metric((str(project.id), *map(str, where.values())), value)

    def add(self, name: str, text: str, value: float, project: Project, **where: Any) -> None:
        labels = ("project", *where)
        family = self._families.setdefault(name, GaugeMetricFamily(name, text, labels=labels))
        family.add_metric((str(project.id), *map(str, where.values())), value)

    def families(self) -> list[Metric]:
        return [*self._families.values(), *self._counters.values()]
