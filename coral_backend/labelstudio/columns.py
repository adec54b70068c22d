"""How do the facts behind a verdict become columns of the Data Manager, for ten thousand tasks in some hundred requests?

A column is a key of the task data. ``PATCH`` takes one request a task and replaces all of its data; so we use the Data
Manager's own action "Add Or Modify Data Field" (``add_data_field``), which sets one key to one value in any number of tasks and
leaves their other keys alone. Requests then go with the number of different values, and what stands there already is not
written again. The action is listed only where experimental features are on, but answers without them; where it does not,
everything else works and the columns stay away.

The keys ``coral_...`` of task data are ours.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError
from coral_backend.types import Detail, Flag, LabelSpace, Verdict

__all__ = [
    "ASKED",
    "CHECK",
    "CHECKED",
    "COLUMNS",
    "HINT",
    "LLM",
    "MARKS",
    "NUMBERS",
    "RANK",
    "SECOND_LOOK",
    "SLICE",
    "SLM",
    "Value",
    "Written",
    "check_values",
    "fields",
    "hint_line",
    "plain",
    "slice_values",
    "unmarked",
    "write",
]

logger = logging.getLogger(__name__)

LLM, SLM = "coral_llm", "coral_slm"
CONFIDENCE, P_CLEAN = "coral_conf", "coral_p_clean"
RANK, FLAG = "coral_rank", "coral_flag"
HINT, SECOND_LOOK = "coral_hint", "coral_second_look"
SLICE, CHECK = "coral_slice", "coral_check"
ASKED = "LLM and SLM:"
"""Stands in every question of a second look."""

CHECKED = "check"
"""Begins the value of every task of a gold check; its place in the order of the drawing follows."""

COLUMNS = (LLM, SLM, CONFIDENCE, P_CLEAN, RANK, FLAG)
"""In the order in which people read them; Label Studio keeps the order in which keys first appear."""
NUMBERS = (CONFIDENCE, P_CLEAN, RANK)

BATCH = 1_000
"""Tasks in one request: 0.2 to 0.4 s on SQLite, which locks other writers out for so long."""
MARKS = ("\N{HORIZONTAL ELLIPSIS}", "\N{TWO DOT LEADER}")
"""Stand for parts of a value until the requests that fill them in."""
CUTS = ((), (1,), (2,), (1, 1), (2, 2))
"""Ways to write numbers: how many of the last characters are filled in by requests of their own."""
REQUEST_SECONDS, CELL_SECONDS = 0.08, 0.0003
"""Measured on SQLite; only weighs the ways against each other."""

MOST_NAMED = 5
"""Doubtful parts of a task that its hint names."""

LONGEST_WORDS = 40
"""Of a span in the hint, in characters."""

Value = str | tuple[str, ...]
"""``(template, part, ...)`` is a text whose marks are filled in one after the other: few parts make many values."""
Fields = Mapping[str, Mapping[int, Value]]
"""Key of the task data -> task -> value."""


@dataclass
class Written:
    """What a writing of columns took.

    Attributes
    ----------
    cells : int
        Values that were not there yet.
    problem : str or None
        Why it was given up; what was written before stays and is right.
    """

    cells: int = 0
    requests: int = 0
    seconds: float = 0.0
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"cells": self.cells, "requests": self.requests, "seconds": self.seconds, "problem": self.problem}


@dataclass
class _Work:
    client: LabelStudioClient
    project_id: int
    told: Callable[[int, int], None]
    total: int
    written: Written = field(default_factory=Written)


def fields(
    verdicts: Iterable[Verdict], *, space: LabelSpace | None = None, hint: bool = False
) -> dict[str, dict[int, Value]]:
    """Return what stands in the columns of each task; an empty text where a fact is unknown.

    Parameters
    ----------
    space : LabelSpace, optional
        Says how people read what was said; without it labels stand as they are written.
    hint : bool
        Whether the form shows the line ``HINT``: then it is filled on tasks that are not clean. It is empty on all others.
    """
    found: dict[str, dict[int, Value]] = {key: {} for key in COLUMNS}
    lines: dict[int, Value] = {}
    for verdict in verdicts:
        task = verdict.task_id
        found[LLM][task] = _shown(verdict.llm_label, space)
        found[SLM][task] = _shown(verdict.slm_label, space)
        found[CONFIDENCE][task] = _two_decimals(verdict.slm_score)
        found[P_CLEAN][task] = _two_decimals(verdict.p_clean)
        found[RANK][task] = f"{verdict.rank:06d}"  # "Label Tasks As Displayed" sorts as text, whatever the tab says
        found[FLAG][task] = str(verdict.flag)
        lines[task] = hint_line(verdict) if hint else ""
    return found | {HINT: lines}


def slice_values(slices: Mapping[int, str | None], slm_first: Collection[str]) -> dict[int, Value]:
    """Return what stands in the column of slices: the name, and whether the SLM goes first there; ``""`` names no slice."""
    first = "SLM first"
    return {
        task: " · ".join(part for part in (unmarked(name or ""), first if (name or "") in slm_first else "") if part)
        for task, name in slices.items()
    }


def check_values(places: Mapping[int, int]) -> dict[int, Value]:
    """Return what stands in the column of a gold check, for task -> place in the order of the drawing."""
    return {task: f"{CHECKED} {place:06d}" for task, place in places.items()}


def write(
    client: LabelStudioClient,
    project_id: int,
    wanted: Fields,
    *,
    keep: Iterable[str] = (),
    unseen: bool = False,
    told: Callable[[int, int], None] = lambda _done, _total: None,
) -> Written:
    """Write what differs into the task data, one key after the other, and return what it took.

    Parameters
    ----------
    keep : iterable of str
        Keys that belong to somebody else although they look like ours: a project may label ``coral_llm``.
    unseen : bool
        Write without reading first what is there: cheaper for a few tasks.
    told : callable
        Called as ``told(done, total)`` with the number of cells written; what it raises ends the work.

    Raises
    ------
    LabelStudioHTTPError
        If the tasks cannot be read. A refused writing is not raised but told in ``Written.problem``.
    """
    began = time.monotonic()
    wanted = {key: values for key, values in wanted.items() if key not in set(keep) and values}
    todo = wanted if unseen else _missing(_there(client, project_id, wanted), wanted)
    work = _Work(client, project_id, told, sum(len(values) for values in todo.values()))
    try:
        for key, values in todo.items():
            _write_key(work, key, values)
    except LabelStudioHTTPError as error:
        work.written.problem = f"Label Studio does not take columns: {error}"
        logger.warning("project %d: %s", project_id, work.written.problem)
    work.written.seconds = round(time.monotonic() - began, 3)
    return work.written


def _missing(there: Mapping[int, Mapping[str, Any]], wanted: Fields) -> Fields:
    return {
        key: {
            task: value for task, value in values.items() if task in there and there[task].get(key, "") != _text(value)
        }
        for key, values in wanted.items()
    }


def _there(client: LabelStudioClient, project_id: int, wanted: Fields) -> dict[int, Mapping[str, Any]]:
    """Return our keys in the data of each task: what must not be written again."""
    if not wanted:
        return {}
    found: dict[int, Mapping[str, Any]] = {}
    for task in client.iter_tasks(project_id):
        data = task.get("data")
        if isinstance(data, Mapping):
            found[int(task["id"])] = {key: data[key] for key in wanted if key in data}
    return found


def _write_key(work: _Work, key: str, values: Mapping[int, Value]) -> None:
    ways: list[Mapping[int, Value]] = [values, {task: _text(value) for task, value in values.items()}]
    if key in (*NUMBERS, CHECK):
        ways += [{task: _cut(_text(value), cut) for task, value in values.items()} for cut in CUTS]
    steps = min((_steps(way) for way in ways), key=_seconds)
    for number, step in enumerate(steps):
        for text, tasks in step.items():
            command = f'replace("{MARKS[number - 1]}","{text}")' if number else text
            kind = "Expression" if number else "String"
            body = {"value_name": key, "value_type": kind, "value": command}
            _act(work, tasks, body, count=number == len(steps) - 1)


def _steps(values: Mapping[int, Value]) -> list[dict[str, list[int]]]:
    """Return what to write in which tasks, step by step: whole texts or templates, then what fills each mark."""
    steps: list[dict[str, list[int]]] = []
    for task, value in values.items():
        for number, text in enumerate((value,) if isinstance(value, str) else value):
            while len(steps) <= number:
                steps.append(defaultdict(list))
            steps[number][text].append(task)
    return steps


def _seconds(steps: Sequence[Mapping[str, Sequence[int]]]) -> float:
    requests = sum(-(-len(tasks) // BATCH) for step in steps for tasks in step.values())
    cells = sum(len(tasks) for step in steps for tasks in step.values())
    return requests * REQUEST_SECONDS + cells * CELL_SECONDS


def _cut(text: str, cut: Sequence[int]) -> Value:
    """Return a number as a template and its last characters; both are shorter, or empty, where it has not so many."""
    parts: list[str] = []
    for size in reversed(cut):
        text, part = text[: max(0, len(text) - size)], text[max(0, len(text) - size) :]
        parts.insert(0, part)
    return (text + "".join(MARKS[: len(cut)]), *parts) if cut else text


def _act(work: _Work, tasks: Sequence[int], body: Mapping[str, Any], *, count: bool) -> None:
    for start in range(0, len(tasks), BATCH):
        some = tasks[start : start + BATCH]
        # It may be sent again: setting and replacing twice give the same.
        work.client.run_action(work.project_id, "add_data_field", some, body, repeatable=True)
        work.written.requests += 1
        work.written.cells += len(some) if count else 0
        work.told(work.written.cells, work.total)


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    text, *parts = value
    for mark, part in zip(MARKS, parts, strict=False):
        text = text.replace(mark, part)
    return text


def _two_decimals(value: float | None) -> str:
    """Return a probability so that it is in order as text, too: PostgreSQL sorts a column with gaps as text."""
    return "" if value is None else f"{value:.2f}"


def hint_line(verdict: Verdict) -> Value:
    """Return the line of a doubtful task as Markdown, the better candidate first, and an empty one for others.

    Both percentages are the SLM's, out of sample.
    """
    if verdict.details:
        return _hint_of_parts(verdict)
    if verdict.flag is Flag.CLEAN or verdict.slm_label is None or verdict.slm_score is None:
        return ""
    sure = _percent(verdict.slm_score)
    first = MARKS[0]
    if verdict.llm_label == verdict.slm_label:
        return f"**LLM and SLM:** {plain(verdict.slm_label)} ({first})", sure
    if verdict.llm_label is None:
        return f"**SLM:** {plain(verdict.slm_label)} ({first}) · **LLM:** no answer", sure
    # The loss is that of the LLM's label here: nobody but machines has labelled a task that is not clean.
    given = _given(verdict.loss) if verdict.prediction_label == verdict.slm_label else verdict.prediction_score
    candidates = [("SLM", verdict.slm_label, sure), ("LLM", verdict.llm_label, _percent(given))]
    if verdict.label != verdict.slm_label:
        candidates.reverse()
    shown = [f"**{who}:** {plain(label)} ({mark})" for (who, label, _), mark in zip(candidates, MARKS, strict=True)]
    return " · ".join(shown), *(percent for *_, percent in candidates)


def _given(loss: float | None) -> float | None:
    """Return the SLM's probability of the label that has this loss, in nats."""
    return None if loss is None else math.exp(-loss)


