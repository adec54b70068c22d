"""What can be said with ``<Choices>``, one or several of them, flat or nested, and how does Label Studio write it down?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from coral_backend.labels import MULTIPLE, read_set
from coral_backend.labelstudio.control_tags.base import TagBase, cannot_vouch, is_true, vouched
from coral_backend.labelstudio.control_tags.paths import chosen_path, chosen_paths, joined, nodes, parts
from coral_backend.types import LabelSpace

__all__ = ["ChoicesTag"]


class ChoicesTag(TagBase):
    """One label a task, from a list that stands in the label config; with ``choice="multiple"`` any number of them.

    Label Studio stores a choice's ``alias`` where it has one, and its ``value`` otherwise; the bulk import drops any other
    spelling. So the alias is the label, and the value (what people read) becomes its definition.

    With ``allowNested="true"`` a label is the path to a choice that has no others inside: ticking an outer one means all that
    are in it. Without it Label Studio shows the outermost choices only.
    """

    tag = "Choices"

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""
        if control.get("choice", "single") not in ("single", "single-radio", "multiple"):
            return f'choice="{control.get("choice")}" (choice="single" and choice="multiple" are served)'
        if is_true(control, "allowNested"):
            return super().refusal(control) or cannot_vouch(control, "choices")
        if any(not node.is_leaf for node in nodes(control)):
            return (
                "its choices are nested, and Label Studio shows the outermost only; "
                'add allowNested="true", use <Taxonomy>, or list them on one level'
            )
        return super().refusal(control)

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return the label space of a control that was not refused."""
        nested = is_true(control, "allowNested")
        leaves = [(node.label if nested else node.path[-1], node) for node in nodes(control) if node.is_leaf]
        definitions = {label: node.meaning for label, node in leaves if node.meaning}
        space = self.space(control, objects, [label for label, _ in leaves], definitions, nested=nested)
        if control.get("choice") != "multiple":
            return space
        return self.several(space, control)

    def value(self, space: LabelSpace, label: str | None) -> dict[str, Any]:
        """Return the ``value`` of a region; no label is an empty list."""
        chosen = (read_set(label) or ()) if space.kind == MULTIPLE else () if label is None else (label,)
        if not chosen or not space.nested:
            return {"choices": list(chosen)}
        paths = [parts(one) for one in chosen]
        return vouched(space, {"choices": paths}, {"choices": [path[-1] for path in paths]})

    def label(self, value: Mapping[str, Any]) -> str | None:
        """Return the label of a region's ``value``; None when it is empty, foreign or more than one."""
        chosen = value.get("choices")
        if isinstance(chosen, str):
            return chosen
        if isinstance(chosen, list) and all(isinstance(one, str) for one in chosen):
            return chosen[0] if len(chosen) == 1 else None
        return chosen_path(chosen)

    def labels(self, value: Mapping[str, Any]) -> Sequence[str] | None:
        """Return the labels of a region's ``value``; None when it is foreign."""
        chosen = value.get("choices")
        if isinstance(chosen, str):
            return (chosen,)
        if isinstance(chosen, list) and all(isinstance(one, str) for one in chosen):
            return chosen
        paths = chosen_paths(chosen)
        return None if paths is None else [joined(path) for path in paths]
