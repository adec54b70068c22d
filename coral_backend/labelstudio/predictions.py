"""How does a verdict look as Label Studio predictions? One room for pushing and for ``/predict``: they must agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from coral_backend.controls import verdict_of
from coral_backend.labels import SEVERAL
from coral_backend.labelstudio.client import PredictionRow
from coral_backend.labelstudio.control_tags import to_regions
from coral_backend.labelstudio.tabs import flag_token
from coral_backend.types import LabelSpace, Source, Verdict

__all__ = ["other_version", "prediction_row", "prediction_rows"]


def prediction_row(space: LabelSpace, version: str, verdict: Verdict) -> PredictionRow:
    """Return the prediction of a verdict under `version`; it carries the flag by which the review tabs find the task.

    A verdict without a label, or with one that the config no longer has, gives a prediction that chooses nothing.
    """
    return _row(space, version, verdict, flag_token(version, verdict.flag))


def _row(space: LabelSpace, version: str, verdict: Verdict, marker: str | None) -> PredictionRow:
    label = verdict.prediction_label if space.allows(verdict.prediction_label) else None
    score = verdict.prediction_score if label is not None else None
    if space.kind == SEVERAL:
        return verdict.task_id, _regions(space, version, verdict, marker), score, version
    return verdict.task_id, to_regions(space, label, score, marker=marker, details=verdict.details), score, version


def _regions(space: LabelSpace, version: str, verdict: Verdict, marker: str | None) -> list[dict[str, Any]]:
    """Return the regions of each control, all with ids of their own; the first one that chooses something has the marker."""
    parts = [(control, verdict_of(verdict, control)) for control in space.controls]
    chosen = [control.from_name for control, part in parts if control.allows(part.prediction_label)]
    marked = chosen[0] if chosen else space.controls[0].from_name
    regions: list[dict[str, Any]] = []
    for place, (control, part) in enumerate(parts):
        own = _row(control, version, part, marker if control.from_name == marked else None)[1]
        regions += [region | {"id": f"{region['id']}-{place}"} for region in own]
    return regions


def other_version(version: str) -> str:
    """Return the version of the SLM's own predictions beside those of `version`: it names the tab in the form."""
    return f"{version}-slm"


def prediction_rows(space: LabelSpace, version: str, verdicts: Iterable[Verdict]) -> list[PredictionRow]:
    """Return what is pushed: a prediction of each verdict, and the SLM's beside it where the SLM says something else.

    The form lists predictions newest first, so the better one of two comes last here.
    """
    rows: list[PredictionRow] = []
    for verdict in verdicts:
        main, other = prediction_row(space, version, verdict), _other_row(space, version, verdict)
        pair = [other, main] if verdict.label == verdict.prediction_label else [main, other]
        rows += [row for row in pair if row is not None]
    return rows


def _other_row(space: LabelSpace, version: str, verdict: Verdict) -> PredictionRow | None:
    label = verdict.slm_label
    if verdict.source is Source.HUMAN or not space.allows(label) or label == verdict.prediction_label:
        return None
    details = tuple(replace(one, prediction_score=one.slm_score) for one in verdict.details)
    said = replace(verdict, prediction_label=label, prediction_score=verdict.slm_score, details=details)
    return _row(space, other_version(version), said, None)
