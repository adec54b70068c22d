"""Does the store keep what was drawn, and count by slice what people say of LLM, SLM and verdict?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from coral_backend.store import Store, checks
from coral_backend.types import Flag, HumanLabel, Sample
from tests import filled_store as filled


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    made = filled.fill(Store(url))
    in_slices(made, {1: "en", 2: "en", 3: "mr", 4: "mr", 5: "mr", 6: None})
    yield made
    made.close()


def in_slices(store: Store, names: dict[int, str | None]) -> None:
    samples = {sample.task_id: sample for sample in store.samples(filled.PROJECT)}
    store.put_samples(filled.PROJECT, [replace(samples[task], slice=name) for task, name in names.items()])


def test_a_slice_is_kept_and_no_label_depends_on_it(store: Store) -> None:
    answers = store.llm_labels(filled.PROJECT)
    assert [sample.slice for sample in store.samples(filled.PROJECT)] == ["en", "en", "mr", "mr", "mr", None]
    same = Sample(1, "good film", slice="fr")
    assert store.put_samples(filled.PROJECT, [same]) == 0, "its content is the same"
    assert store.samples(filled.PROJECT, [1]) == [same]
    assert store.llm_labels(filled.PROJECT) == answers


def test_people_are_counted_by_slice(store: Store) -> None:
    round_id = store.project(filled.PROJECT).active_round
    en, mr, none = sorted(checks.found_in_slices(store, filled.PROJECT, round_id), key=lambda one: one.slice or "~")
    assert (en.slice, en.tasks, en.checked, en.llm_right, en.slm_right) == ("en", 2, 1, 0, 0)
    assert (mr.slice, mr.tasks, mr.checked, mr.llm_right, mr.slm_right) == ("mr", 2, 1, 0, 1)
    assert (none.slice, none.tasks, none.checked) == ("", 1, 0)
    before = checks.found_in_slices(store, filled.PROJECT, None)
    assert [(one.slice, one.tasks, one.checked) for one in before] == [("en", 2, 0), ("mr", 2, 0), ("", 1, 0)]


def test_a_drawing_is_kept_added_to_and_follows_the_slices(store: Store) -> None:
    first = checks.draw(store, filled.PROJECT, {4: "mr", 1: "en"})
    assert [(one.task_id, one.place) for one in first] == [(4, 1), (1, 2)]
    more = checks.draw(store, filled.PROJECT, {4: "mr", 1: "en", 2: "en"})
    assert [(one.task_id, one.place) for one in more] == [(2, 3)]
    assert checks.draw(store, filled.PROJECT, {4: "mr"}) == []
    in_slices(store, {1: "fr"})
    assert [one.task_id for one in checks.drawn(store, filled.PROJECT)] == [4, 2], "it was drawn from another slice"
    assert [one.slice for one in checks.draw(store, filled.PROJECT, {1: "fr"})] == ["fr"]
    store.retire_samples(filled.PROJECT, [4])
    assert [one.task_id for one in checks.drawn(store, filled.PROJECT)] == [2, 1]


def test_only_random_tasks_say_how_good_the_machine_is(store: Store) -> None:
    checks.draw(store, filled.PROJECT, {1: "en", 2: "en"})
    filled.finish_round(
        store,
        [
            filled.verdict(1, "pos", Flag.CLEAN, 2, machine_label="pos"),
            filled.verdict(2, "neg", Flag.NOISY, 1, machine_label="neg"),
            filled.verdict(3, "pos", Flag.NOISY, 3, machine_label="pos"),
        ],
        retrain=True,
        version="coral-r1.1-abc",
    )
    store.put_annotations(filled.PROJECT, [HumanLabel(20, 1, "pos", 7, "2026-11-21T12:00:00Z")])
    round_id = store.project(filled.PROJECT).active_round
    found = {one.slice: one for one in checks.found_in_slices(store, filled.PROJECT, round_id)}
    assert (found["en"].drawn, found["en"].drawn_checked, found["en"].machine_right) == (2, 2, 1)
    assert (found["mr"].drawn, found["mr"].drawn_checked) == (0, 0)


def test_two_people_may_draw_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.fill(store := Store(url))
    both_have_read, known = threading.Barrier(2, timeout=30), checks.drawn

    def drawn(*about: Any) -> list[checks.Drawn]:
        found = known(*about)
        both_have_read.wait()
        return found

    monkeypatch.setattr(checks, "drawn", drawn)
    with ThreadPoolExecutor(2) as people:
        drawing = [people.submit(checks.draw, store, filled.PROJECT, {3: "", 1: "", 2: ""}) for _ in range(2)]
        assert drawing[0].result() == drawing[1].result()
    monkeypatch.undo()
    assert [one.task_id for one in checks.drawn(store, filled.PROJECT)] == [3, 1, 2]
    store.close()
