"""How is a row of a table shown? As one line of its columns; the page has them all, one under the other, behind it."""

from __future__ import annotations

from coral_backend.store import browse
from coral_backend.types import LabelSpace
from strategies.tasks.columns import cells

__all__ = ["excerpt", "line_of"]

CELL = 60
"""Characters of a column's name, and of its value, that the line shows."""


def line_of(row: str, most: int = browse.EXCERPT) -> str:
    """Return ``name: value · name: value`` in at most `most` characters; of what is no row the beginning."""
    return _cut(" · ".join(f"{_cut(name, CELL)}: {_cut(value, CELL)}" for name, value in cells(row)) or row, most)


def excerpt(space: LabelSpace, text: str, most: int = browse.EXCERPT) -> str:
    """Return what a page shows of a sample in at most `most` characters."""
    return line_of(text, most) if space.is_row else _cut(text, most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
