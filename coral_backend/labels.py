"""How is what was said about a task written as one string? By the kind of its control: one label, a set of labels, or spans.

Rows, replies and verdicts keep one string for what was said, whatever its kind; equal answers are equal strings. One label stands
as it is, a set as a JSON list in the order of the config, spans as a JSON list of ``[start, end, label]`` in the order of the text,
several controls as a JSON object of such strings. None is an abstention; the empty set and no spans (``[]``) are answers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "MULTIPLE", "SEVERAL", "SINGLE", "SPANS", "Span", "micro_f1", "read_controls", "read_set", "read_spans", "span_f1", "write_controls",
    "write_set", "write_spans",
]  # fmt: skip

SINGLE, MULTIPLE, SPANS, SEVERAL = "single", "multiple", "spans", "several"
"""The kinds: one label a task; any number of labels; labelled spans of the text; several controls, each with its own kind."""


class Span(NamedTuple):
    """A labelled stretch of a text.

    Attributes
    ----------
    start, end : int
        In Unicode code points of the text, 0 <= start < end; `end` is not included.
    """

    start: int
    end: int
    label: str


def write_set(labels: Collection[str], order: Sequence[str]) -> str:
    """Return a set of labels as a string.

    Raises
    ------
    ValueError
        If one of them is not in `order`, the labels of the config.

    >>> write_set({"b", "a"}, ["a", "b", "c"])
    '["a", "b"]'
    """
    if unknown := sorted(set(labels) - set(order)):
        raise ValueError(f"{unknown[0]!r} is not a label; there are {list(order)}.")
    return json.dumps([label for label in order if label in labels], ensure_ascii=False)


def read_set(written: str | None) -> tuple[str, ...] | None:
    """Return the labels that ``write_set`` wrote; None for what it did not write."""
    found = _loaded(written)
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        return None
    return tuple(found) if len(set(found)) == len(found) else None


def micro_f1(said: Sequence[str | None], true: Sequence[str | None]) -> float | None:
    """Return how well sets of labels meet the true ones, in [0, 1]; None where there is nothing to compare.

    Twice the labels in both over the labels in either: of all tasks together, so that a large set counts for more than a small one.

    Parameters
    ----------
    said, true : sequence of str or None
        As ``write_set`` writes them; what is no set counts as the empty one.

    >>> micro_f1(['["a", "b"]', None], ['["a"]', "[]"])
    0.6667
    """
    pairs = [(set(read_set(one) or ()), set(read_set(other) or ())) for one, other in zip(said, true, strict=True)]
    named = sum(len(one) + len(other) for one, other in pairs)
    if not pairs:
        return None
    return round(2 * sum(len(one & other) for one, other in pairs) / named, 4) if named else 1.0


def write_spans(spans: Collection[Span]) -> str:
    """Return spans as a string; a span that is there twice is written once.

    >>> write_spans([Span(9, 15, "LOC"), Span(0, 3, "PER")])
    '[[0, 3, "PER"], [9, 15, "LOC"]]'
    """
    return json.dumps([list(span) for span in sorted(set(spans))], ensure_ascii=False)


def read_spans(written: str | None) -> tuple[Span, ...] | None:
    """Return the spans that ``write_spans`` wrote; None for what it did not write."""
    found = _loaded(written)
    if not isinstance(found, list) or not all(_is_span(one) for one in found):
        return None
    return tuple(Span(*one) for one in found)


def span_f1(found: Iterable[str | None], true: Iterable[str | None], label: str | None = None) -> float | None:
    """Return the F1 of exact spans over all tasks, both ends and the label right; None where neither side has a span.

    Parameters
    ----------
    label : str, optional
        Only spans with this label.

    >>> span_f1(['[[0, 3, "PER"], [4, 8, "LOC"]]'], ['[[0, 3, "PER"]]'])
    0.6667
    """
    both = one = other = 0
    for mine, theirs in zip(found, true, strict=True):
        a, b = ({s for s in read_spans(said) or () if label in (None, s.label)} for said in (mine, theirs))
        both, one, other = both + len(a & b), one + len(a), other + len(b)
    return round(2 * both / (one + other), 4) if one + other else None


def write_controls(said: Mapping[str, str | None], order: Sequence[str]) -> str:
    """Return what each control says as a string; a control that says nothing is left out.

    >>> write_controls({"topic": "sport", "mood": None}, ["mood", "topic"])
    '{"topic": "sport"}'
    """
    return json.dumps({name: said[name] for name in order if said.get(name) is not None}, ensure_ascii=False)


def read_controls(written: str | None) -> dict[str, str] | None:
    """Return what each control says, as ``write_controls`` wrote it; None for what it did not write."""
    found = _loaded(written)
    if not isinstance(found, dict) or not all(isinstance(said, str) for said in found.values()):
        return None
    return found


def _loaded(written: str | None) -> Any:
    try:
        return json.loads(written) if written is not None else None
    except (ValueError, RecursionError):
        return None


def _is_span(one: Any) -> bool:
    if not isinstance(one, list) or len(one) != 3:
        return False
    start, end, label = one
    whole = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
    return whole and isinstance(label, str) and 0 <= start < end
