"""Which row of a table does a task's data hold? As JSON that is the same whenever the values are; everything in it is untrusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from coral_backend.labelstudio.texts import clean, kind, listed_keys

__all__ = ["MAX_CELL_CHARS", "row_of"]

MAX_CELL_CHARS = 1_000
"""A longer text in one column is cut."""

MAX_NAME_CHARS = 200
"""A longer name of a column is cut."""


def row_of(key: str, columns: tuple[str, ...], data: Mapping[str, Any], max_chars: int) -> tuple[str, str | None]:
    """Return the row of a task as a JSON object and None, or ``""`` and the problem that it has.

    Numbers stay numbers, words words; what is missing, or no finite number, is null.

    Parameters
    ----------
    key : str
        The key of `data` that holds an object, column by column; read where `columns` is empty, then in the order of the names.
    columns : tuple of str
        The keys of `data` that are the columns.
    max_chars : int
        A longer row is a problem: it cannot be cut as a text can.
    """
    if columns:
        if gone := [name for name in columns if name not in data]:
            return (
                "",
                f"the task has no key {gone[0]!r}; it has {listed_keys(data)}. Write null for a value that is missing",
            )
        row: Mapping[str, Any] = {name: data[name] for name in columns}
    else:
        found, problem = _object(key, data)
        if problem is not None:
            return "", problem
        row = dict(sorted(found.items(), key=lambda item: str(item[0])))
    return _told(row, "the task" if columns else repr(key), max_chars)


def _object(key: str, data: Mapping[str, Any]) -> tuple[Mapping[Any, Any], str | None]:
    """Return the object under `key`, which may be JSON in a text as Label Studio's ``<Table>`` allows it."""
    if key not in data:
        return {}, f"the task has no key {key!r}; it has {listed_keys(data)}"
    value = data[key]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}, f"{key!r} is a text that is no JSON; it must be an object with a value for each column"
    if not isinstance(value, Mapping):
        return {}, f"{key!r} is {kind(value)}; it must be an object with a value for each column"
    return value, None


def _told(row: Mapping[Any, Any], where: str, max_chars: int) -> tuple[str, str | None]:
    cells = {clean(str(name))[:MAX_NAME_CHARS]: value for name, value in row.items()}
    for name, value in cells.items():
        if isinstance(value, Mapping | list):
            return (
                "",
                f"{where} has {kind(value)} in the column {name!r}; a value is a number, a text, true, false or null",
            )
    cells = {name: _cell(value) for name, value in cells.items()}
    if all(value is None for value in cells.values()):
        return "", f"{where} has no value in any column"
    text = json.dumps(cells, ensure_ascii=False)
    if len(text) > max_chars:
        return "", f"the row has {len(text):,} characters; at most {max_chars:,} are read (CORAL_MAX_TEXT_CHARS)"
    return text, None


def _cell(value: Any) -> str | int | float | bool | None:
    if isinstance(value, str):
        return clean(value)[:MAX_CELL_CHARS] or None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float) else None
