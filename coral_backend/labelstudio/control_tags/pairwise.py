"""What can be said with ``<Pairwise>``, and how does Label Studio write it down?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from coral_backend.labelstudio.control_tags.base import TagBase, cannot_vouch, vouched
from coral_backend.types import LabelSpace

__all__ = ["PairwiseTag"]

LEFT, RIGHT = "left", "right"


class PairwiseTag(TagBase):
    """Which of two texts it is. The sample's text is both, each under its title with every line marked as quoted."""

    tag = "Pairwise"

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""
        names = [name for name in (control.get("toName") or "").split(",") if name.strip()]
        if len(names) != 2 or names[0] == names[1]:
            return f'toName="{control.get("toName")}"; it must be the names of two texts, for example toName="a,b"'
        return super().refusal(control) or cannot_vouch(control, "selected")

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return the label space of a control that was not refused."""
        return self.space(control, objects, (LEFT, RIGHT), {}, titles=("Left", "Right"))

    def value(self, space: LabelSpace, label: str | None) -> dict[str, Any]:
        """Return the ``value`` of a region."""
        return {"selected": label} if label is not None else vouched(space, {}, {"selected": LEFT})

    def label(self, value: Mapping[str, Any]) -> str | None:
        """Return the label of a region's ``value``; None when no side is selected."""
        selected = value.get("selected")
        return selected if selected in (LEFT, RIGHT) else None
