"""How is each kind of answer learned and judged? The registry: a kind of label space -> what a round does with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coral_backend.kinds.base import Kind, Work
from coral_backend.kinds.multiple import SetOfLabels
from coral_backend.kinds.several import SeveralControls
from coral_backend.kinds.single import SingleLabel
from coral_backend.kinds.spans import SpanLabels
from coral_backend.labels import MULTIPLE, SEVERAL, SINGLE, SPANS
from coral_backend.types import Floats, LabelSpace

__all__ = ["KINDS", "Kind", "Work", "features_of", "kind_of"]

KINDS: dict[str, Kind] = {
    MULTIPLE: SetOfLabels(),
    SINGLE: SingleLabel(),
    SPANS: SpanLabels(),
}
"""A new kind is one file here, one in ``llm/forms``, and a line in each."""


def features_of(space: LabelSpace, folder: Path, texts: Sequence[str]) -> Floats:
    """Return the features of texts, shape (N, D), by the model in `folder` of a round on this label space.

    Raises
    ------
    ModelFileError
        If it cannot be read.
    """
    if space.kind == SPANS:
        from coral_backend.slm.span_engine import SpanModel  # torch, only where it is needed

        return SpanModel.load(folder).features(texts)
    if space.kind == MULTIPLE:
        from coral_backend.slm.set_model import SetModel

        return SetModel.load(folder).predict(texts)[1]
    from coral_backend.slm.engine import Model

    return Model.load(folder).predict(texts)[1]


def kind_of(space: LabelSpace) -> Kind:
    """Return what learns and judges the answers of a label space."""
    return KINDS[space.kind]


KINDS[SEVERAL] = SeveralControls(kind_of)
