"""How is a set of labels asked for and read? ``{"labels": ["...", ...]}``, each confined to an enum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from coral_backend.labels import read_set, write_set
from coral_backend.llm.forms.base import Asked
from coral_backend.llm.parse import Pairs, match_label, plain, unwrapped
from coral_backend.types import Demo

__all__ = ["SetOfLabels", "recorded_set"]

SEPARATORS = (";", "|", ",", "\n")
"""What may stand between the labels of a recorded set that is no JSON list, in the order in which they are tried."""


class SetOfLabels:
    """Any number of labels, in any order; none of them twice, and only those of the config."""

    weighed = False

    def properties(self, asked: Asked, listed: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002 - others need it
        """Return the properties of the answer's JSON schema."""
        return {"labels": {"type": "array", "items": {"type": "string", "enum": list(listed)}}}

    def read(self, answer: str, asked: Asked, text: str) -> tuple[str | None, str | None]:  # noqa: ARG002
        """Return the set that an answer names, and None; or None and the reason why it cannot be taken.

        Taken are ``{"labels": [...]}``, the bare list, and one label by itself; case, blanks, quotes and a code fence do not matter. An
        answer with a label that the config does not have is not taken in part: what else it says may be as wrong.
        """
        said = unwrapped(answer)
        if not said:
            return None, "the answer is empty"
        named, reason = _named(said, asked.allowed)
        if named is None:
            return None, reason
        found = []
        for one in named:
            label = match_label(one, asked.allowed)
            if label is None:
                return None, f"{plain(one)[:80]!r} is none of the {len(asked.allowed)} labels"
            found.append(label)
        if not found and asked.required:
            return None, "the answer names no label, and at least one is required"
        return write_set(found, asked.allowed), None

    def again(self, asked: Asked) -> str:
        """Return the sentence that asks once more."""
        allowed = json.dumps(list(asked.labels), ensure_ascii=False)
        some = "at least one" if asked.required else "those that apply, or none,"
        return (
            f'Your answer is not a list of the labels. Reply with nothing but JSON: {{"labels": ["...", ...]}}, with {some} of '
            f"{allowed}."
        )

    def example(self, demo: Demo) -> dict[str, Any]:
        """Return a demonstration as the JSON object of its line."""
        return {"content": demo.text, "labels": list(read_set(demo.label) or ())}


def _named(answer: str, labels: Sequence[str]) -> tuple[list[str] | None, str | None]:
    """Return the strings that an answer lists, or None with the reason."""
    try:
        data = json.loads(answer, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        if match_label(answer, labels) is not None:
            return [answer], None
        what = "broken JSON" if answer[0] in "{[" else f"no list of the {len(labels)} labels"
        return None, f"the answer is {what}: {plain(answer)[:80]!r}"
    if isinstance(data, Pairs):
        values = [value for key, value in data if key.strip().casefold() == "labels"]
        if len(values) != 1:
            return None, f"the answer's JSON has {len(values)} lists of labels, not one: {plain(answer)[:80]!r}"
        data = values[0]
    if isinstance(data, str):
        return [data], None
    if isinstance(data, list) and all(isinstance(one, str) for one in data):
        return data, None
    if not isinstance(data, (list, dict)) and data is not None and match_label(answer, labels) is not None:
        return [answer], None  # labels that are numbers
    return None, f"the answer's JSON lists no labels: {plain(answer)[:80]!r}"


def recorded_set(recorded: str, labels: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the set that a column of the task data records, as ``write_set`` writes it; or None with the reason.

    A JSON list, one label, or labels with one of ``SEPARATORS`` between them, where that makes each part a label.
    """
    try:
        listed = json.loads(recorded)
    except (ValueError, RecursionError):
        listed = None
    if isinstance(listed, list):
        parts = [one if isinstance(one, str) else json.dumps(one) for one in listed]
    elif match_label(recorded, labels) is not None:
        parts = [recorded]
    else:
        tried = [[part for part in recorded.split(mark) if part.strip()] for mark in SEPARATORS if mark in recorded]
        parts = next((ps for ps in tried if all(match_label(p, labels) is not None for p in ps)), [recorded])
    found = [match_label(part, labels) for part in parts]
    for part, label in zip(parts, found, strict=True):
        if label is None:
            return (
                None,
                f"the recorded label {plain(part)[:80]!r} is none of the {len(labels)} labels of the label config",
            )
    return write_set([label for label in found if label is not None], labels), None
