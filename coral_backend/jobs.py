"""Which work does the queue carry? Jobs take ids, never data: the database says what there is to do.

Each job opens the store anew, does one step, and asks for the next. A job that is lost is asked for again by the ticker.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis

from coral_backend import corpus_arrays, queue, review
from coral_backend.batches import settle as settle_batches
from coral_backend.catch_up import catch_up as run_catch_up
from coral_backend.exceptions import (
    ConflictError,
    CoralError,
    LabelStudioError,
    LeaseLostError,
    SettingsError,
)
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.predictions import other_version
from coral_backend.rounds import RoundRunner, settings_for, waits_until
from coral_backend.settings import PROJECT_OPTIONS, Settings
from coral_backend.store import Store
from coral_backend.store.review import rollback_lease
from coral_backend.sync import reconcile
from coral_backend.types import Round, RoundStatus, Stage

logger = logging.getLogger(__name__)

__all__ = [
    "advance",
    "catch_up",
    "client_for",
    "read_back",
    "request_advance",
    "request_catch_up",
    "request_read_back",
    "request_round",
    "request_settle",
    "request_sweep",
    "request_tidy",
    "settings_for",
    "settle",
    "sweep",
    "tidy",
]

QUEUE_OF = {
    Stage.SYNC: "llm",
    Stage.ANNOTATE: "llm",
    Stage.DISTIL: "train",
    Stage.FLAG: "push",
    Stage.PUSH: "push",
}
TIMEOUT_SECONDS = {"events": 3600, "llm": 24 * 3600, "train": 24 * 3600, "push": 3 * 3600}
"""Only for a job that hangs: what is slow reports its progress, and can be paused."""
NICE = 10
"""A round gives way to the web process on the same machine: the webhook's p99 is 22 ms instead of 99 while it trains
(``benchmarks/web.py --load --nice 10``)."""
SWEEP_BATCH = 200
"""Predictions deleted at a time: about a second of Label Studio's time, so that an annotator's "Submit" need not wait."""
REPLIES_KEPT_SECONDS = 90 * 24 * 3600.0
"""How long what an LLM said is kept under its request; a label that was read from it stays."""


def client_for(settings: Settings) -> LabelStudioClient:
    """Return the Label Studio client of these settings.

    Raises
    ------
    SettingsError
        If address or token is not set.
    """
    if not settings.label_studio_url or settings.label_studio_api_key is None:
        missing = "LABEL_STUDIO_URL" if not settings.label_studio_url else "LABEL_STUDIO_API_KEY"
        raise SettingsError(
            f"{missing} is not set. CORAL needs Label Studio's address and a personal access token "
            "(Label Studio: Account & Settings > Personal Access Token)."
        )
    return LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key.get_secret_value())


# --- what the others ask for --------------------------------------------------------------------------------------


def request_round(settings: Settings, store: Store, project_id: int, *, retrain: bool = False) -> Round:
    """Create a round and ask a worker to run it.

    Raises
    ------
    ConflictError
        If the project has an active round.
    QueueUnavailableError
        If Redis does not answer. The round exists all the same, and the ticker will begin it.
    """
    project = store.project(project_id)
    created = store.create_round(project_id, settings_for(settings, project).public(), retrain=retrain)
    request_advance(settings, created.id, stage=created.stage)
    return created


def request_advance(
    settings: Settings, round_id: int, *, stage: Stage = Stage.SYNC, redis: Redis | None = None
) -> None:
    """Ask a worker for the next step of a round; asking twice does no harm."""
    _ask(settings, QUEUE_OF[stage], "advance", round_id, redis=redis)


def request_catch_up(settings: Settings, project_id: int, *, redis: Redis | None = None) -> None:
    """Ask a worker to label the tasks that Label Studio wants to know about."""
    _ask(settings, "llm", "catch_up", project_id, redis=redis)


def request_read_back(settings: Settings, project_id: int, *, redis: Redis | None = None) -> None:
    """Ask a worker to read annotations back from Label Studio."""
    _ask(settings, "events", "read_back", project_id, redis=redis)


def request_settle(settings: Settings, round_id: int, *, redis: Redis | None = None) -> None:
    """Ask a worker to cancel the open batches of a round that is over, and to keep what they brought."""
    _ask(settings, "llm", "settle", round_id, redis=redis)


def request_sweep(settings: Settings, project_id: int, *, redis: Redis | None = None) -> None:
    """Ask a worker to delete old prediction versions from Label Studio."""
    _ask(settings, "events", "sweep", project_id, redis=redis)


def request_tidy(settings: Settings, project_id: int, *, redis: Redis | None = None) -> None:
    """Ask a worker to put the counts of the review tabs right."""
    _ask(settings, "events", "tidy", project_id, redis=redis)


def _ask(settings: Settings, queue_name: str, function: str, number: int, *, redis: Redis | None) -> None:
    connection = redis if redis is not None else queue.connect(settings)
    timeout = TIMEOUT_SECONDS[queue_name]
    queue.enqueue(connection, queue_name, function, number, job_id=f"{function}-{number}", timeout=timeout)


# --- the jobs -----------------------------------------------------------------------------------------------------


def advance(round_id: int) -> str:
    """Do the next step of a round and ask for the one after it; return the round's status."""
    os.nice(NICE)
    with _context() as (settings, store):
        runner = RoundRunner(store, settings, lambda: client_for(settings))
        try:
            current = runner.advance(round_id)
        except (ConflictError, LeaseLostError) as other:
            logger.info("%s", other)
            return "elsewhere"
        except CoralError as error:
            # The round's row has the reason and the ticker its next try; a traceback in the queue would add nothing.
            logger.warning("round %d: %s", round_id, error)
            return str(store.round(round_id).status)
        if current.status in (RoundStatus.PENDING, RoundStatus.RUNNING):
            if waits_until(current) <= time.time():  # else the ticker asks again when it is time: no worker waits
                _go_on(settings, current)
        elif current.status is RoundStatus.DONE:
            request_sweep(settings, current.project_id)
        return str(current.status)


