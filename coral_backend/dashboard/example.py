"""Which real task does a preview of the prompt show? One that CORAL knows, else, before the first round, one of Label Studio's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coral_backend.exceptions import CoralError, InputError
from coral_backend.labelstudio.tasks import sample_from_task
from coral_backend.settings import Settings
from coral_backend.store import Store, browse
from coral_backend.types import Project, Sample

__all__ = ["example", "first_known"]

LOOKED_AT = 20
"""Tasks that are looked at for one with a readable text."""

PATIENCE_SECONDS = 10.0


def first_known(store: Store, project_id: int) -> Sample | None:
    """Return the first task of the store that has a readable text; None before the first round."""
    lines = browse.page(store, project_id, None, browse.Filters(), sort="task_id", limit=LOOKED_AT).lines
    readable = [line.task_id for line in lines if line.problem is None][:1]
    return next(iter(store.samples(project_id, readable)), None) if readable else None


def example(settings: Settings, store: Store, project: Project, wanted: str) -> Sample:
    """Return the task `wanted`, or the first with a readable text when that is empty.

    Raises
    ------
    InputError
        If there is no such task, or none that can be read; the message is for the field.
    """
    if not wanted:
        known = first_known(store, project.id)
        return known if known is not None else _first_of_label_studio(settings, project)
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 10):
        raise InputError(f"{wanted[:40]!r} is no task; write its number.")
    [*found] = store.samples(project.id, [int(wanted)])
    sample = found[0] if found else _of_label_studio(settings, project, f"api/tasks/{wanted}/")[0]
    if sample.problem is not None:
        raise InputError(f"Task {wanted} cannot be labelled: {sample.problem}.")
    return sample


def _first_of_label_studio(settings: Settings, project: Project) -> Sample:
    tasks = _of_label_studio(settings, project, "api/tasks/", {"project": project.id, "page_size": LOOKED_AT})
    readable = [sample for sample in tasks if sample.problem is None]
    if not readable:
        raise InputError("The project has no task with a readable text yet. Import some into Label Studio.")
    return readable[0]


def _of_label_studio(
    settings: Settings, project: Project, path: str, params: Mapping[str, Any] | None = None
) -> list[Sample]:
    from coral_backend.labelstudio.client import LabelStudioClient  # Label Studio's SDK takes a second to import

    if not settings.label_studio_url or settings.label_studio_api_key is None:
        raise InputError("CORAL knows no task yet, and not where Label Studio is. Run the first round, then preview.")
    key = settings.label_studio_api_key.get_secret_value()
    try:
        with LabelStudioClient(settings.label_studio_url, key) as client:
            answer = client.request("GET", path, params=params, timeout=PATIENCE_SECONDS)
    except CoralError as error:
        raise InputError(f"The task could not be read from Label Studio: {error}") from error
    tasks = answer.get("tasks", [answer]) if isinstance(answer, dict) else answer
    own = settings.with_options(project.options)
    mine = [task for task in tasks if int(task.get("project") or project.id) == project.id]
    if tasks and not mine:
        raise InputError(f"That task is not one of project {project.id}.")
    space = project.label_space
    return [sample_from_task(space, t, recorded_key=own.recorded_key, max_chars=own.max_text_chars) for t in mine]
