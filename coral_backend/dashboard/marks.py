"""How is a text shown with its spans? As pieces, of which some are marked; the page writes each one, and escapes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Mark", "Piece", "marked"]

_ORDER = {"inconsistent": 0, "noisy": 1, "clean": 2}


@dataclass(frozen=True)
class Mark:
    """What is said of a span.

    Attributes
    ----------
    label : str
        What the verdict or, of a span that it leaves out, LLM or SLM says.
    flag : str
        Of the span alone.
    kept : bool
        Whether the verdict has the span.
    score : float or None
        The probability that it should have, in [0, 1].
    """

    label: str
    flag: str
    kept: bool
    score: float | None


@dataclass(frozen=True)
class Piece:
    """A stretch of a text, and what is said of it."""

    text: str
    mark: Mark | None = None


def marked(text: str, details: Iterable[Mapping[str, Any]] | None) -> list[Piece]:
    """Return a text in pieces, the spans among `details` (``Detail`` as JSON) marked; of spans that overlap the most doubtful.

    Spans behind the end of `text`, which may be an excerpt, are left out.
    """
    spans = [(*place, one) for one in details or () if (place := _place(one, len(text))) is not None]
    spans.sort(key=lambda span: (_ORDER.get(str(span[2].get("flag")), 3), span[0]))
    taken: list[tuple[int, int, Mapping[str, Any]]] = []
    for start, end, one in spans:
        if all(end <= a or b <= start for a, b, _ in taken):
            taken.append((start, end, one))
    pieces, at = [], 0
    for start, end, one in sorted(taken, key=lambda span: span[:2]):
        pieces += [Piece(text[at:start]), Piece(text[start:end], _mark(one))]
        at = end
    return [piece for piece in (*pieces, Piece(text[at:])) if piece.text]


def _place(one: Mapping[str, Any], length: int) -> tuple[int, int] | None:
    """Return where a part of a task stands; None of parts that are no spans: a label may be called anything.

    Of several controls the name of a span begins with its control's.
    """
    start, _, end = str(one.get("name")).rpartition("/")[2].partition(":")
    if not one.get("words") or not (start.isdecimal() and end.isdecimal()):
        return None
    found = int(start), int(end)
    return found if found[0] < found[1] <= length else None


def _mark(one: Mapping[str, Any]) -> Mark:
    label, score = one.get("label"), one.get("score")
    known = float(score) if isinstance(score, int | float) else None
    return Mark(
        str(label or one.get("llm_label") or one.get("slm_label") or ""),
        str(one.get("flag") or "clean"),
        label is not None,
        known if label is not None or known is None else 1.0 - known,
    )
