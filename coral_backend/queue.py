"""How does work get to a worker, and what may a worker run? Redis and RQ, with the doors closed.

Redis only says what to do next: a job's arguments are ids, its result is in our database, and a job that got lost is
enqueued again from there. So this module promises little, and that firmly: one job per id at a time, no function outside a
list, no pickle, nothing secret in Redis or in the log.
"""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeAlias, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError
from redis.retry import Retry as RedisRetry
from rq import Queue, Retry, Worker
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.utils import as_text, import_attribute
from rq.worker import BaseWorker

from coral_backend.exceptions import CoralError, InputError, QueueUnavailableError
from coral_backend.logs import describe, redact, secrets_of
from coral_backend.services.pdeathsig import die_with_parent
from coral_backend.services.redis_server import REDIS_URL_FILE
from coral_backend.settings import Settings

__all__ = ["ALLOWED", "QUEUES", "CoralJob", "Retry", "WorkerInfo", "connect", "enqueue", "run_worker", "workers"]

logger = logging.getLogger(__name__)

Argument: TypeAlias = int | str | None
"""What a job may be told: ids. Data stay in the database."""

QUEUES: Final = ("events", "llm", "train", "push")
"""What a person's click caused comes first; one training at a time is a matter of starting one worker for ``train``."""

JOBS_MODULE: Final = "coral_backend.jobs"

ALLOWED: frozenset[str] = frozenset({"advance", "catch_up", "read_back", "settle", "sweep", "tidy"})
"""Names in ``coral_backend.jobs`` that a worker runs. Whoever can write to Redis can ask for these and for nothing else."""

RESULT_SECONDS = 300
FAILURE_SECONDS = 7 * 24 * 3600
"""How long a failed job can be looked at. Its id can be enqueued again at any time."""

WORKER_TTL = 60
MONITORING_SECONDS = 10
MAINTENANCE_SECONDS = 30
"""With RQ's own 420, 30 and 600 seconds, a killed worker's job is found only after seven to ten minutes."""

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0

LOOK_AGAIN_SECONDS = 0.5
"""A worker that listens on several queues holds a job for some milliseconds before Redis shows who has it."""

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_ALIVE = {JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED}


class JobRefusedError(CoralError):
    """Redis holds a job that we do not run."""


class JobFailedError(CoralError):
    """A job failed; the text is what Redis may keep of it."""


# --- the connection ------------------------------------------------------------------------------------------------


_clients: dict[tuple[int, str], redis.Redis] = {}
"""By process and address. RQ keeps a script, and with it the client, for every client that ever enqueued."""


def connect(settings: Settings) -> redis.Redis:
    """Return this process's client of Redis, which answered just now.

    Raises
    ------
    QueueUnavailableError
        If there is no address, nothing answers, or the password is refused. The password is in no message.
    """
    key = (os.getpid(), _url(settings))
    if key not in _clients:
        # Two more tries, then tell: somebody may be waiting for this process's answer.
        _clients[key] = _client(settings, retry=RedisRetry(ExponentialBackoff(cap=0.2, base=0.05), 2))
    return _answers(_clients[key])


def _client(settings: Settings, **options: Any) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            _url(settings), socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS, **options
        )
    except ValueError:  # its text may repeat the URL
        raise QueueUnavailableError(
            "REDIS_URL is not an address of Redis. Allowed: redis://[:password@]host:port/0, rediss://..., "
            "unix:///path/to/socket."
        ) from None


def _answers(client: redis.Redis) -> redis.Redis:
    with _answering(client):
        client.ping()
    return client


def _url(settings: Settings) -> str:
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    path = settings.model_dir / REDIS_URL_FILE
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise QueueUnavailableError(
            f"No Redis is known: REDIS_URL is not set, and {path} cannot be read ({error.strerror}), which a running "
            "`coral demo` or `coral serve` writes. Start one of them, or set REDIS_URL."
        ) from None


def _unavailable(client: redis.Redis, error: RedisError) -> NoReturn:
    where = client.connection_pool.connection_kwargs
    address = where.get("path") or f"{where.get('host')}:{where.get('port')}"
    if isinstance(error, AuthenticationError | NoPermissionError):
        reason, cure = "refuses the user or password", "Check the password in REDIS_URL"
    elif isinstance(error, OutOfMemoryError):
        reason, cure = "is full", "Give it more memory (maxmemory), or empty it: the jobs come back from the database"
    else:
        reason = f"does not answer ({type(error).__name__})"
        cure = "Start it (`coral demo` and `coral serve` start one of their own), or set REDIS_URL to one that runs"
    raise QueueUnavailableError(f"Redis at {address} {reason}. {cure}.") from error


@contextmanager
def _answering(client: redis.Redis) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        _unavailable(client, error)


# --- jobs ----------------------------------------------------------------------------------------------------------


