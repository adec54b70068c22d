"""How are spans asked for and read? As a list of words copied from the text, which are looked for in it; never as numbers.

``{"entities": [{"before": "we met in", "text": "Rome", "label": "LOC"}]}``: language models copy well and count badly, so no
offsets are asked for, nor which occurrence is meant, but the words just before. A list is shorter than the whole text with marks
in it (GPT-NER), cannot alter the rest of a text, holds nested spans, and can be confined by a JSON schema.

Every span is verified: its words must stand in the text, up to case, blanks, quotes, dashes and composed letters. An answer in
which one does not is asked for again; of the second answer the spans that are there are kept, with the reason for the others.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coral_backend.labels import Span, read_spans, write_spans
from coral_backend.llm.forms.base import Asked
from coral_backend.llm.parse import match_label, plain, unwrapped
from coral_backend.types import Demo

__all__ = ["Spans", "recorded_spans"]

KEY = "entities"
BEFORE_WORDS = 3
"""So many words before a span say which of several equal ones is meant."""

MAX_SPANS = 1_000
"""More than these in one answer are a model that repeats itself."""

_SAME = str.maketrans(
    "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2010\u2011\u2012\u2013\u2014\u2212",
    "''''" + '""""""' + "------",
)


class Spans:
    """Labelled spans of the text."""

    weighed = False

    def properties(self, asked: Asked, listed: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        """Return the properties of the answer's JSON schema."""
        of_one = {
            "before": {"type": "string"},
            "text": {"type": "string"},
            "label": {"type": "string", "enum": list(listed)},
        }
        one = {"type": "object", "properties": of_one, "required": list(of_one), "additionalProperties": False}
        return {KEY: {"type": "array", "items": one}}

    def read(self, answer: str, asked: Asked, text: str) -> tuple[str | None, str | None]:
        """Return the spans that an answer marks, and None; or None and the reason if any of them is not in the text."""
        said, reason = self.rest(answer, asked, text)
        return (None, reason) if reason is not None else (said, None)

    def rest(self, answer: str, asked: Asked, text: str) -> tuple[str | None, str | None]:
        """Return those spans of an answer that are in the text, and why the others are not; None where there is no list at all."""
        items, reason = _items(answer)
        if items is None:
            return None, reason
        place, spans, faults = _Places(text), [], []
        for item in items:
            span, fault = _span(item, asked, place)
            if span is not None:
                spans.append(span)
            else:
                faults.append(fault)
        if faults and not spans:
            return None, faults[0]
        more = f"{len(faults)} of {len(items)} spans are not taken: {faults[0]}" if faults else None
        return write_spans(spans), more

    def again(self, asked: Asked) -> str:
        """Return the sentence that asks once more."""
        return (
            'Some of it could not be found in the content. Reply with nothing but JSON: {"entities": [{"before": "...", "text": '
            '"...", "label": "..."}]}. Copy "text" character by character from the content, and give as "label" one of '
            f'{json.dumps(list(asked.labels), ensure_ascii=False)}. If there is none, reply {{"entities": []}}.'
        )

    def example(self, demo: Demo) -> dict[str, Any]:
        """Return a demonstration as the JSON object of its line; spans behind the cut of a long text are left out."""
        spans = [span for span in read_spans(demo.label) or () if span.end <= len(demo.text)]
        return {"content": demo.text, KEY: [_shown(span, demo.text) for span in spans]}


def recorded_spans(recorded: str, labels: Sequence[str], text: str) -> tuple[str | None, str | None]:
    """Return spans that exist already, a JSON list of ``[start, end, label]``, and None; or None and what is wrong with them."""
    spans = read_spans(recorded)
    if spans is None:
        return None, f"the recorded spans {recorded[:80]!r} are no JSON list of [start, end, label] with start < end"
    for span in spans:
        if span.label not in labels:
            return (
                None,
                f"the recorded span {list(span)} has a label that is none of the {len(labels)} of the label config",
            )
        if span.end > len(text):
            return None, f"the recorded span {list(span)} ends behind the text, which has {len(text)} characters"
    return write_spans(spans), None


