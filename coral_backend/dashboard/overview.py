"""How does a project stand, for its first page? Counts by the database, and one line a round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coral_backend.costs import cost_of
from coral_backend.dashboard.by_control import agreement_of
from coral_backend.effects import Effect, effect_of
from coral_backend.settings import Settings
from coral_backend.slices import said_of, slice_lines, worth_showing
from coral_backend.status import tokens_of
from coral_backend.store import Store, figures
from coral_backend.types import Project, Round, Spend

__all__ = ["Overview", "Row", "overview_of"]


@dataclass(frozen=True)
class Row:
    """A round as the history shows it: the paper's Table 2 for one's own project.

    Attributes
    ----------
    llm, slm : float or None
        Share of the tasks with a label of a person now on which each says the same; None without such.
    changed : int or None
        Tasks elsewhere whose verdict the round changed, as counted when it judged; None where it was not counted.
    """

    round: Round
    process: str
    llm: float | None
    slm: float | None
    compared: int
    tokens: int
    seconds: float
    cost: float | None
    changed: int | None


@dataclass(frozen=True)
class Overview:
    """A project now.

    Attributes
    ----------
    new_changes : int
        Changes of human labels that no round has learned from.
    effect : Effect or None
        What the round that serves changed elsewhere; None for a first one.
    planned, reviewed : int
        Tasks that people plan to look at (``review_share``); labelled by people so far.
    sliced : bool
        Whether the quality page has slices to show.
    """

    counts: figures.Counts
    rows: Sequence[Row]
    serving: Round | None
    new_changes: int
    planned: int
    reviewed: int
    tokens: Mapping[str, int]
    notes: Sequence[str]
    sliced: bool
    effect: Effect | None


def overview_of(settings: Settings, store: Store, project: Project) -> Overview:
    """Return how `project` stands."""
    rounds, usage = store.rounds(project.id), store.llm_usage(project.id)
    counts, agreed = figures.counts(store, project.id, project.active_round), agreement_of(store, project, None)
    spending = store.ledger.spending(project.id)
    serving = next((one for one in rounds if one.id == project.active_round), None)
    learned = max((one.through_change for one in rounds), default=0)
    share = settings.with_options(project.options).review_share
    return Overview(
        counts=counts,
        rows=[_row(one, agreed.get(one.id), usage.get(one.number, {}), spending.get(one.id, [])) for one in rounds],
        serving=serving,
        new_changes=max(0, project.changes - learned),
        planned=math.ceil(counts.tasks * share),
        reviewed=counts.human,
        tokens=tokens_of([line for spent in spending.values() for line in spent], list(usage.values())),
        notes=_notes(serving) if serving else [],
        sliced=serving is not None and worth_showing(slice_lines(store, project)),
        effect=effect_of(store, serving) if serving else None,
    )


def _notes(serving: Round) -> list[str]:
    """Return what the SLM said of the corpus, and where its label goes first."""
    routed = [said_of(one) + "." for one in serving.metrics.get("slices") or () if one.get("slm_first")]
    return [str(note) for note in (serving.metrics.get("notes") or ())] + routed


def _row(one: Round, agreed: figures.Agreement | None, usage: Mapping[str, Any], spending: Sequence[Spend]) -> Row:
    tokens = sum(tokens_of(spending, [usage if one.revision == 0 else {}]).values())
    return Row(
        round=one,
        process="SLM retraining"
        if one.revision
        else "LLM labelling, SLM distillation"
        if one.number == 1
        else "LLM refinery, SLM distillation",
        llm=agreed.llm / agreed.n if agreed else None,
        slm=agreed.slm / agreed.n if agreed else None,
        compared=agreed.n if agreed else 0,
        tokens=tokens,
        seconds=sum(one.metrics.get("seconds", {}).values()),
        cost=cost_of(spending, tokens=tokens) if tokens else None,
        changed=(one.metrics.get("effect") or {}).get("tasks"),
    )
