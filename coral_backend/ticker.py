"""What must happen although nobody asks? Looked at every few seconds beside the worker.

A round whose worker died goes on, enough new human labels (or a quiet while after some) begin a retraining, wanted tasks
are labelled, annotations are read back. Everything is read from the database, so a flushed Redis loses nothing.
"""

from __future__ import annotations

import logging
import threading
import time

from coral_backend import jobs, queue
from coral_backend.catch_up import catch_up_is_possible
from coral_backend.exceptions import ConflictError, CoralError
from coral_backend.rounds import round_lease, waits_until
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Project, Round, RoundStatus

logger = logging.getLogger(__name__)

TICK_SECONDS = 2.0
SILENT_SECONDS = 10.0
"""How long a round that nobody works on is left alone: between two steps its worker asks for the next one itself."""
TIDY_SECONDS = 10.0
"""How long people must be quiet before the tabs are counted again."""
RETRY_SECONDS = 30.0
"""How long a round that met an absent part waits before it is tried again."""


FAILED_SECONDS = 1800.0
"""How long the labels that a failed retraining knew do not start another."""


def run_ticker(settings: Settings, stop: threading.Event) -> None:
    """Tick until `stop` is set; an error is logged and the next tick tries again."""
    store = Store(settings.store_url)
    try:
        while not stop.wait(TICK_SECONDS):
            try:
                tick(settings, store, now=time.time())
            except CoralError as error:
                logger.warning("ticker: %s", error)
    finally:
        store.close()


def tick(settings: Settings, store: Store, *, now: float) -> list[str]:
    """Ask for everything that is due, and return what was asked for, for example ``["advance 3"]``."""
    due = [action for project in store.projects() for action in _due_or_nothing(settings, store, project, now)]
    if not due:
        return []
    redis = queue.connect(settings)
    for verb, number in due:
        if verb == "retrain":
            _retrain(settings, store, number)
        elif verb == "advance":
            jobs.request_advance(settings, number, stage=store.round(number).stage, redis=redis)
        elif verb == "tidy":
            jobs.request_tidy(settings, number, redis=redis)
        elif verb == "catch-up":
            jobs.request_catch_up(settings, number, redis=redis)
        elif verb == "settle":
            jobs.request_settle(settings, number, redis=redis)
        else:
            jobs.request_read_back(settings, number, redis=redis)
    return [f"{verb} {number}" for verb, number in due]


def _due_or_nothing(settings: Settings, store: Store, project: Project, now: float) -> list[tuple[str, int]]:
    """Return what is due in a project; what is wrong with one project is no other's harm."""
    try:
        return _due(settings, store, project, now)
    except CoralError as error:
        logger.warning("project %d: %s", project.id, error)
        return []


def _due(settings: Settings, store: Store, project: Project, now: float) -> list[tuple[str, int]]:
    due: list[tuple[str, int]] = []
    active = store.active_round(project.id)
    if active is not None:
        if _abandoned(store, active, now):
            due.append(("advance", active.id))
    elif retraining_is_due(store, settings, project, now):
        due.append(("retrain", project.id))
    elif _tidying_is_due(project, now):
        due.append(("tidy", project.id))
    for round_id, looked_at in store.ledger.rounds_with_open_batches(project.id).items():
        if (active is None or active.id != round_id) and now - looked_at >= settings.batch_poll_s:
            due.append(("settle", round_id))
    if now >= (project.catch_up_after or 0.0) and catch_up_is_possible(store, project) and store.wanted(project.id):
        due.append(("catch-up", project.id))
    if project.active_round is not None and now - (project.reconciled_at or 0.0) >= settings.reconcile_seconds:
        due.append(("read-back", project.id))
    return due


def _tidying_is_due(project: Project, now: float) -> bool:
    """Say whether the counts in the tabs' titles are out of date and people have paused."""
    if project.active_round is None or project.changed_at is None or project.changes == project.tidied_change:
        return False
    return now - project.changed_at >= TIDY_SECONDS


def _abandoned(store: Store, active: Round, now: float) -> bool:
    if active.status is RoundStatus.PAUSED or store.lease_is_held(round_lease(active.id)):
        return False
    if now < waits_until(active):
        return False
    return now - active.updated_at >= (SILENT_SECONDS if active.error is None else RETRY_SECONDS)


def retraining_is_due(store: Store, settings: Settings, project: Project, now: float) -> bool:
    """Say whether enough human labels changed since the last training, or some did and it has been quiet since."""
    if project.active_round is None or project.changed_at is None:
        return False
    rounds = store.rounds(project.id)
    # A stale round has not learned, a cancelled one was a person's decision, a failed one is tried again later.
    learned = (RoundStatus.DONE, RoundStatus.CANCELLED)
    recent = (r for r in rounds if r.status is RoundStatus.FAILED and now - r.updated_at < FAILED_SECONDS)
    seen = [r for r in rounds if r.status in learned] + list(recent)
    waiting = project.changes - max((r.through_change for r in seen), default=0)
    own = jobs.settings_for(settings, project)
    return waiting >= own.retrain_after or (waiting > 0 and now - project.changed_at >= own.retrain_seconds)


def _retrain(settings: Settings, store: Store, project_id: int) -> None:
    try:
        jobs.request_round(settings, store, project_id, retrain=True)
    except ConflictError as other:
        logger.info("%s", other)
