"""What can be said with a ``<Taxonomy>`` of which one place is chosen, or any number, and how does Label Studio write it down?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from coral_backend.labels import MULTIPLE, read_set
from coral_backend.labelstudio.control_tags.base import TagBase, is_true
from coral_backend.labelstudio.control_tags.paths import chosen_path, chosen_paths, joined, nodes, parts
from coral_backend.types import LabelSpace

__all__ = ["TaxonomyTag"]


class TaxonomyTag(TagBase):
    """One path a task, or without ``maxUsages="1"`` any number.

    Each place of the tree is a label, or with ``leafsOnly="true"`` those with nothing inside. Where several may be chosen, a place
    and one inside it are two labels: Label Studio ticks each by itself.
    """

    tag = "Taxonomy"

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""
        if control.get("apiUrl"):
            return f'its choices come from apiUrl="{control.get("apiUrl")}"; write <Choice> elements instead'
        if is_true(control, "labeling"):
            return 'labeling="true" has it label spans of a text, not the task'
        if (most := (control.get("maxUsages") or "").strip()) not in ("", "1"):
            return (
                f'maxUsages="{most}"; CORAL serves one place (maxUsages="1") or any number of them (without maxUsages)'
            )
        return super().refusal(control)

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return the label space of a control that was not refused."""
        leaves_only = is_true(control, "leafsOnly")
        places = [node for node in nodes(control) if node.is_leaf or not leaves_only]
        definitions = {node.label: node.meaning for node in places if node.meaning}
        space = self.space(control, objects, [node.label for node in places], definitions, nested=True)
        if (control.get("maxUsages") or "").strip() == "1":
            return space
        return self.several(space, control)

    def value(self, space: LabelSpace, label: str | None) -> dict[str, Any]:
        """Return the ``value`` of a region; no label is an empty list."""
        chosen = (read_set(label) or ()) if space.kind == MULTIPLE else () if label is None else (label,)
        return {"taxonomy": [parts(one) for one in chosen]}

    def label(self, value: Mapping[str, Any]) -> str | None:
        """Return the label of a region's ``value``; None when it is empty, foreign or more than one."""
        return chosen_path(value.get("taxonomy"))

    def labels(self, value: Mapping[str, Any]) -> Sequence[str] | None:
        """Return the labels of a region's ``value``; None when it is foreign."""
        paths = chosen_paths(value.get("taxonomy"), whole=True)
        return None if paths is None else [joined(path) for path in paths]
