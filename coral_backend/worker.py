"""What does ``coral worker`` run? RQ's worker as a child that is started again when it dies, and the ticker beside it.

Two processes, because the worker forks for every job, and a fork beside a thread that holds a database lock can hang.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading

from coral_backend import logs, queue
from coral_backend.services.processes import Process, Supervisor, stop_on_signals
from coral_backend.settings import Settings
from coral_backend.ticker import run_ticker

logger = logging.getLogger(__name__)

__all__ = ["prepare", "run_worker_forever"]

LOADED_ONCE = ("coral_backend.jobs", "coral_backend.llm.openai")
"""Loaded before the first job, since every job is a fork: it would load them again, for one to two seconds. Not torch, which
few jobs need and which takes 200 MB."""


def run_worker_forever(settings: Settings) -> None:
    """Serve all queues until Ctrl-C or SIGTERM; the job that runs then is ended and found again at the next start.

    Raises
    ------
    QueueUnavailableError
        If Redis does not answer at the start.
    """
    logs.configure(settings)
    queue.connect(settings)
    stop_on_signals()
    stop = threading.Event()
    with Supervisor(settings.model_dir / "logs") as supervisor:
        command = [sys.executable, "-m", "coral_backend.worker"]
        supervisor.start(Process(name="rq", command=command, env=dict(os.environ)))
        logger.info("worker: serving %s; its log is %s", ", ".join(queue.QUEUES), supervisor.log_file("rq"))
        try:
            run_ticker(settings, stop)
        except KeyboardInterrupt:
            logger.info("worker: stopping")


def prepare() -> None:
    """Load what every job needs, and keep it out of the garbage collector's way: it goes through all objects again and again."""
    for name in LOADED_ONCE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _serve() -> None:
    prepare()
    settings = Settings.load()
    logs.configure(settings)
    queue.run_worker(settings)


if __name__ == "__main__":
    _serve()
