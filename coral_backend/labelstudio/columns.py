"""How do the facts behind a verdict become columns of the Data Manager, for ten thousand tasks in three hundred requests?

A column is a key of the task data. ``PATCH`` takes one request a task and replaces all of its data; so we use the Data
Manager's own action "Add Or Modify Data Field" (``add_data_field``), which sets one key to one value in any number of tasks and
leaves their other keys alone. Requests then go with the number of different values, and what stands there already is not
written again. The action is listed only where experimental features are on, but answers without them; where it does not,
everything else works and the columns stay away.

The keys ``coral_...`` of task data are ours.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError
from coral_backend.types import Flag, Verdict

__all__ = ["COLUMNS", "GAP", "HINT", "NUMBERS", "OURS", "RANK", "SECOND_LOOK", "Value", "Written", "fields", "write"]

logger = logging.getLogger(__name__)

LLM, SLM = "coral_llm", "coral_slm"
CONFIDENCE, P_CLEAN = "coral_confidence", "coral_p_clean"
RANK, FLAG = "coral_rank", "coral_flag"
HINT, SECOND_LOOK = "coral_hint", "coral_second_look"

COLUMNS = (LLM, SLM, CONFIDENCE, P_CLEAN, RANK, FLAG)
"""In the order in which people read them; Label Studio keeps the order in which keys first appear."""
NUMBERS = (CONFIDENCE, P_CLEAN, RANK)
OURS = (*COLUMNS, HINT, SECOND_LOOK)

BATCH = 1_000
"""Tasks in one request: 0.2 to 0.4 s on SQLite, which locks other writers out for so long."""
GAP = "\N{HORIZONTAL ELLIPSIS}"
"""Stands for the last part of a value between the two requests that write it."""

Value = str | float | tuple[str, str]
"""``(head, tail)`` is a text ``head.replace(GAP, tail)`` that is written in two steps: few heads and few tails make many values."""
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


def fields(verdicts: Iterable[Verdict], *, hint: bool = False) -> dict[str, dict[int, Value]]:
    """Return what stands in the columns of each task; an empty text where a fact is unknown.

    Parameters
    ----------
    hint : bool
        Whether the form shows the line ``HINT``: then it is filled on tasks that are not clean. It is empty on all others.
    """
    found: dict[str, dict[int, Value]] = {key: {} for key in COLUMNS}
    lines: dict[int, Value] = {}
    for verdict in verdicts:
        task = verdict.task_id
        found[LLM][task] = verdict.llm_label or ""
        found[SLM][task] = verdict.slm_label or ""
        found[CONFIDENCE][task] = _short(verdict.slm_score)
        found[P_CLEAN][task] = _short(verdict.p_clean)
        found[RANK][task] = _split(verdict.rank)
        found[FLAG][task] = str(verdict.flag)
        lines[task] = _hint(verdict) if hint else ""
    return found | {HINT: lines}


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
        key: {task: value for task, value in values.items() if task in there and _differs(there[task].get(key), value)}
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
    whole: dict[Any, list[int]] = defaultdict(list)
    tails: dict[str, list[int]] = defaultdict(list)
    for task, value in values.items():
        if isinstance(value, tuple):
            whole[value[0]].append(task)
            tails[value[1]].append(task)
        else:
            whole[value].append(task)
    if len(whole) + len(tails) >= len({_text(value) for value in values.values()}):
        whole, tails = _joined(values), defaultdict(list)
    for value, tasks in whole.items():
        kind = "String" if isinstance(value, str) else "Number"
        _act(work, tasks, {"value_name": key, "value_type": kind, "value": value}, count=not tails)
    for tail, tasks in tails.items():
        command = f'replace("{GAP}","{tail}")'
        _act(work, tasks, {"value_name": key, "value_type": "Expression", "value": command}, count=True)


def _joined(values: Mapping[int, Value]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = defaultdict(list)
    for task, value in values.items():
        groups[_text(value) if isinstance(value, tuple) else value].append(task)
    return groups


def _act(work: _Work, tasks: Sequence[int], body: Mapping[str, Any], *, count: bool) -> None:
    for start in range(0, len(tasks), BATCH):
        some = tasks[start : start + BATCH]
        # It may be sent again: setting and replacing twice give the same.
        work.client.run_action(work.project_id, "add_data_field", some, body, repeatable=True)
        work.written.requests += 1
        work.written.cells += len(some) if count else 0
        work.told(work.written.cells, work.total)


def _differs(there: Any, value: Value) -> bool:
    wanted = _text(value)
    if there is None:
        return wanted != ""
    return bool(there != wanted) or (isinstance(there, str) is not isinstance(wanted, str))


def _text(value: Value) -> str | float:
    return value[0].replace(GAP, value[1]) if isinstance(value, tuple) else value


def _short(value: float | None) -> Value:
    return "" if value is None else round(value, 2)


def _split(rank: int) -> Value:
    text = str(rank)
    return text[:-2] + GAP, text[-2:]


def _hint(verdict: Verdict) -> Value:
    """Return the line of a doubtful task as Markdown, the better candidate first, and an empty one for others."""
    if verdict.flag is Flag.CLEAN or verdict.slm_label is None or verdict.slm_score is None:
        return ""
    percent = str(round(100 * verdict.slm_score))
    slm = f"**SLM:** {_plain(verdict.slm_label)} ({GAP} %)"
    if verdict.llm_label is None:
        line = f"{slm} · **LLM:** no answer"
    elif verdict.llm_label == verdict.slm_label:
        line = f"**LLM and SLM:** {_plain(verdict.llm_label)} ({GAP} %)"
    else:
        llm = f"**LLM:** {_plain(verdict.llm_label)}"
        line = f"{slm} · {llm}" if verdict.label == verdict.slm_label else f"{llm} · {slm}"
    return line, percent


def _plain(label: str) -> str:
    """Return a label so that Markdown shows it as it is, and nothing in it is taken for the gap."""
    text = label.replace("\n", " ").replace(GAP, "...")
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-!|<>~&" else c for c in text)
