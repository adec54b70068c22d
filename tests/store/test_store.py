"""Does the database keep its promises: idempotent writes, fencing, human labels that nothing overwrites?"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coral_backend.exceptions import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    RoundStopped,
    SettingsError,
    StoreUnavailableError,
)
from coral_backend.store import Store, holders
from coral_backend.types import (
    Answer,
    Demo,
    Flag,
    HumanLabel,
    LabelSpace,
    Project,
    RoundStatus,
    Sample,
    Source,
    Stage,
    Verdict,
)

SPACE = LabelSpace("Choices", "label", "text", "text", ("a", "b"), {"a": "first"})
PROJECT = Project(1, "Ünï", "<View/>", "hash", SPACE)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    opened = Store(url, now=clock)
    opened.save_project(PROJECT)
    yield opened
    opened.close()


def human(annotation_id: int, task_id: int, label: str | None, at: str = "2026-01-01T10:00:00Z") -> HumanLabel:
    return HumanLabel(annotation_id, task_id, label, user_id=7, updated_at=at)


class TestProjects:
    def test_comes_back_equal(self, store: Store) -> None:
        assert store.project(1) == PROJECT

    def test_saving_again_keeps_versions_and_counters(self, store: Store) -> None:
        store.put_annotations(1, [human(1, 1, "a")])
        store.save_project(replace(PROJECT, title="new", model_version="coral-r9"))
        saved = store.project(1)
        assert (saved.title, saved.model_version, saved.changes) == ("new", "coral-r0", 1)

    def test_unknown_project_says_which_are_connected(self, store: Store) -> None:
        with pytest.raises(NotFoundError, match=r"Project 5 .*connected: \[1\]"):
            store.project(5)

    def test_survives_a_second_opening(self, store: Store, url: str) -> None:
        again = Store(url)
        assert again.projects() == [PROJECT]
        again.close()


@pytest.mark.parametrize("wrong", ["sqlite://", "mysql://user:hunter2@host/x", "nonsense"])
def test_a_wrong_url_is_refused_without_showing_it(wrong: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Store(wrong)
    assert "hunter2" not in str(caught.value)


def test_a_database_that_cannot_be_opened_says_what_to_look_at(tmp_path: Path) -> None:
    (tmp_path / "coral.sqlite3").mkdir()
    with pytest.raises(StoreUnavailableError, match=r"does not answer \(unable to open database file\)"):
        Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")


class TestSamples:
    def test_only_new_and_changed_ones_count(self, store: Store) -> None:
        samples = [Sample(i, f"text {i}") for i in range(1200)]
        assert store.put_samples(1, samples) == 1200
        assert store.put_samples(1, samples) == 0
        assert store.put_samples(1, [Sample(3, "other")]) == 1
        assert store.samples(1, [3, 4]) == [Sample(3, "other"), Sample(4, "text 4")]

    def test_retired_ones_are_gone_and_may_come_back(self, store: Store) -> None:
        store.put_samples(1, [Sample(1, "x")])
        store.retire_samples(1, [1])
        assert store.samples(1) == []
        store.put_samples(1, [Sample(1, "x")])
        assert store.samples(1) == [Sample(1, "x")]

    def test_wanted_until_answered(self, store: Store) -> None:
        store.put_samples(1, [Sample(1, "x"), Sample(2, "y")])
        store.put_samples(1, [Sample(2, "y")], wanted=True)
        store.put_samples(1, [Sample(2, "y")])
        assert store.wanted(1) == [2]
        store.answered(1, [2])
        assert store.wanted(1) == []

    def test_what_no_database_takes_is_made_storable(self, store: Store) -> None:
        store.put_samples(1, [Sample(1, "nul \x00 surrogate \ud800")])
        assert store.samples(1)[0].text == "nul \ufffd surrogate ?"


class TestLLMLabels:
    def test_the_first_answer_to_the_same_question_stays(self, store: Store) -> None:
        sample = Sample(1, "x")
        store.put_samples(1, [sample])
        for label in ("a", "b"):
            store.put_llm_label(1, 1, sample, Answer(label, label), prompt_version="p")
        assert store.llm_labels(1)[1].label == "a"

    def test_a_changed_text_makes_the_answer_out_of_date(self, store: Store) -> None:
        store.put_samples(1, [Sample(1, "x")])
        store.put_llm_label(1, 1, Sample(1, "x"), Answer("a"), prompt_version="p")
        store.put_samples(1, [Sample(1, "y")])
        assert store.llm_labels(1) == {}
        store.put_llm_label(1, 1, Sample(1, "y"), Answer("b"), prompt_version="p")
        assert store.llm_labels(1)[1].label == "b"

    def test_the_newest_round_counts_and_all_are_kept(self, store: Store) -> None:
        sample = Sample(1, "x")
        store.put_samples(1, [sample])
        store.put_llm_label(1, 1, sample, Answer("a", prompt_tokens=5), prompt_version="p")
        store.put_llm_label(1, 2, sample, Answer(None, reason="no label"), prompt_version="q")
        assert store.llm_labels(1)[1].reason == "no label"
        assert {n: label for n, (label, _) in store.llm_history(1, [1])[1].items()} == {1: "a", 2: None}
        assert store.llm_usage(1)[1] == {"answers": 1, "labels": 1, "prompt_tokens": 5, "completion_tokens": 0}


class TestHumanLabels:
    def test_delivered_ten_times_is_one_change(self, store: Store) -> None:
        changes = [store.put_annotations(1, [human(1, 1, "a")]) for _ in range(10)]
        assert changes == [1] + [0] * 9
        assert store.project(1).changes == 1

    def test_what_pre_filled_the_form_stays_known_and_its_loss_starts_no_retraining(self, store: Store) -> None:
        store.put_annotations(1, [replace(human(1, 1, "a"), prediction_version="coral-r1", prediction_label="b")])
        assert store.put_annotations(1, [human(1, 1, "a", "2026-01-01T12:00:00Z")]) == 0
        assert store.human_labels(1)[1].prediction_version == "coral-r1"
        assert store.put_annotations(1, [human(1, 1, "b", "2026-01-01T13:00:00Z")]) == 1

    def test_the_newer_state_wins_in_any_order(self, store: Store) -> None:
        store.put_annotations(1, [human(1, 1, "b", "2026-01-01T12:00:00Z")])
        store.put_annotations(1, [human(1, 1, "a", "2026-01-01T11:00:00Z")])
        assert store.human_labels(1)[1].label == "b"

    def test_a_late_created_event_does_not_bring_a_deleted_one_back(self, store: Store) -> None:
        store.retire_annotations(1, [4])
        store.put_annotations(1, [human(4, 1, "a")])
        assert store.human_labels(1) == {}
        assert store.annotation_ids(1) == set()

    def test_skipped_and_empty_are_no_label_but_seen(self, store: Store) -> None:
        store.put_annotations(1, [human(1, 1, None), replace(human(2, 2, None), skipped=True)])
        assert store.human_labels(1) == {}
        assert store.annotation_ids(1) == {1, 2}

    def test_of_several_the_ground_truth_counts_else_the_newest(self, store: Store) -> None:
        store.put_annotations(1, [human(1, 1, "a"), human(2, 1, "b", "2026-02-01T10:00:00Z")])
        assert store.human_labels(1)[1].label == "b"
        store.put_annotations(1, [replace(human(3, 1, "a", "2025-01-01T10:00:00Z"), ground_truth=True)])
        assert store.human_labels(1)[1].label == "a"

    def test_five_thousand_in_one_payload(self, store: Store) -> None:
        assert store.put_annotations(1, [human(i, i, "a") for i in range(5000)]) == 5000
        assert len(store.human_labels(1, range(100))) == 100

    def test_the_same_event_is_recorded_once(self, store: Store) -> None:
        assert [store.put_event(1, "ANNOTATION_CREATED", "digest") for _ in range(3)] == [True, False, False]


class TestRounds:
    def test_numbers_and_revisions(self, store: Store) -> None:
        names = []
        for retrain in (False, True, True, False, True):
            created = store.create_round(1, {"seed": 0}, retrain=retrain)
            names.append(created.name)
            store.set_round_status(created.id, RoundStatus.CANCELLED)
        assert names == ["1", "1.1", "1.2", "2", "2.1"]

    def test_two_people_at_once_get_one_round(self, store: Store) -> None:
        outcomes: list[str] = []

        def press() -> None:
            try:
                outcomes.append(store.create_round(1, {}).name)
            except ConflictError as error:
                outcomes.append(str(error))

        threads = [threading.Thread(target=press) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("1") == 1
        assert sum("already has round 1" in text for text in outcomes) == 7

    def test_a_paused_round_stops_its_worker_and_goes_on_later(self, store: Store) -> None:
        created = store.create_round(1, {})
        lease = store.take_lease("round")
        assert lease is not None
        store.update_round(created.id, lease, stage=Stage.ANNOTATE, demos=[Demo("t", "a")])
        store.set_round_status(created.id, RoundStatus.PAUSED, "no quota")
        with pytest.raises(RoundStopped):
            store.update_round(created.id, lease, stage=Stage.DISTIL)
        resumed = store.set_round_status(created.id, RoundStatus.PENDING)
        assert (resumed.stage, resumed.demos, resumed.error) == (Stage.ANNOTATE, (Demo("t", "a"),), None)

    def test_finishing_makes_it_serve(self, store: Store) -> None:
        created = store.create_round(1, {})
        lease = store.take_lease("round")
        assert lease is not None
        store.put_samples(1, [Sample(1, "x"), Sample(2, "y")])
        verdicts = [
            Verdict(1, "a", 0.9, Source.LLM, Flag.CLEAN, rank=2, prediction_label="a", prediction_score=0.9),
            Verdict(2, "b", 0.4, Source.SLM, Flag.NOISY, rank=1, llm_label="a", slm_label="b"),
        ]
        store.put_verdicts(1, created.id, verdicts, lease)
        store.finish_round(created.id, lease, "coral-r1-abc", {"pushed": 2})
        project = store.project(1)
        assert (project.model_version, project.active_round) == ("coral-r1-abc", created.id)
        assert store.verdicts(1, created.id) == verdicts[::-1]
        assert store.active_round(1) is None
        with pytest.raises(ConflictError, match="is done"):
            store.set_round_status(created.id, RoundStatus.PAUSED)

    def test_a_failed_round_waits_for_new_labels(self, store: Store) -> None:
        store.put_annotations(1, [human(1, 1, "a")])
        assert store.create_round(1, {}).through_change == store.project(1).changes

    def test_unknown_round(self, store: Store) -> None:
        with pytest.raises(NotFoundError, match="no round with id 9"):
            store.round(9)


class TestLeases:
    def test_one_holder_at_a_time(self, store: Store) -> None:
        first = store.take_lease("x")
        assert first is not None
        assert store.take_lease("x") is None
        store.drop_lease(first)
        second = store.take_lease("x")
        assert second is not None
        assert second.token == first.token + 1

    def test_a_late_writer_is_refused(self, store: Store, clock: Clock) -> None:
        store.put_samples(1, [Sample(1, "x")])
        old = store.take_lease("round")
        clock.now += 10_000
        new = store.take_lease("round")
        assert old is not None
        assert new is not None
        with pytest.raises(LeaseLostError, match="taken over"):
            store.put_llm_label(1, 1, Sample(1, "x"), Answer("a"), prompt_version="p", lease=old)
        assert store.llm_labels(1) == {}
        store.put_llm_label(1, 1, Sample(1, "x"), Answer("b"), prompt_version="p", lease=new)
        assert store.llm_labels(1)[1].label == "b"

    def test_that_of_a_dead_process_is_free_at_once(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        name = f"{socket.gethostname()}:{child.pid}:{holders._born(child.pid)}"
        monkeypatch.setattr(holders, "this_process", lambda: name)
        assert store.take_lease("x") is not None
        monkeypatch.undo()
        assert store.take_lease("x") is None, "its holder lives"
        child.kill()
        child.communicate()
        assert not store.lease_is_held("x")
        assert store.take_lease("x") is not None

    def test_another_hosts_silence_is_waited_for(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(holders, "this_process", lambda: "elsewhere:1:1")
        assert store.take_lease("x") is not None
        assert store.take_lease("x") is None

    def test_a_sign_of_life_keeps_it(self, store: Store, clock: Clock) -> None:
        lease = store.take_lease("x", seconds=10)
        assert lease is not None
        clock.now += 9
        store.keep_lease(lease)
        clock.now += 9
        assert store.lease_is_held("x")
        assert store.take_lease("x") is None
