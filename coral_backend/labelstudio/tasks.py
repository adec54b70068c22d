"""What does a Label Studio task or annotation say, in our words? Everything in it is untrusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from coral_backend.exceptions import InputError
from coral_backend.labels import MULTIPLE, SPANS, write_controls
from coral_backend.labelstudio.control_tags import from_result
from coral_backend.labelstudio.rows import row_of
from coral_backend.labelstudio.slices import slice_of
from coral_backend.labelstudio.texts import kind, plain, text_of
from coral_backend.types import HumanLabel, LabelSpace, Sample

__all__ = ["human_label_from_annotation", "sample_from_task"]


def sample_from_task(
    space: LabelSpace,
    task: Mapping[str, Any],
    *,
    recorded_key: str | None,
    max_chars: int,
    slice_key: str | None = None,
) -> Sample:
    """Return our row for a Label Studio task.

    NUL and other control characters become spaces, lone surrogates U+FFFD, numbers their digits; what is no text at all
    sets ``problem`` and leaves the other tasks alone.

    Parameters
    ----------
    task : mapping
        With ``id`` and ``data``, as the API, ``/predict`` and webhooks send it.
    recorded_key : str or None
        Key of ``data`` with a label that exists already; of several controls, with an object of them, or one as JSON.
    max_chars : int
        Longer texts are cut, in characters.
    slice_key : str or None
        Key of ``data`` that parts the corpus; see ``slices.slice_of``.

    Raises
    ------
    InputError
        If `task` has no whole number as ``id``.
    """
    task_id = _task_id(task)
    data = task.get("data")
    if not isinstance(data, Mapping):
        return Sample(task_id, "", problem=f"the task's data is {kind(data)}; it must be an object")
    recorded = _recorded(space, data.get(recorded_key)) if recorded_key else None
    if space.is_row:
        text, problem = row_of(space.text_key, space.columns, data, max_chars)
    else:
        text, problem = text_of(space, data, max_chars)
    return Sample(task_id, text, problem, recorded or None, slice_of(data, text, slice_key))


def human_label_from_annotation(space: LabelSpace, annotation: Mapping[str, Any], task_id: int) -> HumanLabel:
    """Return what a person said in one annotation.

    Scores, notes and region ids that Label Studio copies from the prediction into the annotation are left out; the
    prediction that pre-filled the form is kept as ``prediction_version`` and ``prediction_label``.

    Raises
    ------
    InputError
        If `annotation` has no whole number as ``id``.
    """
    annotation_id = _whole(annotation.get("id"))
    if annotation_id is None:
        raise InputError(f"An annotation has the id {annotation.get('id')!r}; it must be a whole number.")
    skipped = bool(annotation.get("was_cancelled"))
    prediction = annotation.get("prediction")
    prediction = prediction if isinstance(prediction, Mapping) else {}
    version = prediction.get("model_version")
    return HumanLabel(
        annotation_id=annotation_id,
        task_id=task_id,
        label=None if skipped else from_result(space, annotation.get("result")),
        user_id=_user(annotation.get("completed_by")),
        updated_at=str(annotation.get("updated_at") or annotation.get("created_at") or ""),
        skipped=skipped,
        ground_truth=bool(annotation.get("ground_truth")),
        lead_time=_seconds(annotation.get("lead_time")),
        prediction_version=version if isinstance(version, str) and version else None,
        prediction_label=from_result(space, prediction.get("result")),
    )


def _recorded(space: LabelSpace, value: object) -> str | None:
    """Return labels that exist already as a text; of several controls as ``labels.py`` writes them.

    A set and spans may stand in a task as the JSON lists that they are.
    """
    if space.kind == MULTIPLE and isinstance(value, list):
        return plain(json.dumps(value, ensure_ascii=False))
    if not space.controls:
        listed = space.kind == SPANS and isinstance(value, list)
        return plain(json.dumps(value, ensure_ascii=False) if listed else value)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return plain(value)  # the annotator says that it is none of the labels
    if not isinstance(value, Mapping):
        return None
    said = {control.from_name: _recorded(control, value.get(control.from_name)) for control in space.controls}
    return write_controls(said, list(said))


def _task_id(task: Mapping[str, Any]) -> int:
    task_id = _whole(task.get("id"))
    if task_id is None:
        raise InputError(f"A task has the id {task.get('id')!r}; it must be a whole number.")
    return task_id


def _whole(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _user(value: object) -> int | None:
    return _whole(value.get("id")) if isinstance(value, Mapping) else _whole(value)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None
