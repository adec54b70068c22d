"""What would a spreadsheet take for a formula (OWASP, CSV injection), and what can Excel not hold?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from coral_backend.export.table import Cell, Row
from coral_backend.labels import MULTIPLE, SEVERAL, SPANS, read_controls, read_set, read_spans
from coral_backend.types import NOTHING, LabelSpace

__all__ = ["EXCEL_CELL", "Tally", "escaped", "in_excel"]

EXCEL_CELL = 32_767
"""UTF-16 units in a cell."""

_FORMULA = re.compile(r"[\x00-\x20]*[=+\-@\t\r\n\x00\uff1d\uff0b\uff0d\uff20]")
"""A leading = + - @ (or its full-width form), TAB, CR, LF or NUL, also behind blanks that a spreadsheet may drop."""
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What XML 1.0, and so Excel, cannot hold."""


@dataclass
class Tally:
    """Counts what passes by, for the summary; with a label space tasks are counted by label, not by all that is said of each."""

    rows: int = 0
    escaped: int = 0
    cut: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    space: LabelSpace | None = None

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield `rows` and count them."""
        for row in rows:
            self.rows += 1
            self.flags[str(row["flag"] or "not judged yet")] += 1
            self.sources[str(row["source"] or "nobody")] += 1
            for one in set(_named(row["label"], self.space)) or {NOTHING}:
                self.labels[one] += 1
            yield row


def _named(said: Cell, space: LabelSpace | None) -> Iterator[str]:
    """Yield the labels in what was said of a task; of several controls each behind its control's name."""
    if isinstance(said, list):
        yield from said
    elif space is not None and space.kind == SEVERAL:
        parts = read_controls(str(said)) or {}
        for one in space.controls:
            yield from (f"{one.from_name}: {label}" for label in _named(parts.get(one.from_name), one))
    elif space is not None and space.kind in (MULTIPLE, SPANS):
        whole = None if said is None else str(said)
        yield from (span.label for span in read_spans(whole) or ()) if space.kind == SPANS else read_set(whole) or ()
    elif said is not None:
        yield str(said)


def escaped(value: Cell, tally: Tally) -> Cell:
    """Return `value` so that no spreadsheet takes it for a formula; numbers stay numbers."""
    if not isinstance(value, str) or not _is_formula(value):
        return value
    tally.escaped += 1
    return f"'{value}"


def _is_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None


def in_excel(value: Cell, tally: Tally) -> Cell:
    """Return `value` as Excel can hold it: without control characters, not as a formula, not too long."""
    if not isinstance(value, str):
        return value
    legal = _ILLEGAL.sub("", value)
    # A NUL in front counts although it is taken out: what follows it must not become a formula.
    text = f"'{legal}" if _is_formula(value) or _is_formula(legal) else legal
    tally.escaped += text is not legal
    units = text.encode("utf-16-le")
    if len(units) <= 2 * EXCEL_CELL:
        return text
    tally.cut += 1
    note = f" [cut: {len(value):,} characters; the other formats have them all]"
    return units[: 2 * (EXCEL_CELL - len(note))].decode("utf-16-le", "ignore") + note