def _go_on(settings: Settings, current: Round) -> None:
    # Another id than this job's own: the queue refuses an id that is still alive, and this job is.
    queue_name = QUEUE_OF[current.stage]
    attempt = f"advance-{current.id}-{int(current.updated_at * 1000)}"
    timeout = TIMEOUT_SECONDS[queue_name]
    queue.enqueue(queue.connect(settings), queue_name, "advance", current.id, job_id=attempt, timeout=timeout)


def catch_up(project_id: int) -> int:
    """Label and push the tasks that Label Studio asked for; return how many were pushed."""
    with _context() as (settings, store):
        try:
            return run_catch_up(store, settings, lambda: client_for(settings), project_id)
        except CoralError as error:
            logger.warning("project %d: new tasks wait: %s", project_id, error)
            return 0


def read_back(project_id: int) -> int:
    """Read annotations back from Label Studio; return how many had changed."""
    with _context() as (settings, store):
        try:
            changed = reconcile(store, client_for(settings), store.project(project_id))
            project = store.project(project_id)
            if project.active_round is not None and not _is_moving(store, project_id):
                review.tidy(store, client_for(settings), project)  # somebody may have closed or changed a tab
            return changed
        except LabelStudioError as error:
            logger.warning("project %d: annotations could not be read back: %s", project_id, error)
            store.mark_reconciled(project_id)  # tried: the next try is due after the usual while, not at the next tick
            return 0


def sweep(project_id: int) -> int:
    """Delete prediction versions older than the newest ``keep_versions`` from Label Studio; return how many.

    Old replies of LLMs go as well.
    """
    with _context() as (settings, store):
        store.replies.forget(REPLIES_KEPT_SECONDS)
        kept = corpus_arrays.rounds_kept(settings, store, project_id)
        corpus_arrays.remove_old_folders(settings, store, project_id)
        keep = {r.model_version for r in kept if r.model_version} | {store.project(project_id).model_version}
        keep |= {other_version(version) for version in keep}
        return client_for(settings).delete_old_predictions(project_id, keep, SWEEP_BATCH)


def settle(round_id: int) -> int:
    """Cancel the open batches of a round that is over and keep what they brought; return how many are open still."""
    with _context() as (settings, store):
        try:
            return settle_round(store, settings, round_id)
        except CoralError as error:
            logger.warning("round %d: its batches could not be settled: %s", round_id, error)
            return sum(batch.open for batch in store.ledger.batches(round_id))


def settle_round(store: Store, settings: Settings, round_id: int) -> int:
    """Do what ``settle`` does; raises ``CoralError`` if the endpoint does not answer."""
    current = store.round(round_id)
    project = store.project(current.project_id)
    # Its own settings: the project may have another annotator by now, and that one knows no batch.
    own = settings.with_options({name: value for name, value in current.settings.items() if name in PROJECT_OPTIONS})
    return settle_batches(store, own, project, current)


def tidy(project_id: int) -> list[str]:
    """Put the review tabs right after people have labelled; return their titles."""
    with _context() as (settings, store):
        if _is_moving(store, project_id):
            return []
        try:
            return list(review.tidy(store, client_for(settings), store.project(project_id)))
        except LabelStudioError as error:
            logger.warning("project %d: the tabs could not be put right: %s", project_id, error)
            store.mark_tidied(
                project_id, store.project(project_id).changes
            )  # tried; the next change or push tries again
            return []


def _is_moving(store: Store, project_id: int) -> bool:
    """Say whether a round or a rollback is under way, which puts the tabs right itself, for another version."""
    return store.active_round(project_id) is not None or store.lease_is_held(rollback_lease(project_id))


@contextmanager
def _context() -> Iterator[tuple[Settings, Store]]:
    settings = Settings.load()
    store = Store(settings.store_url)
    try:
        yield settings, store
    finally:
        store.close()
