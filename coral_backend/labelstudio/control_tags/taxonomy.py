"""What can be said with a ``<Taxonomy>`` of which one place is chosen, and how does Label Studio write it down?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from coral_backend.labelstudio.control_tags.base import TagBase, is_true
from coral_backend.labelstudio.control_tags.paths import chosen_path, nodes, parts
from coral_backend.types import LabelSpace

__all__ = ["TaxonomyTag"]


class TaxonomyTag(TagBase):
    """One path a task; each place of the tree is a label, or with ``leafsOnly="true"`` those with nothing inside."""

    tag = "Taxonomy"

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""
        if control.get("apiUrl"):
            return f'its choices come from apiUrl="{control.get("apiUrl")}"; write <Choice> elements instead'
        if is_true(control, "labeling"):
            return 'labeling="true" has it label spans of a text, not the task'
        if (control.get("maxUsages") or "").strip() != "1":
            return 'several places may be chosen, CORAL serves one; add maxUsages="1"'
        return super().refusal(control)

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return the label space of a control that was not refused."""
        leaves_only = is_true(control, "leafsOnly")
        places = [node for node in nodes(control) if node.is_leaf or not leaves_only]
        definitions = {node.label: node.meaning for node in places if node.meaning}
        return self.space(control, objects, [node.label for node in places], definitions, nested=True)

    def value(self, space: LabelSpace, label: str | None) -> dict[str, Any]:  # noqa: ARG002 - others need it
        """Return the ``value`` of a region; no label is an empty list."""
        return {"taxonomy": [] if label is None else [parts(label)]}

    def label(self, value: Mapping[str, Any]) -> str | None:
        """Return the label of a region's ``value``; None when it is empty, foreign or more than one."""
        return chosen_path(value.get("taxonomy"))