class CoralJob(Job):
    """A job that runs a function of ``coral_backend.jobs`` on our list, and keeps no foreign text of a failure.

    RQ imports and calls whatever name Redis holds. This class refuses all but `ALLOWED`, and the other ways in as well:
    methods of deserialised objects, callbacks, and webhooks.
    """

    @property
    def func(self) -> Any:
        """The function to run.

        Raises
        ------
        JobRefusedError
            If it is not one of ours.
        """
        name, instance = cast("tuple[Any, Any]", (self.func_name, self.instance))  # JSON out of Redis: anything
        if instance is not None or not isinstance(name, str) or not _is_allowed(name):
            raise JobRefusedError(
                f"The job asks for {name!r}, which no worker of CORAL runs. "
                f"Allowed: {', '.join(sorted(ALLOWED))} in {JOBS_MODULE}. Who wrote it into Redis?"
            )
        return import_attribute(name)

    @property
    def success_callback(self) -> None:
        """None; nothing of ours uses callbacks, and their names would be imported unchecked."""

    @property
    def failure_callback(self) -> None:
        """None, as above."""

    @property
    def stopped_callback(self) -> None:
        """None, as above."""

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        """Send none; an address out of Redis must not make us call it."""

    def perform(self) -> Any:
        """Run the function; whatever it raises becomes a ``JobFailedError`` without foreign text.

        RQ writes the traceback, with the texts of all its exceptions, into Redis and into the log.
        """
        try:
            return super().perform()
        except Exception as error:  # noqa: BLE001 - the border of the job: all of them are told the same way
            logger.error("Job %s (%s) failed.\n%s", self.id, self.func_name, redact(traceback.format_exc()))
            raise JobFailedError(describe(error)) from None


def _is_allowed(name: str) -> bool:
    module, _, function = name.rpartition(".")
    return module == JOBS_MODULE and function in ALLOWED


def enqueue(
    client: redis.Redis,
    queue: str,
    func_name: str,
    *args: Argument,
    job_id: str,
    timeout: int,
    retry: Retry | None = None,
) -> bool:
    """Ask a worker to run ``coral_backend.jobs.<func_name>(*args)``, unless the same job is under way already.

    Parameters
    ----------
    queue : str
        One of `QUEUES`.
    *args : int, str or None
        Ids only.
    job_id : str
        What makes two jobs the same. Put the attempt into it where a second attempt is another job.
    timeout : int
        Seconds after which the job is ended.
    retry : Retry, optional
        For jobs that may run twice. An interval is rounded up to the next maintenance of a worker (some 45 s).

    Returns
    -------
    bool
        Whether a job was added; False if one with this id waits or runs. One that ended, failed or was abandoned by a dead
        worker does not stand in the way.

    Raises
    ------
    InputError
        If the queue, function, id or an argument is not allowed.
    QueueUnavailableError
        If Redis does not take it.
    """
    _check(queue, func_name, args, job_id, timeout)
    target = _queue(client, queue)
    with _answering(client):
        for _attempt in range(3):  # somebody else may be clearing away, or adding, the same id
            try:
                target.enqueue_call(
                    f"{JOBS_MODULE}.{func_name}",
                    args=args,
                    job_id=job_id,
                    timeout=timeout,
                    retry=retry,
                    result_ttl=RESULT_SECONDS,
                    failure_ttl=FAILURE_SECONDS,
                    description=f"{func_name}({', '.join(map(str, args))})",
                    unique=True,
                )
            except DuplicateJobError:
                if not _clear_away(client, job_id):
                    return False
            else:
                return True
    return False


def _check(queue: str, func_name: str, args: Sequence[object], job_id: str, timeout: int) -> None:
    if queue not in QUEUES:
        raise InputError(f"There is no queue {queue!r}. There are: {', '.join(QUEUES)}.")
    if func_name not in ALLOWED:
        raise InputError(f"{func_name!r} is no job. There are: {', '.join(sorted(ALLOWED))}.")
    if not _JOB_ID.fullmatch(job_id):
        raise InputError(f"Job id {job_id!r} is not allowed. It takes 1 to 200 letters, digits, - and _.")
    if timeout < 1:
        raise InputError(f"The job's timeout is {timeout} s; it must be at least 1.")
    for value in args:
        if not isinstance(value, int | str | None) or len(str(value)) > 200:
            raise InputError(
                f"A job's argument is a {type(value).__name__} of {len(str(value))} characters; only ids are allowed "
                "(int, str, None; at most 200 characters). Store the data and pass its id."
            )


def _queue(client: redis.Redis, name: str) -> Queue:
    return Queue(name, connection=client, job_class=CoralJob, serializer=JSONSerializer)


def _clear_away(client: redis.Redis, job_id: str) -> bool:
    """Delete the job if nobody will go on with it; False if somebody will."""
    try:
        job = CoralJob.fetch(job_id, connection=client, serializer=JSONSerializer)
    except NoSuchJobError:
        return True
    if job.get_status() in _ALIVE and not _is_abandoned(client, job):
        return False
    job.delete()
    return True


def _is_abandoned(client: redis.Redis, job: Job) -> bool:
    """Whether the worker that had this job is gone without a word."""
    if _has_keeper(client, job):
        return False
    time.sleep(LOOK_AGAIN_SECONDS)
    return job.get_status() in _ALIVE and not _has_keeper(client, job)


