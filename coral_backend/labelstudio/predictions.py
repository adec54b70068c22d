"""How does a verdict look as a Label Studio prediction? One function for pushing and for ``/predict``: they must agree."""

from __future__ import annotations

from coral_backend.labelstudio.client import PredictionRow
from coral_backend.labelstudio.control_tags import to_regions
from coral_backend.labelstudio.tabs import flag_token
from coral_backend.types import LabelSpace, Verdict

__all__ = ["prediction_row"]


def prediction_row(space: LabelSpace, version: str, verdict: Verdict) -> PredictionRow:
    """Return the prediction of a verdict under `version`; it carries the flag by which the review tabs find the task.

    A verdict without a label, or with one that the config no longer has, gives a prediction that chooses nothing.
    """
    label = verdict.prediction_label if verdict.prediction_label in space.labels else None
    score = verdict.prediction_score if label is not None else None
    return verdict.task_id, to_regions(space, label, score, marker=flag_token(version, verdict.flag)), score, version
