"""Which programs run beside us, are they ready, and how do all of them end? A small supervisor for one machine.

Ends are the point: Ctrl-C stops everything in reverse order, and even ``kill -9`` of this process leaves none behind,
because each child asked the kernel to die with us (``pdeathsig``).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from coral_backend.exceptions import UnavailableError
from coral_backend.logs import redact
from coral_backend.services import pdeathsig

__all__ = ["Process", "Supervisor", "free_port", "stop_on_signals"]

logger = logging.getLogger(__name__)

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
"""Seconds before a dead child is started again; doubles with every death."""

STEADY_SECONDS = 60.0
"""A child that lived this long is healthy again: its next death counts as the first."""

POLL_SECONDS = 0.2

LOG_BYTES = 20 * 2**20
"""A log larger than this is put aside (one generation) before the next start."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of `host` that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def stop_on_signals() -> None:
    """Treat SIGTERM and a closed terminal like Ctrl-C, so that ``with Supervisor(...)`` ends in order. Main thread only."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)


@dataclass(frozen=True, kw_only=True)
class Process:
    """What to run, and how to tell that it is ready.

    Attributes
    ----------
    name : str
        Names the log file and the process in messages.
    command : sequence of str
        Visible to every user of the machine: secrets go into `env` or a file.
    env : mapping or None
        The whole environment; None passes ours on.
    ready : callable or None
        Returns True once the process can be used. None: it is ready when it was started.
    ready_seconds : float
        How long that may take.
    grace_seconds : float
        How long it may take to end after SIGTERM, before SIGKILL.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    ready: Callable[[], bool] | None = None
    ready_seconds: float = 60.0
    grace_seconds: float = 10.0


@dataclass
class _Child:
    process: Process
    popen: subprocess.Popen[bytes]
    started: float
    ready: bool = False  # once it was ready, a death is mended; before, it is an error of `start`
    deaths: int = 0
    due: float | None = None  # when to start it again; None while it runs