def _has_keeper(client: redis.Redis, job: Job) -> bool:
    """Whether the job is in a queue, in the hands of a worker whose heartbeat is fresh, or waits for its time."""
    if job.get_status() in {JobStatus.SCHEDULED, JobStatus.DEFERRED}:
        return True
    queue = _queue(client, job.origin)
    held: list[Any] = client.zrangebyscore(StartedJobRegistry(queue=queue).key, time.time(), "+inf")
    if any(StartedJobRegistry.parse_job_id(as_text(entry)) == job.id for entry in held):
        return True
    lists = (queue.key, IntermediateQueue.get_intermediate_queue_key(queue.key))
    return any(client.lpos(key, job.id) is not None for key in lists)


# --- workers -------------------------------------------------------------------------------------------------------


class CoralWorker(Worker):
    """RQ's forking worker, whose job dies with it, and which needs no second process for retries that wait.

    Forking, because RQ's spawning worker writes the Redis password into a command line, ignores `CoralJob`, and cannot work
    over a unix socket.
    """

    job_class = CoralJob
    secrets: frozenset[str] = frozenset()
    _promoter: RQScheduler | None = None

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Run in the forked child."""
        # Without this, a job outlives its killed worker, and a second copy starts beside it.
        die_with_parent(self.pid or os.getppid())
        super().main_work_horse(job, queue)

    def handle_job_failure(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry | None = None, exc_string: str = ""
    ) -> None:
        """Store the failure, redacted."""
        super().handle_job_failure(job, queue, started_job_registry, redact(exc_string, self.secrets))

    def run_maintenance_tasks(self) -> None:
        """Clean up after dead workers, and put jobs whose waiting time is over into their queues."""
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        if self._promoter is None:
            self._promoter = RQScheduler(
                self.queues, connection=self.connection, serializer=JSONSerializer, logging_level=logging.WARNING
            )
        if self._promoter.acquire_locks():  # type: ignore[no-untyped-call]
            try:
                self._promoter.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]
            finally:
                self._promoter.release_locks()  # type: ignore[no-untyped-call]


def run_worker(settings: Settings, queues: Iterable[str] = QUEUES, *, burst: bool = False) -> bool:
    """Run jobs until SIGTERM or Ctrl-C: the first lets the present job end, a second one ends it. Main thread only.

    Parameters
    ----------
    queues : iterable of str
        Served in this order.
    burst : bool
        Return when the queues are empty.

    Returns
    -------
    bool
        Whether it ran a job.

    Raises
    ------
    InputError
        If a queue does not exist.
    QueueUnavailableError
        If Redis does not answer at the start. Later the worker waits for it, except where it goes away during a job: then
        the worker ends, its supervisor starts it again, and the job is found and repeated.
    """
    names = list(queues)
    if not names or set(names) - set(QUEUES):
        raise InputError(f"A worker cannot serve {', '.join(names) or 'no queue'}. There are: {', '.join(QUEUES)}.")
    # A client of its own: RQ makes it patient, and redis-py's long retries bridge a Redis that starts again.
    client = _answers(_client(settings))
    client.connection_pool.disconnect()  # of the short patience of the first connection
    worker = CoralWorker(
        names,
        connection=client,
        job_class=CoralJob,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL,
        job_monitoring_interval=MONITORING_SECONDS,
        maintenance_interval=MAINTENANCE_SECONDS,
        default_result_ttl=RESULT_SECONDS,
    )
    worker.secrets = secrets_of(settings)
    logger.info("Worker %s serves %s.", worker.name, ", ".join(names))
    return worker.work(burst=burst, logging_level=settings.log_level.upper())


@dataclass(frozen=True)
class WorkerInfo:
    """A worker as Redis knows it.

    Attributes
    ----------
    state : str
        ``idle``, ``busy``, ``started`` or ``suspended``.
    job_id : str or None
        What it works on.
    heartbeat_seconds : float
        Age of its last sign of life. A dead worker disappears after a minute or so.
    """

    name: str
    queues: tuple[str, ...]
    state: str
    job_id: str | None
    heartbeat_seconds: float


def workers(client: redis.Redis, now: datetime | None = None) -> list[WorkerInfo]:
    """Return the workers that gave a sign of life lately; an empty list means that jobs wait for nobody.

    Raises
    ------
    QueueUnavailableError
        If Redis does not answer.
    """
    moment = now or datetime.now(UTC)
    with _answering(client):
        found = CoralWorker.all(connection=client, serializer=JSONSerializer)
        return sorted((_info(worker, moment) for worker in found if worker.last_heartbeat), key=lambda info: info.name)


def _info(worker: BaseWorker, now: datetime) -> WorkerInfo:
    last = worker.last_heartbeat or now
    age = (now - (last if last.tzinfo else last.replace(tzinfo=UTC))).total_seconds()
    return WorkerInfo(
        name=worker.name,
        queues=tuple(worker.queue_names()),
        state=str(worker.get_state()),
        job_id=worker.get_current_job_id(),
        heartbeat_seconds=max(0.0, age),
    )
