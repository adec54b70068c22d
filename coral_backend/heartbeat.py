"""How does a lease stay ours through a step that reports nothing: a bulk push, a download, a long read-back?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from coral_backend.exceptions import CoralError, LeaseLostError
from coral_backend.store import Lease, Store

logger = logging.getLogger(__name__)

__all__ = ["kept_alive"]

BEAT_SECONDS = 30.0
"""A quarter of a lease's life."""


@contextmanager
def kept_alive(store: Store, lease: Lease, *, seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Give a sign of life for `lease` from a thread, as long as the block runs. A process that dies gives none."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                store.keep_lease(lease)
            except LeaseLostError:
                return  # the next guarded write of the step finds out, too
            except CoralError as error:
                logger.warning("%s: no sign of life could be given: %s", lease.name, error)

    thread = threading.Thread(target=beat, name=f"heartbeat-{lease.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
