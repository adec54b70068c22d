"""Does a lease stay ours through a long silent step, and only so long?"""

from __future__ import annotations

import time
from pathlib import Path

from coral_backend.heartbeat import kept_alive
from coral_backend.store import Store


class Clock:
    """A clock that runs a hundred times as fast."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self) -> float:
        return (time.monotonic() - self.began) * 100


def test_signs_of_life_outlast_the_lease(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}", now=Clock())
    lease = store.take_lease("round-1", seconds=30)
    assert lease is not None
    with kept_alive(store, lease, seconds=0.05):
        time.sleep(2.0)  # 200 of the lease's seconds
        assert store.take_lease("round-1") is None
    time.sleep(1.5)
    assert store.take_lease("round-1") is not None
    store.close()


def test_a_lease_that_is_lost_is_not_taken_back(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")
    first = store.take_lease("round-1")
    assert first is not None
    store.drop_lease(first)
    second = store.take_lease("round-1")
    assert second is not None
    with kept_alive(store, first, seconds=0.01):
        time.sleep(0.1)
    store.keep_lease(second)
    store.close()
