"""How far along is a round? Progress bars for the terminal, read from the database: whoever runs the round."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from coral_backend.store import Store
from coral_backend.types import Round, RoundStatus, Stage

__all__ = ["OVER", "STAGE_TEXT", "bars", "follow", "show"]

OVER = frozenset(set(RoundStatus) - {RoundStatus.PENDING, RoundStatus.RUNNING})
STAGE_TEXT = {
    Stage.SYNC: "Reading tasks",
    Stage.ANNOTATE: "Annotating",
    Stage.DISTIL: "Training the SLM",
    Stage.FLAG: "Flagging",
    Stage.PUSH: "Pushing",
}
POLL_SECONDS = 0.4


def bars(console: Console) -> Progress:
    """Return an empty display of progress bars."""
    columns = (TextColumn("{task.description:<18}"), BarColumn(bar_width=32), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("[dim]{task.fields[note]}"), console=console)


def follow(store: Store, round_id: int, console: Console, *, idle: Callable[[Round], None] | None = None) -> Round:
    """Show a round's progress until it is over or paused, and return it.

    Parameters
    ----------
    idle : callable, optional
        Called at every look with the round; may raise, for example when the worker is gone.
    """
    with bars(console) as display:
        lines: dict[Stage, TaskID] = {}
        while True:
            current = store.round(round_id)
            show(display, lines, current)
            if current.status in OVER:
                return current
            if idle is not None:
                idle(current)
            time.sleep(POLL_SECONDS)


def show(display: Progress, lines: dict[Stage, TaskID], current: Round) -> None:
    """Bring the bars in step with a round; a stage that is over stands full."""
    for stage in Stage:
        entry = current.progress.get(str(stage))
        if entry is None and stage is not current.stage:
            continue
        if stage not in lines:
            lines[stage] = display.add_task(STAGE_TEXT[stage], total=None, note="")
        done, total = (int((entry or {}).get(key, 0)) for key in ("done", "total"))
        over = list(Stage).index(stage) < list(Stage).index(current.stage) or current.status is RoundStatus.DONE
        full = max(done, total) if over else total
        display.update(lines[stage], completed=full if over else done, total=full or None, note=_note(entry or {}))


def _note(entry: dict[str, object]) -> str:
    parts = [str(entry["annotator"])] if "annotator" in entry else []
    if "batch" in entry:
        parts.append(str(entry["batch"]))
    if "epoch" in entry:
        parts.append(f"epoch {entry['epoch']}")
    loss = entry.get("loss")
    if isinstance(loss, float):
        parts.append(f"loss {loss:.3f}")
    return ", ".join(parts)
