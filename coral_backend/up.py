"""What does ``coral up`` run? Redis (ours, unless REDIS_URL names one), the web process and a worker, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import httpx

from coral_backend import queue
from coral_backend.auth import SECRETS_FILE
from coral_backend.exceptions import ConflictError, CoralError
from coral_backend.services.processes import Process, Supervisor, stop_on_signals
from coral_backend.services.redis_server import RedisServer
from coral_backend.settings import Settings

__all__ = ["refuse_taken", "run_all", "start_processes", "web_command"]

ROOT = Path(__file__).resolve().parents[1]
"""Where ``_wsgi.py`` lies, in a checkout as in site-packages."""


def run_all(settings: Settings, host: str, port: int, tell: Callable[[str], None], wait: Callable[[], None]) -> None:
    """Start every part in order, wait, and end all of them.

    Parameters
    ----------
    tell : callable
        Told about each part in one line.
    wait : callable
        Returns, or raises KeyboardInterrupt, when all should end.

    Raises
    ------
    ConflictError
        If something listens on the port already.
    UnavailableError
        If a part does not start; what was started before is ended.
    """
    refuse_taken(host, port)
    stop_on_signals()
    with ExitStack() as stack:
        if settings.redis_url is None:
            redis = RedisServer(settings.model_dir)
            redis.start()
            stack.callback(redis.stop)
        with closing(queue.connect(settings)):
            tell(
                "redis   answers" + ("" if settings.redis_url else f"; its data are in {settings.model_dir / 'redis'}")
            )
        supervisor = stack.enter_context(Supervisor(settings.model_dir / "logs"))
        start_processes(supervisor, settings, host, port, env=os.environ, tell=tell)
        wait()


def start_processes(
    supervisor: Supervisor,
    settings: Settings,
    host: str,
    port: int,
    *,
    env: Mapping[str, str],
    tell: Callable[[str], None],
) -> None:
    """Start the web process and a worker, and return when both are ready.

    Parameters
    ----------
    env : mapping
        The environment that holds `settings`.
    tell : callable
        Told about each in one line.

    Raises
    ------
    UnavailableError
        If one of them does not get ready; the message has the end of its log.
    """
    supervisor.start(_web(host, port, with_our_code(env)))
    tell(f"web     answers at http://{host}:{port}; its log is {supervisor.log_file('web')}")
    place = "CORAL_BASIC_AUTH_PASSWORD" if settings.basic_auth_password else settings.model_dir / SECRETS_FILE
    tell(f"        dashboard: http://{host}:{port}/dashboard, user {settings.basic_auth_user}, password in {place}")
    supervisor.start(_worker(settings, with_our_code(env)))
    tell(f"worker  is alive; its log is {supervisor.log_file('worker')}")


def refuse_taken(host: str, port: int) -> None:
    """Raise ``ConflictError`` if nobody can listen there: another process's answers must not be taken for ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConflictError(
            f"Nothing can listen on {host}:{port} ({error.strerror}). Stop what is there, or take another port: --port."
        ) from None


def web_command(host: str, port: int) -> list[str]:
    """Return the command of the web process."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    config = "python:coral_backend.gunicorn_conf"
    return [sys.executable, "-m", "gunicorn", "--config", config, "--bind", address, "_wsgi:app"]


def with_our_code(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` so that a child process finds this very code, wherever it is started."""
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))}


def _web(host: str, port: int, env: Mapping[str, str]) -> Process:
    asked = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - recognised, not bound
    url = f"http://{asked}:{port}/health"
    return Process(name="web", command=web_command(host, port), env=env, ready=lambda: _answers(url))


def _worker(settings: Settings, env: Mapping[str, str]) -> Process:
    command = [sys.executable, "-m", "coral_backend.cli", "worker"]
    return Process(name="worker", command=command, env=env, ready=lambda: _has_worker(settings), grace_seconds=20.0)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _has_worker(settings: Settings) -> bool:
    try:
        with closing(queue.connect(settings)) as client:
            return bool(queue.workers(client))
    except CoralError:
        return False