class Supervisor:
    """Child processes that start in order, come back when they die, and end together.

    Use it as a context manager. Everything but ``stop`` may be called from any thread: the children are made by one thread of
    the supervisor, because the kernel's death signal follows the thread that forked.

    Parameters
    ----------
    log_dir : Path
        Gets ``<name>.log`` of each process.

    Examples
    --------
    >>> with Supervisor(Path("/tmp")) as supervisor:
    ...     supervisor.start(Process(name="nap", command=["sleep", "60"]))
    ...     supervisor.running("nap")
    True
    """

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = Path(log_dir)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, _Child] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="coral-spawner")
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what one asks it ----------------------------------------------------------------------------------------

    def running(self, name: str) -> bool:
        """Whether the process is alive at this moment."""
        return self.pid(name) is not None

    def pid(self, name: str) -> int | None:
        """Return the process id, or None while it is not running."""
        with self._lock:
            child = self._children.get(name)
            return child.popen.pid if child is not None and child.due is None and _alive(child.popen) else None

    def log_file(self, name: str) -> Path:
        """Where the process's output goes."""
        return self.log_dir / f"{name}.log"

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self, process: Process) -> None:
        """Start `process` and wait until it is ready; from then on it is started again when it dies.

        Raises
        ------
        UnavailableError
            If it ended or was not ready in time; the message has the last lines of its log. It is stopped then.
        """
        with self._lock:
            if process.name in self._children:
                raise ValueError(f"A process {process.name!r} is supervised already; names are given once.")
            child = self._children[process.name] = _Child(process, self._spawn(process), time.monotonic())
        try:
            self._wait_ready(child)
        except BaseException:
            self.remove(process.name)
            raise
        child.ready = True
        self._watch()
        logger.info("%s is ready (pid %d).", process.name, child.popen.pid)

    def remove(self, name: str) -> None:
        """Stop one process and forget it."""
        with self._lock:
            child = self._children.pop(name, None)
        if child is not None:
            _end(child.popen, child.process.grace_seconds)

    def stop(self) -> None:
        """Stop all in the reverse of their start order; an impatient second Ctrl-C kills what is left at once."""
        self._stopping.set()
        try:
            if self._watcher is not None and self._watcher is not threading.current_thread():
                self._watcher.join()
            for name in reversed(list(self._children)):
                self.remove(name)
        finally:
            for child in self._children.values():
                _kill_group(child.popen)
            self._spawner.shutdown()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _spawn(self, process: Process) -> subprocess.Popen[bytes]:
        if self._stopping.is_set():
            raise UnavailableError(f"{process.name} is not started: its supervisor is stopping.")
        return self._spawner.submit(self._fork, process).result()

    def _fork(self, process: Process) -> subprocess.Popen[bytes]:
        log = self.log_file(process.name)
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        wrapper = [sys.executable, "-I", "-S", pdeathsig.__file__, str(os.getpid())]
        try:
            return subprocess.Popen(
                [*wrapper, *process.command],
                env=None if process.env is None else dict(process.env),
                cwd=process.cwd,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C reaches only us: we end them in order
            )
        finally:
            os.close(descriptor)

    def _wait_ready(self, child: _Child) -> None:
        process, deadline = child.process, time.monotonic() + child.process.ready_seconds
        while not (process.ready is None or process.ready()):
            if not _alive(child.popen):
                raise UnavailableError(f"{process.name} ended before it was ready. {self._last_words(process.name)}")
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{process.name} was not ready in {process.ready_seconds:.0f} s. {self._last_words(process.name)}"
                )
            time.sleep(POLL_SECONDS / 4)

    def _last_words(self, name: str) -> str:
        log = self.log_file(name)
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4000))
            lines = stream.read().decode("utf-8", "replace").splitlines()[-5:]
        return redact(f"Its log is {log}; the last lines: " + " | ".join(line.strip() for line in lines))

    def _watch(self) -> None:
        with self._lock:
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._restart_the_dead, name="coral-supervisor", daemon=True)
                self._watcher.start()

    def _restart_the_dead(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            with self._lock:
                for child in [child for child in self._children.values() if child.ready]:
                    self._look_after(child, time.monotonic())

    def _look_after(self, child: _Child, now: float) -> None:
        if child.due is None and not _alive(child.popen):
            child.deaths = 1 if now - child.started > STEADY_SECONDS else child.deaths + 1
            wait = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(child.deaths - 1, 16))
            child.due = now + wait
            _kill_group(child.popen)  # what it left behind may hold its port
            logger.warning(
                "%s ended with status %s; it is started again in %.1f s. Its log is %s.",
                child.process.name, child.popen.returncode, wait, self.log_file(child.process.name),
            )  # fmt: skip
        elif child.due is not None and now >= child.due:
            try:
                child.popen, child.started, child.due = self._spawn(child.process), now, None
            except (OSError, UnavailableError) as error:  # no memory, no descriptors: later perhaps; or we are stopping
                child.due = now + LONGEST_BACKOFF
                logger.error("%s cannot be started: %s", child.process.name, error)


def _alive(popen: subprocess.Popen[bytes]) -> bool:
    """Whether the process runs; does not reap it, so that its group can still be ended by its id."""
    if popen.returncode is not None:
        return False
    with suppress(ChildProcessError):
        return os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


def _end(popen: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """SIGTERM to the process, which ends its own children in its own way; SIGKILL to the group after the grace."""
    try:
        if _alive(popen):
            popen.terminate()
            deadline = time.monotonic() + grace_seconds
            while _alive(popen) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 4)
    finally:
        _kill_group(popen)


def _kill_group(popen: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group, then reap its leader: until then nobody else can get its id."""
    if popen.returncode is None:
        with suppress(ProcessLookupError, PermissionError):  # the latter is macOS's word for a group of zombies
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