def _hint_of_parts(verdict: Verdict) -> str:
    """Return the doubtful parts of a task as Markdown, the least sure first, each with the probability that it applies."""
    doubtful = [one for one in verdict.details if one.flag is not Flag.CLEAN]
    if verdict.flag is Flag.CLEAN or not doubtful:
        return ""
    doubtful.sort(key=lambda one: (one.score is not None, one.score))
    told = [f"{_named(one)} {_percent(_of_yes(one))}{_disputed(one)}" for one in doubtful[:MOST_NAMED]]
    more = f" · and {len(doubtful) - MOST_NAMED} more" if len(doubtful) > MOST_NAMED else ""
    return f"**Doubtful:** {' · '.join(told)}{more}"


def _named(part: Detail) -> str:
    """Return what people call a part: a label, or of a span its label and its words."""
    if not part.words:
        return plain(part.name)
    words = (
        part.words if len(part.words) <= LONGEST_WORDS else f"{part.words[: LONGEST_WORDS - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
    missing = "missing? " if part.llm_label is None else ""
    return f"{missing}{plain(part.llm_label or part.label or part.slm_label or '?')} “{plain(words)}”"


def _disputed(part: Detail) -> str:
    """Return who says what of a label on which LLM and SLM differ; of a span its name says it."""
    if part.words or part.llm_label is None or part.slm_label is None or part.llm_label == part.slm_label:
        return ""
    return f" (LLM {part.llm_label}, SLM {part.slm_label})"


def _of_yes(part: Detail) -> float | None:
    """Return the probability that a label applies to the task or span, whatever the verdict on it is."""
    denied = part.label is None if part.words else part.label == "no"  # a span's label may be called so
    return 1.0 - part.score if denied and part.score is not None else part.score


def _shown(said: str | None, space: LabelSpace | None) -> str:
    return "" if said is None else said if space is None else space.shown(said)


def _percent(score: float | None) -> str:
    return "?" if score is None else f"{100 * score:.0f} %"


def plain(label: str) -> str:
    """Return a label so that Markdown shows it as it is, and nothing in it is taken for a mark."""
    text = unmarked(label.replace("\n", " "))
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-!|<>~&" else c for c in text)


def unmarked(text: str) -> str:
    """Return a text in which nothing is taken for a mark."""
    for mark in MARKS:
        text = text.replace(mark, "...")
    return text
