"""How far along is the round? What a page asks for every other second, from the database alone."""

from __future__ import annotations

import time
from typing import Any

from coral_backend.dashboard.words import STAGES
from coral_backend.store import Store
from coral_backend.types import Round, RoundStatus, Stage

__all__ = ["live", "stages"]

SILENT_SECONDS = 20.0
"""A round without a sign of life for so long may have no worker; a running stage writes every second."""

DETAILS = ("annotator", "epoch", "loss", "stage", "version")
"""What a page shows of a stage beside its counts."""


def live(store: Store, project_id: int, *, now: float | None = None) -> dict[str, Any]:
    """Return the newest round as JSON values, and whether it is under way.

    ``silent`` is the seconds since its last sign of life where that is long; ``mark`` changes when the page is out of date.
    """
    rounds = store.rounds(project_id)
    if not rounds:
        return {"round": None, "active": False, "mark": "none"}
    newest = max(rounds, key=lambda one: one.id)  # after a rollback another than that with the highest number
    active = newest.status in (RoundStatus.PENDING, RoundStatus.RUNNING, RoundStatus.PAUSED)
    age = (time.time() if now is None else now) - newest.updated_at
    waiting = newest.status in (RoundStatus.PENDING, RoundStatus.RUNNING) and age > SILENT_SECONDS
    return {
        "round": newest.name,
        "status": str(newest.status),
        "stage": str(newest.stage),
        "active": active,
        "error": newest.error,
        "silent": round(age) if waiting else None,
        "stages": stages(newest),
        "mark": f"{newest.id}-{newest.status}",
    }


def stages(current: Round) -> list[dict[str, Any]]:
    """Return every stage of a round: ``name``, ``title``, ``state`` (over, now or later), ``done``, ``total``, ``detail``."""
    order = list(Stage)
    here = len(order) if current.status is RoundStatus.DONE else order.index(current.stage)
    found = []
    for place, stage in enumerate(order):
        entry = dict(current.progress.get(str(stage)) or {})
        total, done = int(entry.get("total") or 0), int(entry.get("done") or 0)
        state = "over" if place < here else "now" if place == here else "later"
        if state == "over":
            done = total = max(done, total, 1)
        shown = {key: entry[key] for key in DETAILS if entry.get(key) is not None}
        seconds = current.metrics.get("seconds", {}).get(str(stage))
        found.append(
            {
                "name": str(stage),
                "title": STAGES[str(stage)],
                "state": state,
                "done": min(done, total),
                "total": total,
                "count": _count(stage, state, done, total),
                "detail": _detail(shown),
                "seconds": seconds,
            }
        )
    return found


def _count(stage: Stage, state: str, done: int, total: int) -> str:
    if state == "over":
        return "done"
    if not total:
        return ""
    # The training counts texts that it passes, many times over: only the share says something.
    return f"{done / total:.0%}" if stage is Stage.DISTIL else f"{min(done, total):,} / {total:,}"


def _detail(shown: dict[str, Any]) -> str:
    parts = [str(shown["annotator"])] if "annotator" in shown else []
    parts += [str(shown["stage"])] if "stage" in shown else []
    parts += [f"epoch {shown['epoch']}"] if "epoch" in shown else []
    parts += [f"loss {shown['loss']:.3f}"] if isinstance(shown.get("loss"), float) else []
    return ", ".join(parts)
