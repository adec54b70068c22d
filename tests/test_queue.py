"""The queue against a real redis-server and real forking workers."""

from __future__ import annotations

import base64
import contextlib
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from coral_backend import queue
from coral_backend.exceptions import InputError, QueueUnavailableError
from coral_backend.services.redis_server import RedisServer
from coral_backend.settings import Settings
from tests import queue_worker
from tests.queue_worker import CANARY

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("coral")) as server:
        yield server


@pytest.fixture
def settings(server: RedisServer) -> Settings:
    return Settings.load({}, model_dir=server.data_dir)


@pytest.fixture
def client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    monkeypatch.setattr(queue, "ALLOWED", queue_worker.JOBS)
    client = queue.connect(settings)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def started(server: RedisServer) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a worker in a process of its own; the test's workers are gone after it."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(mode: str, *queues: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.queue_worker", str(server.data_dir), mode, *queues]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def work(started: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., str]:
    """Run a worker until the queues are empty, and return what it logged."""

    def run(*queues: str) -> str:
        return started("burst", *queues).communicate(timeout=120)[0].decode()

    return run


def enqueue(client: redis.Redis, function: str, *args: Any, job_id: str = "j", **options: Any) -> bool:
    return queue.enqueue(client, "events", function, *args, job_id=job_id, timeout=60, **options)


def ran(client: redis.Redis) -> list[str]:
    entries: list[Any] = client.lrange("ran", 0, -1)
    return [entry.decode() for entry in entries]


def status(client: redis.Redis, job_id: str = "j") -> JobStatus:
    return queue.CoralJob.fetch(job_id, connection=client, serializer=JSONSerializer).get_status()


def wait_until(condition: Callable[[], Any]) -> Any:
    """Return the condition's first true value; the suite's timeout ends a wait in vain."""
    while not (value := condition()):
        time.sleep(0.05)
    return value


def everything_in(client: redis.Redis) -> bytes:
    """Return all that Redis holds, unpacked."""
    redis_: Any = client
    found: list[bytes] = []
    for key in redis_.scan_iter():
        kind = redis_.type(key)
        if kind == b"hash":
            found += [part for pair in redis_.hgetall(key).items() for part in pair]
        elif kind == b"stream":
            found += [part for _, fields in redis_.xrange(key) for pair in fields.items() for part in pair]
        elif kind == b"list":
            found += redis_.lrange(key, 0, -1)
        elif kind == b"string":
            found.append(redis_.get(key))
    return b"\n".join(_unpacked(value) for value in found)


def _unpacked(value: bytes) -> bytes:
    """RQ keeps texts compressed, and in streams in base64 besides."""
    for unpack in (zlib.decompress, lambda packed: zlib.decompress(base64.b64decode(packed))):
        with contextlib.suppress(zlib.error, ValueError):
            return unpack(value)
    return value


# --- the ordinary way ------------------------------------------------------------------------------------------------


def test_a_job_runs_and_its_arguments_arrive(client: redis.Redis, work: Callable[..., str]) -> None:
    assert enqueue(client, "note", "hello")
    work()
    assert ran(client) == ["hello"]
    assert status(client) == JobStatus.FINISHED


def test_a_worker_serves_its_queues_in_their_order(client: redis.Redis, work: Callable[..., str]) -> None:
    for name in ("push", "events", "llm"):
        queue.enqueue(client, name, "note", name, job_id=name, timeout=60)
    work("events", "llm", "push")
    assert ran(client) == ["events", "llm", "push"]


