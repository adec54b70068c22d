"""What can be said with ``<Rating>``, and how does Label Studio write it down?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from coral_backend.labelstudio.control_tags.base import MAX_LABELS, TagBase
from coral_backend.types import LabelSpace

__all__ = ["RatingTag"]

DEFAULT_MAX = "5"
"""Label Studio's own."""


class RatingTag(TagBase):
    """A number of stars a task; the labels are ``"1"`` to ``"n"``, of which each is a class of its own."""

    tag = "Rating"

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""
        most = (control.get("maxRating") or DEFAULT_MAX).strip()
        if not (most.isascii() and most.isdigit() and len(most) < 5 and 2 <= int(most) <= MAX_LABELS):
            return f'maxRating="{control.get("maxRating")}"; it must be a whole number from 2 to {MAX_LABELS}'
        return super().refusal(control)

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return the label space of a control that was not refused."""
        most = int(control.get("maxRating") or DEFAULT_MAX)
        definitions = {"1": f"the lowest of {most}", str(most): f"the highest of {most}"}
        return self.space(control, objects, [str(stars) for stars in range(1, most + 1)], definitions)

    def value(self, space: LabelSpace, label: str | None) -> dict[str, Any]:  # noqa: ARG002 - others need it
        """Return the ``value`` of a region; no label is no star."""
        return {"rating": int(label or 0)}

    def label(self, value: Mapping[str, Any]) -> str | None:
        """Return the label of a region's ``value``; None when it is empty, foreign or no whole number of stars."""
        stars = value.get("rating")
        if isinstance(stars, bool) or not isinstance(stars, int | float) or not math.isfinite(stars):
            return None
        return str(int(stars)) if stars == int(stars) and stars > 0 else None
