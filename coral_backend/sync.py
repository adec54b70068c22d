"""How does what Label Studio holds come into the store? The label config, the tasks, and annotations whose webhook never came."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from coral_backend.exceptions import (
    InputError,
)
from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError
from coral_backend.labelstudio.control_tags import ALL, parse_config, space_hash
from coral_backend.labelstudio.tasks import human_label_from_annotation, sample_from_task
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import (
    HumanLabel,
    Progress,
    Project,
    Sample,
)

logger = logging.getLogger(__name__)

SYNC_CHUNK = 1000


def refresh_project(
    store: Store,
    client: LabelStudioClient,
    project_id: int,
    *,
    controls: str = ALL,
    options: Mapping[str, Any] | None = None,
) -> Project:
    """Read title and label config from Label Studio into the store, and return the project.

    Parameters
    ----------
    controls : str
        Which controls the process's settings have served; the project's own option wins.
    options : mapping or None
        The project's own settings from now on; None keeps those it has.
    """
    theirs = client.project(project_id)
    ours = next((p for p in store.projects() if p.id == project_id), None)
    own = options if options is not None else ours.options if ours else {}
    space = parse_config(theirs["label_config"], str(own.get("controls") or controls))
    fresh = Project(project_id, theirs["title"], theirs["label_config"], space_hash(space), space, options=dict(own))
    store.save_project(fresh)
    return store.project(project_id)


def sync_samples(
    store: Store, client: LabelStudioClient, settings: Settings, project: Project, progress: Progress
) -> int:
    """Read tasks and annotations from Label Studio into the store, and return how many tasks there are.

    Raises
    ------
    InputError
        If none of them can be labelled.
    """
    seen: set[int] = set()
    batch: list[Sample] = []
    for task in client.iter_tasks(project.id, progress=progress):
        batch.append(_sample(settings, project, task))
        seen.add(batch[-1].task_id)
        if len(batch) >= SYNC_CHUNK:
            store.put_samples(project.id, batch)
            batch = []
    store.put_samples(project.id, batch)
    known = {sample.task_id for sample in store.samples(project.id)}
    store.retire_samples(project.id, known - seen)
    reconcile(store, client, project)
    if all(sample.problem is not None for sample in store.samples(project.id)):
        raise InputError(nothing_to_label(project, len(seen)))
    return len(seen)


def reconcile(store: Store, client: LabelStudioClient, project: Project) -> int:
    """Read annotations back from Label Studio, which never repeats a lost webhook; return how many changed."""
    # Known before reading: what a webhook brings meanwhile is not in the answer, and not gone either.
    known = store.annotation_ids(project.id)
    labels: list[HumanLabel] = []
    for task in client.annotated_tasks(project.id):
        task_id = int(task["id"])
        labels.extend(human_label_from_annotation(project.label_space, a, task_id) for a in task["annotations"])
    changed = store.put_annotations(project.id, labels)
    missing = known - {label.annotation_id for label in labels}
    changed += store.retire_annotations(project.id, {i for i in missing if _is_gone(client, i)})
    store.mark_reconciled(project.id)
    if changed:
        logger.info("project %d: %d annotations read back", project.id, changed)
    return changed


def _is_gone(client: LabelStudioClient, annotation_id: int) -> bool:
    """Ask for one annotation: a deletion cannot be taken back, so that missing in a list is not enough."""
    try:
        client.request("GET", f"api/annotations/{annotation_id}/")
    except LabelStudioHTTPError as error:
        if error.http_status != 404:
            raise
        return True
    return False


def _sample(settings: Settings, project: Project, task: Mapping[str, Any]) -> Sample:
    space = project.label_space
    keys = {"recorded_key": settings.recorded_key, "slice_key": settings.slice_key}
    return sample_from_task(space, task, max_chars=settings.max_text_chars, **keys)


def nothing_to_label(project: Project, tasks: int) -> str:
    """Return what is said where none of `tasks` tasks can be labelled."""
    if not tasks:
        return f"Project {project.id} ({project.title!r}) has no tasks. Import some, then start the round again."
    return (
        f"None of the {tasks} tasks of project {project.id} has a text under {' and '.join(map(repr, project.label_space.text_keys))}. "
        "Look at the tasks' data and at value=... in the label config."
    )


__all__ = ["nothing_to_label", "reconcile", "refresh_project", "sync_samples"]