def test_a_job_is_not_added_twice_while_it_waits_or_runs(
    client: redis.Redis, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    assert enqueue(client, "hang", "first")
    assert not enqueue(client, "hang", "second")
    started("serve")
    wait_until(lambda: ran(client))
    assert not enqueue(client, "hang", "third")
    assert len(ran(client)) == 1


def test_a_finished_job_does_not_stand_in_the_way(client: redis.Redis, work: Callable[..., str]) -> None:
    for text in ("one", "two"):
        assert enqueue(client, "note", text)
        work()
    assert ran(client) == ["one", "two"]


def test_workers_tells_who_is_there(client: redis.Redis, started: Callable[..., subprocess.Popen[bytes]]) -> None:
    assert queue.workers(client) == []
    enqueue(client, "hang", "x")
    started("serve", "events", "push")
    wait_until(lambda: ran(client))
    (info,) = queue.workers(client, now=datetime.now(UTC) + timedelta(seconds=5))
    assert (info.queues, info.state, info.job_id) == (("events", "push"), "busy", "j")
    assert info.heartbeat_seconds >= 5


# --- what must not run -------------------------------------------------------------------------------------------------


def test_a_function_outside_the_list_cannot_be_enqueued(client: redis.Redis) -> None:
    with pytest.raises(InputError, match=r"'system' is no job. There are: die_once"):
        enqueue(client, "system", "true")


@pytest.mark.parametrize(
    "name", ["os.system", "coral_backend.jobs.main", "coral_backend.jobs.os.system", "coral_backend.queue.note"]
)
def test_a_function_that_somebody_wrote_into_redis_is_refused(
    name: str, client: redis.Redis, work: Callable[..., str], tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    other = Queue("events", connection=client, serializer=JSONSerializer)
    other.enqueue_call(name, args=(f"touch {mark}",), job_id="bad")
    output = work()
    assert not mark.exists()
    assert status(client, "bad") == JobStatus.FAILED
    assert f"asks for '{name}', which no worker of CORAL runs" in output


@pytest.mark.parametrize("field", ["success_callback_name", "failure_callback_name", "stopped_callback_name"])
def test_callbacks_that_somebody_wrote_into_redis_are_not_imported(
    field: str, client: redis.Redis, work: Callable[..., str]
) -> None:
    enqueue(client, "note", "x")
    client.hset("rq:job:j", mapping={field: "this.module.does.not.exist"})
    work()
    assert ran(client) == ["x"]
    assert status(client) == JobStatus.FINISHED


def test_a_pickled_job_is_refused(client: redis.Redis, work: Callable[..., str], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    Queue("events", connection=client).enqueue_call("os.system", args=(f"touch {mark}",), job_id="bad")
    work()
    assert not mark.exists()
    assert status(client, "bad") == JobStatus.FAILED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": "mail"}, "no queue 'mail'. There are: events, llm, train, push"),
        ({"job_id": "a/b"}, r"Job id 'a/b' is not allowed"),
        ({"job_id": ""}, r"Job id '' is not allowed"),
        ({"timeout": 0}, "timeout is 0 s"),
        ({"args": ({"text": "hello"},)}, "argument is a dict"),
        ({"args": ("x" * 201,)}, "of 201 characters; only ids"),
    ],
)
def test_wrong_requests_are_answered(client: redis.Redis, changes: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {"queue": "events", "args": (), "job_id": "j", "timeout": 1} | changes
    args = request.pop("args")
    with pytest.raises(InputError, match=message):
        queue.enqueue(client, request.pop("queue"), "note", *args, **request)
    assert client.dbsize() == 0


# --- what dies -----------------------------------------------------------------------------------------------------------


def test_a_killed_job_runs_again_where_it_may(client: redis.Redis, work: Callable[..., str]) -> None:
    enqueue(client, "die_once", "x", retry=Retry(max=1))
    work()
    assert ran(client) == ["x", "x"]
    assert status(client) == JobStatus.FINISHED


def test_a_killed_job_without_retry_fails_and_can_be_enqueued_again(
    client: redis.Redis, work: Callable[..., str]
) -> None:
    enqueue(client, "die_once", "x")
    work()
    assert status(client) == JobStatus.FAILED
    assert enqueue(client, "die_once", "y")
    work()
    assert ran(client) == ["x", "y"]


def test_a_retry_with_an_interval_needs_no_second_process(client: redis.Redis, work: Callable[..., str]) -> None:
    enqueue(client, "fail_once", "x", retry=Retry(max=1, interval=1))
    work()
    assert status(client) == JobStatus.SCHEDULED
    assert not enqueue(client, "fail_once", "x")  # it waits for its time, so it is under way
    client.zadd("rq:scheduled:events", {"j": time.time() - 1})
    work()
    assert ran(client) == ["x", "x"]


def test_a_job_dies_with_its_killed_worker(
    client: redis.Redis, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    enqueue(client, "hang", "x")
    worker = started("serve")
    horse = int(wait_until(lambda: ran(client))[0].rpartition(" ")[2])
    worker.kill()
    worker.wait()
    wait_until(lambda: _is_gone(horse))

    assert status(client) == JobStatus.STARTED  # nobody told Redis
    assert not enqueue(client, "note", "too early")  # for all one knows the worker is only slow
    entry: Any = client.zrange("rq:wip:events", 0, -1)[0]
    client.zadd("rq:wip:events", {entry: time.time() - 1})  # its last heartbeat expires
    assert enqueue(client, "note", "again")


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"  # killed; nobody has reaped it yet


def test_a_job_that_fell_between_two_lists_does_not_stand_in_the_way(client: redis.Redis) -> None:
    enqueue(client, "note", "x")
    client.lpop("rq:queue:events")  # what a worker does just before it is killed
    assert enqueue(client, "note", "x")


def test_jobs_survive_a_killed_redis(server: RedisServer, client: redis.Redis, work: Callable[..., str]) -> None:
    for number in range(50):
        enqueue(client, "note", number, job_id=f"j{number}")
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.pid not in (None, pid) and server.ping())
    work()
    assert ran(client) == [str(number) for number in range(50)]


# --- secrets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["leak", "leak_in_cause"])
def test_no_secret_of_an_exception_reaches_redis(job: str, client: redis.Redis, work: Callable[..., str]) -> None:
    enqueue(client, job)
    work()
    assert status(client) == JobStatus.FAILED
    kept = everything_in(client)
    assert CANARY.encode() not in kept
    assert (b"RuntimeError" if job == "leak" else b"Label Studio refused the token") in kept


def test_a_known_secret_is_in_no_log(server: RedisServer, client: redis.Redis) -> None:
    program = (
        "import sys; from tests import queue_worker as w; from coral_backend.settings import Settings;"
        "load = Settings.load; Settings.load = lambda e, **o: load({'OPENAI_API_KEY': w.CANARY}, **o);"
        "w.main(*sys.argv[1:])"
    )
    enqueue(client, "leak")
    command = [sys.executable, "-c", program, str(server.data_dir), "burst"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=120)
    assert b"RuntimeError" in output.stderr
    assert CANARY.encode() not in output.stderr + output.stdout


# --- Redis that does not answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://:canary-pw@127.0.0.1:1/0", "unix:///nowhere/redis.sock?password=canary-pw"])
def test_no_answer_is_told_without_the_password(url: str) -> None:
    with pytest.raises(QueueUnavailableError, match=r"does not answer .* Start it") as caught:
        queue.connect(Settings.load({"REDIS_URL": url}))
    assert "canary-pw" not in str(caught.value)


def test_a_wrong_address_is_told_without_it() -> None:
    with pytest.raises(QueueUnavailableError, match=r"Allowed: redis://") as caught:
        queue.connect(Settings.load({"REDIS_URL": "http://:canary-pw@host"}))
    assert "canary-pw" not in str(caught.value)


def test_without_an_address_the_message_says_who_would_write_it(tmp_path: Path) -> None:
    with pytest.raises(QueueUnavailableError, match=r"REDIS_URL is not set, and .*redis\.url cannot be read"):
        queue.connect(Settings.load({}, model_dir=tmp_path))


def test_a_wrong_password_and_a_full_redis_are_told_apart(server: RedisServer, client: redis.Redis) -> None:
    client.config_set("requirepass", "right")
    try:
        with pytest.raises(QueueUnavailableError, match="refuses the user or password"):
            queue.connect(Settings.load({"REDIS_URL": f"{server.url}?password=wrong"}))
    finally:
        client.config_set("requirepass", "")
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(QueueUnavailableError, match="is full"):
            enqueue(client, "note", "x")
    finally:
        client.config_set("maxmemory", "256mb")


def test_a_process_has_one_client(settings: Settings, client: redis.Redis) -> None:
    assert queue.connect(settings) is client


def test_a_worker_for_a_queue_that_does_not_exist_is_refused(settings: Settings) -> None:
    with pytest.raises(InputError, match="cannot serve mail"):
        queue.run_worker(settings, ["mail"])


def test_the_serializer_is_never_pickle(client: redis.Redis) -> None:
    enqueue(client, "note", "x")
    job = Job.fetch("j", connection=client, serializer=JSONSerializer)
    assert job.data == b'["coral_backend.jobs.note", null, ["x"], {}]'


def test_importing_the_queue_configures_no_logging() -> None:
    assert not logging.getLogger("rq.worker").handlers


def test_every_allowed_job_exists_and_is_public() -> None:
    jobs = importlib.import_module(queue.JOBS_MODULE)
    missing = [name for name in queue.ALLOWED if name not in jobs.__all__ or not callable(getattr(jobs, name, None))]
    assert not missing, f"coral_backend.queue.ALLOWED names what coral_backend.jobs lacks: {missing}"
