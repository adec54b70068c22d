"""How is each kind of answer learned and judged? The registry: a kind of label space -> what a round does with it."""

from __future__ import annotations

from coral_backend.kinds.base import Kind, Work
from coral_backend.kinds.multiple import SetOfLabels
from coral_backend.kinds.several import SeveralControls
from coral_backend.kinds.single import SingleLabel
from coral_backend.labels import MULTIPLE, SEVERAL, SINGLE
from coral_backend.types import LabelSpace

__all__ = ["KINDS", "Kind", "Work", "kind_of"]

KINDS: dict[str, Kind] = {
    MULTIPLE: SetOfLabels(),
    SINGLE: SingleLabel(),
}
"""A new kind is one file here, one in ``llm/forms``, and a line in each."""


def kind_of(space: LabelSpace) -> Kind:
    """Return what learns and judges the answers of a label space."""
    return KINDS[space.kind]


KINDS[SEVERAL] = SeveralControls(kind_of)
