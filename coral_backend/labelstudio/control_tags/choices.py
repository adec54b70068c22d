"""What can be said with ``<Choices choice="single">``, and how does Label Studio write it down?"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from coral_backend.exceptions import LabelConfigError
from coral_backend.labelstudio.control_tags.base import TagBase, object_key
from coral_backend.types import LabelSpace

__all__ = ["ChoicesTag"]

MAX_LABELS = 1_000
"""More labels than this fit neither a prompt nor a form."""


class ChoicesTag(TagBase):
    """One label a task, from a list that stands in the label config.

    Label Studio stores a choice's ``alias`` where it has one, and its ``value`` otherwise; the bulk import drops any other
    spelling. So the alias is the label, and the value (what people read) becomes its definition.
    """

    tag = "Choices"
    value_key = "choices"

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""
        if control.get("choice", "single") not in ("single", "single-radio"):
            return f'choice="{control.get("choice")}" (only choice="single" is served)'
        if (control.get("value") or "").startswith("$"):
            return f'its choices come from the tasks (value="{control.get("value")}"); write <Choice> elements instead'
        if control.get("perRegion", "false").lower() == "true" or control.get("perItem", "false").lower() == "true":
            return "it belongs to regions or items of a task, not to the task"
        if any(choice.findall(".//Choice") for choice in control.iter("Choice")):
            return "its choices are nested; list them on one level"
        return None

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return the label space of a control that was not refused."""
        name = control.get("name") or ""
        if not name:
            raise LabelConfigError('A <Choices> has no name. Give it one, for example name="label".')
        to_name = control.get("toName") or ""
        key = object_key(self.tag, name, to_name, objects)
        choices = list(control.iter("Choice"))
        labels = [_stored(choice) for choice in choices]
        check_labels(name, labels)
        definitions = {label: text for label, choice in zip(labels, choices, strict=True) if (text := _meaning(choice))}
        return LabelSpace(self.tag, name, to_name, key, tuple(labels), definitions)

    def value(self, label: str | None) -> dict[str, Any]:
        """Return the ``value`` of a region; no label is an empty list."""
        return {"choices": [] if label is None else [label]}

    def label(self, value: Mapping[str, Any]) -> str | None:
        """Return the label of a region's ``value``; None when it is empty, foreign or more than one."""
        chosen = value.get("choices")
        if isinstance(chosen, str):
            return chosen
        if isinstance(chosen, list) and len(chosen) == 1 and isinstance(chosen[0], str):
            return chosen[0]
        return None


def check_labels(name: str, labels: Sequence[str]) -> None:
    """Refuse lists of labels that nobody could choose from.

    Raises
    ------
    LabelConfigError
        For fewer than two labels, too many, empty ones, and ones that look the same.
    """
    if len(labels) < 2:
        raise LabelConfigError(f"Control {name!r} has {len(labels)} label(s); at least 2 are needed.")
    if len(labels) > MAX_LABELS:
        raise LabelConfigError(f"Control {name!r} has {len(labels)} labels; at most {MAX_LABELS} are served.")
    seen: dict[str, str] = {}
    for label in labels:
        looks = unicodedata.normalize("NFKC", label).strip()
        if not looks:
            raise LabelConfigError(f"Control {name!r} has a label without text. Give every <Choice> a value.")
        if looks in seen:
            raise LabelConfigError(
                f"Control {name!r} has the label {label!r} twice (the other is {seen[looks]!r}). Labels must differ."
            )
        seen[looks] = label


def _stored(choice: Element) -> str:
    return choice.get("alias") or choice.get("value") or ""


def _meaning(choice: Element) -> str:
    shown = choice.get("value", "") if choice.get("alias") else ""
    return ": ".join(part for part in (shown, choice.get("hint", "")) if part)
