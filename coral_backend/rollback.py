"""How does a project go back to an older round? Its predictions are selected again, and the next round builds on it.

Labels of people stay as they are. What the rounds behind it had the LLM say no longer counts (it stays as history, and counts
again if one rolls back to them). No round can begin meanwhile: both take the same lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from coral_backend import corpus_arrays, review
from coral_backend.effects import round_named
from coral_backend.exceptions import ConflictError
from coral_backend.heartbeat import kept_alive
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.predictions import prediction_rows
from coral_backend.rounds import settings_for
from coral_backend.settings import Settings
from coral_backend.slices import slice_column
from coral_backend.store import Lease, Store
from coral_backend.store.review import rollback_lease
from coral_backend.sync import refresh_project
from coral_backend.types import Project, Round, RoundStatus

__all__ = ["Rollback", "roll_back"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollback:
    """What a rollback did.

    Attributes
    ----------
    round, before : str
        The round that serves now, and the one that did.
    version : str
        The model version that is selected in Label Studio.
    pushed : int
        Predictions that had been removed from Label Studio, and were pushed again.
    new_tasks : int
        Tasks that came after the round, or whose text was edited since.
    model_kept : bool
        Whether its SLM is still there; if not, new tasks wait for the next round.
    """

    round: str
    before: str
    version: str
    pushed: int
    new_tasks: int
    model_kept: bool


def roll_back(
    store: Store, settings: Settings, connect: Callable[[], LabelStudioClient], project_id: int, name: str | int | float
) -> Rollback:
    """Make round `name` of a project the one that serves.

    Can be repeated after a failure: what was done is found.

    Raises
    ------
    NotFoundError
        If there is no such round.
    ConflictError
        If it is not done, serves already, or knows other labels than the label config has now; if a round is under way, or new
        tasks are being labelled.
    LabelStudioError
        If Label Studio is away; the round that served before still does.
    """
    target = round_named(store, project_id, name)
    with _alone(store, project_id) as lease:
        client = connect()
        project = refresh_project(store, client, project_id, controls=settings.controls)
        version = _refuse(project, target)
        verdicts = store.verdicts(project_id, target.id)
        pushed = client.push_predictions(project_id, prediction_rows(project.label_space, version, verdicts))
        if verdicts:
            client.select_version(project_id, version)
        before = store.round(project.active_round).name if project.active_round is not None else "none"
        slices = slice_column(store, project_id, target.id)
        review.show(store, client, project, version, verdicts, slices=slices)
        own = settings_for(settings, project)
        model_kept = corpus_arrays.is_kept(own, target, project.label_space)
        judged = {verdict.task_id: verdict.content_hash for verdict in verdicts}  # None: of an older CORAL
        readable = (sample for sample in store.samples(project_id) if sample.problem is None)
        new = [s for s in readable if judged.get(s.task_id, "") not in (None, s.content_hash)]
        if model_kept:
            store.put_samples(project_id, new, wanted=True)
        store.roll_back(project_id, target.id, lease)  # last: until then it can be repeated
    logger.info("project %d: back from round %s to %s (%s)", project_id, before, target.name, version)
    return Rollback(target.name, before, version, pushed.created, len(new), model_kept)


def _refuse(project: Project, target: Round) -> str:
    """Return the version of a round that can serve."""
    if target.status is not RoundStatus.DONE or target.model_version is None:
        raise ConflictError(
            f"Round {target.name} is {target.status}; only one that is done can serve. See: coral status."
        )
    if target.id == project.active_round:
        raise ConflictError(f"Round {target.name} serves already ({target.model_version}).")
    if target.config_hash != project.config_hash:
        raise ConflictError(
            f"The labels of project {project.id} were changed since round {target.name}, so that it cannot serve. "
            "Change the label config back, or run a new round."
        )
    return target.model_version


@contextmanager
def _alone(store: Store, project_id: int) -> Iterator[Lease]:
    """Keep rounds and the labelling of new tasks away, as long as the block runs."""
    leases: list[Lease] = []
    try:
        for name in (rollback_lease(project_id), f"catch-up-{project_id}"):
            lease = store.take_lease(name)
            if lease is None:
                raise ConflictError(
                    f"Project {project_id} is busy: new tasks are being labelled, or it is going back already. "
                    "Try again in a minute."
                )
            leases.append(lease)
        active = store.active_round(project_id)
        if active is not None:
            raise ConflictError(
                f"Round {active.name} of project {project_id} is {active.status}. Wait for it, or cancel it: "
                "coral round --cancel."
            )
        with kept_alive(store, leases[0]), kept_alive(store, leases[1]):
            yield leases[0]
    finally:
        for lease in leases:
            store.drop_lease(lease)