def _items(answer: str) -> tuple[list[Any] | None, str | None]:
    """Return the list in an answer, or None and why there is none."""
    found = unwrapped(answer)
    if not found:
        return None, "the answer is empty"
    try:
        data = json.loads(found, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None, f"the answer is no JSON: {plain(answer)[:80]!r}"
    items = data.get(KEY) if isinstance(data, Mapping) else data
    if not isinstance(items, list):
        return None, f"the answer's JSON has no list {KEY!r}: {plain(answer)[:80]!r}"
    if len(items) > MAX_SPANS:
        return None, f"the answer lists {len(items)} spans; more than {MAX_SPANS} are not read"
    return items, None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands in an object twice: of two answers neither is the answer."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _span(item: Any, asked: Asked, place: _Places) -> tuple[Span | None, str]:
    if not isinstance(item, Mapping) or not isinstance(item.get("text"), str) or not isinstance(item.get("label"), str):
        return None, f"{plain(json.dumps(item, ensure_ascii=False))[:80]} has no 'text' and 'label'"
    words, before = item["text"].strip(), item.get("before")
    label = match_label(item["label"], asked.allowed)
    if label is None:
        return None, f"{plain(item['label'])[:80]!r} is none of the {len(asked.allowed)} labels"
    found = place.of(words, before if isinstance(before, str) else "", label) if words else None
    if found is None:
        return None, f"{plain(words)[:80]!r} is not in the text"
    return found, ""


class _Places:
    """Finds words in a text; equal words that are asked for in the order of the text get one place after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._folded, self._origin = _folded(text)
        self._taken: set[Span] = set()
        self._at = 0

    def of(self, words: str, before: str, label: str) -> Span | None:
        """Return where `words` stand: behind `before`, else the next ones that were not found yet; None if nowhere."""
        places = self._best(self._exact(words)) or self._best(self._alike(words))
        if not places:
            return None
        behind = [p for p in places if self._follows(p[0], before)] or places
        spans = [Span(*place, label) for place in behind]
        fresh = [span for span in spans if span not in self._taken]
        chosen = next((span for span in fresh if span.start >= self._at), (fresh or spans)[0])
        self._taken.add(chosen)
        self._at = chosen.start
        return chosen

    def _exact(self, words: str) -> Iterator[tuple[int, int]]:
        at = self._text.find(words)
        while at >= 0:
            yield at, self._grown(at + len(words))
            at = self._text.find(words, at + 1)

    def _alike(self, words: str) -> Iterator[tuple[int, int]]:
        wanted, _ = _folded(words)
        at = self._folded.find(wanted) if wanted else -1
        while at >= 0:
            end = at + len(wanted)
            whole = at == 0 or self._origin[at] != self._origin[at - 1]
            if whole and (end == len(self._folded) or self._origin[end] != self._origin[end - 1]):
                yield self._origin[at], self._grown(self._origin[end - 1] + 1)
            at = self._folded.find(wanted, at + 1)

    def _best(self, places: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return those that are whole words, or all where none is: some scripts have no blanks between words."""
        found = list(places)
        return [place for place in found if self._is_word(*place)] or found

    def _is_word(self, start: int, end: int) -> bool:
        text = self._text
        opens = start == 0 or not (text[start - 1].isalnum() and text[start].isalnum())
        return opens and (end == len(text) or not (text[end - 1].isalnum() and text[end].isalnum()))

    def _follows(self, start: int, before: str) -> bool:
        wanted = _folded(before)[0].strip()
        return bool(wanted) and _folded(self._text[max(0, start - 4 * len(before) - 16) : start])[0].strip().endswith(
            wanted
        )

    def _grown(self, end: int) -> int:
        """Take in the marks that belong to the last letter."""
        while end < len(self._text) and unicodedata.combining(self._text[end]):
            end += 1
        return end


def _folded(text: str) -> tuple[str, list[int]]:
    """Return `text` without what models change when they copy, and where each of its characters came from."""
    characters: list[str] = []
    origin: list[int] = []
    for place, character in enumerate(text):
        alike = " " if character.isspace() else unicodedata.normalize("NFKD", character.translate(_SAME)).casefold()
        if alike == " " and characters and characters[-1] == " ":
            continue
        characters.extend(alike)
        origin.extend([place] * len(alike))
    return "".join(characters), origin


def _shown(span: Span, text: str) -> dict[str, str]:
    before = " ".join(text[: span.start].split()[-BEFORE_WORDS:])
    return {"before": before, "text": text[span.start : span.end], "label": span.label}
