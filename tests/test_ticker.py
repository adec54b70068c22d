"""Does what must happen unasked happen, once, and only when it is due?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coral_backend import queue, ticker
from coral_backend.rounds import round_lease
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import HumanLabel, LabelSpace, Project, RoundStatus, Sample

NOW = 1_000_000.0
SPACE = LabelSpace("Choices", "label", "text", "text", ("a", "b"))


class Asked(list[tuple[str, ...]]):
    """What the ticker put into the queue, instead of a queue."""

    def enqueue(self, _: Any, queue_name: str, function: str, *args: int, job_id: str, timeout: int) -> bool:
        self.append((queue_name, function, *map(str, args)))
        return True


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()
    monkeypatch.setattr(queue, "connect", lambda _: None)
    monkeypatch.setattr(queue, "enqueue", made.enqueue)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, model_dir=tmp_path, retrain_after=3, retrain_seconds=60.0, reconcile_seconds=300.0)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    opened = Store(settings.store_url, now=lambda: NOW)
    opened.save_project(Project(1, "t", "<View/>", "h", SPACE))
    yield opened
    opened.close()


def finish_a_round(store: Store) -> None:
    begun = store.create_round(1, {})
    lease = store.take_lease(round_lease(begun.id))
    assert lease is not None
    store.finish_round(begun.id, lease, "coral-r1-abc", {})
    store.drop_lease(lease)
    store.mark_reconciled(1)


def correct(store: Store, *annotation_ids: int) -> None:
    labels = [HumanLabel(i, i, "a", 1, "2026-01-01T00:00:00Z") for i in annotation_ids]
    store.put_annotations(1, labels)


def test_nothing_is_due_at_rest(settings: Settings, store: Store, asked: Asked) -> None:
    finish_a_round(store)
    assert ticker.tick(settings, store, now=NOW) == []
    assert asked == []


def test_enough_corrections_start_a_retraining_at_once(settings: Settings, store: Store, asked: Asked) -> None:
    finish_a_round(store)
    correct(store, 1, 2)
    assert ticker.tick(settings, store, now=NOW) == []
    correct(store, 3)
    assert ticker.tick(settings, store, now=NOW) == ["retrain 1"]
    assert store.active_round(1) is not None
    assert asked == [("llm", "advance", "2")]


def test_a_few_start_one_after_a_quiet_while(settings: Settings, store: Store, asked: Asked) -> None:
    finish_a_round(store)
    correct(store, 1)
    assert ticker.tick(settings, store, now=NOW + 59) == ["tidy 1"], "the tabs' counts are out of date"
    store.mark_tidied(1, store.project(1).changes)
    assert ticker.tick(settings, store, now=NOW + 59) == []
    assert ticker.tick(settings, store, now=NOW + 61) == ["retrain 1"]


def test_a_failed_retraining_is_not_repeated_until_more_is_known(
    settings: Settings, store: Store, asked: Asked
) -> None:
    finish_a_round(store)
    correct(store, 1, 2, 3)
    ticker.tick(settings, store, now=NOW)
    active = store.active_round(1)
    assert active is not None
    store.set_round_status(active.id, RoundStatus.FAILED, "one class only")
    assert ticker.tick(settings, store, now=NOW + 100) == ["tidy 1"]
    correct(store, 4, 5, 6)
    assert ticker.tick(settings, store, now=NOW + 100) == ["retrain 1"]


def test_a_failed_retraining_is_tried_again_after_a_long_while(settings: Settings, store: Store, asked: Asked) -> None:
    finish_a_round(store)
    correct(store, 1, 2, 3)
    ticker.tick(settings, store, now=NOW)
    active = store.active_round(1)
    assert active is not None
    store.set_round_status(active.id, RoundStatus.FAILED, "disk full")
    store.mark_reconciled(1)
    assert "retrain 1" not in ticker.tick(settings, store, now=NOW + ticker.FAILED_SECONDS - 1)
    assert "retrain 1" in ticker.tick(settings, store, now=NOW + ticker.FAILED_SECONDS + 1)


def test_what_failed_to_be_labelled_waits(settings: Settings, store: Store, asked: Asked) -> None:
    finish_a_round(store)
    store.put_samples(1, [Sample(1, "x")], wanted=True)
    store.delay_catch_up(1, 60.0, "the key is wrong")
    assert ticker.tick(settings, store, now=NOW + 59) == []
    assert ticker.tick(settings, store, now=NOW + 61) == ["catch-up 1"]
    store.answered(1, [])
    assert ticker.tick(settings, store, now=NOW) == ["catch-up 1"], "a success ends the wait"


def test_a_wrong_option_of_one_project_is_no_harm_to_another(settings: Settings, store: Store, asked: Asked) -> None:
    finish_a_round(store)
    store.save_project(Project(2, "other", "<View/>", "h", SPACE))
    correct(store, 1, 2, 3)
    store.save_project(Project(1, "t", "<View/>", "h", SPACE, options={"nonsense": 1}))
    store.put_samples(2, [Sample(1, "x")], wanted=True)
    assert ticker.tick(settings, store, now=NOW) == ["catch-up 2"]


def test_without_a_first_round_corrections_wait(settings: Settings, store: Store, asked: Asked) -> None:
    correct(store, 1, 2, 3, 4)
    assert ticker.tick(settings, store, now=NOW + 1000) == []


def test_an_abandoned_round_goes_on_and_a_paused_or_held_one_does_not(
    settings: Settings, store: Store, asked: Asked
) -> None:
    begun = store.create_round(1, {})
    assert ticker.tick(settings, store, now=NOW + 5) == [], "its worker may be between two steps"
    assert ticker.tick(settings, store, now=NOW + 11) == [f"advance {begun.id}"]
    lease = store.take_lease(round_lease(begun.id))
    assert lease is not None
    assert ticker.tick(settings, store, now=NOW + 11) == []
    store.drop_lease(lease)
    store.set_round_status(begun.id, RoundStatus.PAUSED, "no quota")
    assert ticker.tick(settings, store, now=NOW + 11) == []


def test_a_round_that_met_an_absent_part_waits_before_its_next_try(
    settings: Settings, store: Store, asked: Asked
) -> None:
    begun = store.create_round(1, {})
    store.set_round_status(begun.id, RoundStatus.RUNNING, "Label Studio does not answer.")
    assert ticker.tick(settings, store, now=NOW + 5) == []
    assert ticker.tick(settings, store, now=NOW + 31) == [f"advance {begun.id}"]


def test_wanted_tasks_and_reading_back(settings: Settings, store: Store, asked: Asked) -> None:
    finish_a_round(store)
    store.put_samples(1, [Sample(1, "x")], wanted=True)
    assert ticker.tick(settings, store, now=NOW + 301) == ["catch-up 1", "read-back 1"]
    assert {function for _, function, _ in asked} == {"catch_up", "read_back"}
