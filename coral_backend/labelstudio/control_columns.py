"""How do several controls stand in the columns of the Data Manager? Two columns for each, and one that names the doubtful ones.

One column for what they say together would have as many values as there are combinations, and each value is a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from coral_backend.controls import verdict_of
from coral_backend.labels import SEVERAL
from coral_backend.labelstudio import columns
from coral_backend.labelstudio.columns import HINT, LLM, SLM, Value
from coral_backend.types import Flag, LabelSpace, Verdict

__all__ = ["DOUBT", "fields", "is_column", "keys_of"]

DOUBT = "coral_doubt"
"""Names the controls that are not clean."""

_OTHER = re.compile(r"\W+")


def is_column(key: str) -> bool:
    """Say whether a key of the task data is a column of ours that people read beside the text."""
    return key in columns.COLUMNS or key == DOUBT or key.startswith((f"{LLM}_", f"{SLM}_"))


def keys_of(space: LabelSpace) -> dict[str, tuple[str, str]]:
    """Return the columns of the LLM's and the SLM's labels of each control, by its name, which may hold any characters."""
    found: dict[str, tuple[str, str]] = {}
    for control in space.controls:
        short = _OTHER.sub("_", control.from_name).strip("_") or "control"
        taken = {key for keys in found.values() for key in keys}
        name, number = short, 2
        while f"{LLM}_{name}" in taken:
            name, number = f"{short}_{number}", number + 1
        found[control.from_name] = (f"{LLM}_{name}", f"{SLM}_{name}")
    return found


def fields(space: LabelSpace, verdicts: Iterable[Verdict], *, hint: bool = False) -> dict[str, dict[int, Value]]:
    """Return what stands in the columns of each task; see ``columns.fields``.

    Of several controls: what LLM and SLM say of each, the doubtful controls' names, and the numbers of the least sure one. The
    hint is about that one, and names the others that are doubtful. The columns of one control are emptied where they are.
    """
    verdicts = list(verdicts)
    if space.kind != SEVERAL:
        return columns.fields(verdicts, space=space, hint=hint)
    parts = {control.from_name: [verdict_of(one, control) for one in verdicts] for control in space.controls}
    by_task = {one.task_id: {name: many[i] for name, many in parts.items()} for i, one in enumerate(verdicts)}
    # First, because Label Studio keeps the order and a table of several controls is wider than the screen.
    found: dict[str, dict[int, Value]] = {DOUBT: {task: ", ".join(_doubtful(own)) for task, own in by_task.items()}}
    for control in space.controls:
        for key, said in zip(keys_of(space)[control.from_name], ("llm_label", "slm_label"), strict=True):
            found[key] = {one.task_id: _shown(control, getattr(one, said)) for one in parts[control.from_name]}
    found |= {key: values for key, values in columns.fields(verdicts).items() if key not in (LLM, SLM, HINT)}
    found |= {key: {one.task_id: "" for one in verdicts} for key in (LLM, SLM)}
    found[HINT] = {task: _hint(own) if hint else "" for task, own in by_task.items()}
    return found


def _doubtful(parts: Mapping[str, Verdict]) -> list[str]:
    """Return the names of the controls that are not clean, in the order of the config."""
    return [name for name, one in parts.items() if one.flag is not Flag.CLEAN]


def _hint(parts: Mapping[str, Verdict]) -> Value:
    doubtful = _doubtful(parts)
    lines = {name: columns.hint_line(parts[name]) for name in doubtful}
    told = sorted((name for name in doubtful if lines[name]), key=lambda name: _sure(parts[name]))
    if not told:
        return ""
    first, others = told[0], [columns.plain(name) for name in doubtful if name != told[0]]
    line = lines[first]
    text, *rest = (line,) if isinstance(line, str) else line
    also = f" · also doubtful: {', '.join(others)}" if others else ""
    return f"{columns.plain(first)} · {text}{also}", *rest


def _sure(verdict: Verdict) -> float:
    return 1.0 if verdict.score is None else verdict.score


def _shown(control: LabelSpace, said: str | None) -> str:
    return "" if said is None else control.shown(said)
