"""How does a project stand, for its first page? Counts by the database, and one line a round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coral_backend.settings import Settings
from coral_backend.store import Store, figures
from coral_backend.types import Project, Round

__all__ = ["Overview", "Row", "overview_of"]


@dataclass(frozen=True)
class Row:
    """A round as the history shows it: the paper's Table 2 for one's own project.

    Attributes
    ----------
    llm, slm : float or None
        Share of the tasks with a label of a person now on which each says the same; None without such.
    """

    round: Round
    process: str
    llm: float | None
    slm: float | None
    compared: int
    tokens: int
    seconds: float
    cost: float | None


@dataclass(frozen=True)
class Overview:
    """A project now.

    Attributes
    ----------
    new_changes : int
        Changes of human labels that no round has learned from.
    planned, reviewed : int
        Tasks that people plan to look at (``review_share``); labelled by people so far.
    """

    counts: figures.Counts
    rows: Sequence[Row]
    serving: Round | None
    new_changes: int
    planned: int
    reviewed: int
    tokens: Mapping[str, int]
    notes: Sequence[str]


def overview_of(settings: Settings, store: Store, project: Project) -> Overview:
    """Return how `project` stands."""
    rounds, usage = store.rounds(project.id), store.llm_usage(project.id)
    counts, agreed = figures.counts(store, project.id, project.active_round), figures.agreement(store, project.id)
    serving = next((one for one in rounds if one.id == project.active_round), None)
    learned = max((one.through_change for one in rounds), default=0)
    share = settings.with_options(project.options).review_share
    return Overview(
        counts=counts,
        rows=[_row(one, agreed.get(one.id), usage.get(one.number, {})) for one in rounds],
        serving=serving,
        new_changes=max(0, project.changes - learned),
        planned=math.ceil(counts.tasks * share),
        reviewed=counts.human,
        tokens={kind: sum(one[f"{kind}_tokens"] or 0 for one in usage.values()) for kind in ("prompt", "completion")},
        notes=[str(note) for note in (serving.metrics.get("notes") or ())] if serving else [],
    )


def _row(one: Round, agreed: figures.Agreement | None, usage: Mapping[str, Any]) -> Row:
    spent = usage if one.revision == 0 else {}
    cost = one.metrics.get("cost")
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
        tokens=sum(spent.get(f"{kind}_tokens") or 0 for kind in ("prompt", "completion")),
        seconds=sum(one.metrics.get("seconds", {}).values()),
        cost=float(cost) if isinstance(cost, int | float) else None,
    )
