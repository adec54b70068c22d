"""A worker in a process of its own, which runs the jobs below in the place of ``coral_backend.jobs``.

``python -m tests.queue_worker MODEL_DIR burst|serve QUEUE ...``
"""

from __future__ import annotations

import os
import signal
import sys
import time

from rq import get_current_job

from coral_backend import logs, queue
from coral_backend.exceptions import LabelStudioError
from coral_backend.settings import Settings

CANARY = "canary-7f3a91"

JOBS = frozenset({"note", "die_once", "fail_once", "hang", "leak", "leak_in_cause"})


def _record(text: str) -> int:
    job = get_current_job()
    assert job is not None
    return int(job.connection.rpush("ran", text))


def note(text: str) -> None:
    _record(text)


def hang(text: str) -> None:
    _record(f"{text} in {os.getpid()}")
    time.sleep(600)


def die_once(text: str) -> None:
    if _record(text) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def fail_once(text: str) -> None:
    if _record(text) == 1:
        raise OSError("the first time")


def leak() -> None:
    raise RuntimeError(f"request failed: url=https://host/?x={CANARY} headers={{'Cookie': '{CANARY}'}}")


def leak_in_cause() -> None:
    try:
        leak()
    except RuntimeError as error:
        raise LabelStudioError(
            f"Label Studio refused the token. Authorization: Token {CANARY}0, password={CANARY}"
        ) from error


def main(model_dir: str, mode: str, *queues: str) -> None:
    sys.modules[queue.JOBS_MODULE] = sys.modules[__name__]
    queue.ALLOWED = JOBS
    settings = Settings.load({}, model_dir=model_dir)
    logs.configure(settings)
    queue.run_worker(settings, queues or ("events",), burst=mode == "burst")


if __name__ == "__main__":
    main(*sys.argv[1:])
