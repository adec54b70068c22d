"""Does a round survive what happens to it: stops, absent parts, changed label configs, people who are faster?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest

from coral_backend import annotate, catch_up, corpus_arrays, sync
from coral_backend.exceptions import (
    ConflictError,
    EndpointError,
    InputError,
    LabelStudioError,
    ModelFileError,
    TrainingError,
)
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.llm.base import Question, abstained
from coral_backend.rounds import RoundRunner
from coral_backend.settings import Settings
from coral_backend.status import status_of
from coral_backend.store import Store
from coral_backend.sync import refresh_project
from coral_backend.types import Answer, Flag, HumanLabel, Round, RoundStatus, Sample, Source, Stage
from tests.stand_ins import FakeLabelStudio, QuickModel, annotation, quick_distil

TEXTS = ["good film", "bad film", "very good", "so bad", "good, good", "bad again", "rather good", "not bad but bad"]


class CountingLLM:
    """An annotator that reads the word, errs on task 1, abstains on task 2, and counts what it was asked."""

    name, is_llm = "scripted:test", True

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.demos: list[int] = []
        self.refuse_after: int | None = None

    def annotate(
        self,
        questions: Iterable[Question],
        on_answer: Callable[[Sample, Answer], None],
        check: Callable[[], None],
    ) -> None:
        asked = list(questions)
        self.demos.extend({len(question.prompt.demos) for question in asked} or {0})
        for sample in (question.sample for question in asked):
            check()
            if self.refuse_after is not None and len(self.asked) >= self.refuse_after:
                raise EndpointError("401: the key is wrong. Set OPENAI_API_KEY.")
            self.asked.append(sample.task_id)
            label = "good" if "good" in sample.text else "bad"
            if sample.task_id == 1:
                label = "bad"
            answer = Answer(None, "?", reason="no label in it") if sample.task_id == 2 else Answer(label, label)
            on_answer(sample, abstained(sample, self.name) or answer)


class World:
    """A store, a Label Studio in memory, an annotator, and the runner between them."""

    def __init__(self, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings.load({"DATABASE_URL": url}, model_dir=folder, n_demos=2, annotate_chunk=3)
        self.store = Store(self.settings.store_url)
        self.studio = FakeLabelStudio({i + 1: {"text": text} for i, text in enumerate(TEXTS)})
        self.llm = CountingLLM()
        monkeypatch.setattr("coral_backend.slm.engine.distil", quick_distil)
        monkeypatch.setattr(annotate, "make_annotator", lambda *_: self.llm)
        refresh_project(self.store, self.client, 1)

    @property
    def client(self) -> LabelStudioClient:
        return cast("LabelStudioClient", self.studio)

    @property
    def runner(self) -> RoundRunner:
        return RoundRunner(self.store, self.settings, lambda: self.client)

    def begin(self, *, retrain: bool = False) -> Round:
        return self.store.create_round(1, self.settings.public(), retrain=retrain)

    def run(self, *, retrain: bool = False) -> Round:
        return self.runner.run(self.begin(retrain=retrain).id)


@pytest.fixture
def world(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, url, monkeypatch)
    yield made
    made.store.close()


def test_a_round_labels_flags_and_pushes(world: World) -> None:
    done = world.run()
    assert done.status is RoundStatus.DONE
    assert sorted(world.llm.asked) == list(range(1, 9)), "each text is asked about once, demonstrations included"
    assert (done.metrics["annotated"], done.metrics["abstained"]) == (7, 1)
    assert done.metrics["pushed"]["created"] == 9, "one for each task, and the SLM's own where it differs"
    assert world.studio.selected == done.model_version == world.store.project(1).model_version
    verdicts = {v.task_id: v for v in world.store.verdicts(1, done.id)}
    assert verdicts[1].flag is not Flag.CLEAN, "the LLM's error is flagged"
    assert verdicts[2].prediction_label == "bad", "where the LLM abstained the SLM pre-fills"
    assert verdicts[3].flag is Flag.CLEAN
    assert {t for (t, version) in world.studio.pushed if version == done.model_version} == set(range(1, 9))
    assert set(done.metrics["seconds"]) == {"sync", "annotate", "distil", "flag", "push"}
    assert len(world.studio.view_rows) == 3


def test_self_labelled_demonstrations_are_chosen_once_and_kept(world: World) -> None:
    done = world.run()
    assert len(done.demos) == 2 or (len(done.demos) == 1 and 2 in world.llm.asked[:2])
    assert world.llm.demos[0] == 0, "the samples that become demonstrations are asked about without any"
    assert set(world.llm.demos[1:]) == {len(done.demos)}


def test_the_second_round_asks_only_about_what_is_neither_clean_nor_human(world: World) -> None:
    first = world.run()
    flags = {v.task_id: v.flag for v in world.store.verdicts(1, first.id)}
    doubtful = {t for t, flag in flags.items() if flag is not Flag.CLEAN}
    world.studio.annotations = {1: [annotation(10, "good")]}
    world.llm.asked.clear()
    second = world.run()
    assert second.name == "2"
    assert set(world.llm.asked) == doubtful - {1}
    assert len(second.demos) == 2, "distilled selection"
    verdicts = {v.task_id: v for v in world.store.verdicts(1, second.id)}
    assert (verdicts[1].label, verdicts[1].source) == ("good", Source.HUMAN)
    assert second.model_version != first.model_version


def test_only_a_retraining_looks_at_what_the_serving_round_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path | None] = []
    monkeypatch.setattr("coral_backend.kept_views.earlier_of", lambda folder, *_: looked.append(folder))
    first, again = world.run(), world.run(retrain=True)
    third, fourth = world.run(retrain=True), world.run()
    folders = [corpus_arrays.round_folder(world.settings, one) for one in (first, again, third, fourth)]
    assert looked == [None, folders[0], folders[1], None]
    assert again.metrics["tier"] == "full"


def test_a_retraining_asks_nobody_and_learns_from_people(world: World) -> None:
    world.run()
    world.studio.annotations = {1: [annotation(10, "good")]}
    world.llm.asked.clear()
    again = world.run(retrain=True)
    assert (again.name, world.llm.asked) == ("1.1", [])
    assert again.metrics["human_labels"] == 1
    assert again.through_change == world.store.project(1).changes == 1
    assert again.metrics["agreement"] == {"n": 1, "llm": 0.0, "slm": 1.0}


def test_the_same_labels_give_the_same_version_digest(world: World) -> None:
    first, again = world.run(), world.run(retrain=True)
    assert str(first.model_version).split("-")[2] == str(again.model_version).split("-")[2]


def test_killed_between_two_chunks_it_goes_on_without_asking_twice(world: World) -> None:
    begun = world.begin()
    world.runner.advance(begun.id)  # sync
    world.runner.advance(begun.id)  # the first chunk
    asked = len(world.llm.asked)
    assert 0 < asked < 8
    world.runner.run(begun.id)  # another process
    assert sorted(world.llm.asked) == list(range(1, 9))


def test_a_refusing_endpoint_pauses_the_round_and_keeps_the_answers(world: World) -> None:
    world.llm.refuse_after = 4
    begun = world.begin()
    with pytest.raises(EndpointError):
        world.runner.run(begun.id)
    paused = world.store.round(begun.id)
    assert (paused.status, paused.stage) == (RoundStatus.PAUSED, Stage.ANNOTATE)
    assert "OPENAI_API_KEY" in str(paused.error)
    assert len(world.store.llm_labels(1)) == 4
    world.llm.refuse_after = None
    world.store.set_round_status(begun.id, RoundStatus.PENDING)
    assert world.runner.run(begun.id).status is RoundStatus.DONE
    assert sorted(world.llm.asked) == list(range(1, 9))


def test_label_studio_away_leaves_a_round_that_can_go_on(world: World) -> None:
    begun = world.begin()
    while world.store.round(begun.id).stage is not Stage.PUSH:
        world.runner.advance(begun.id)
    world.studio.down = True
    with pytest.raises(LabelStudioError):
        world.runner.run(begun.id)
    waiting = world.store.round(begun.id)
    assert (waiting.status, waiting.stage) == (RoundStatus.RUNNING, Stage.PUSH)
    assert waiting.progress["setbacks"] == 1
    world.studio.down = False
    assert world.runner.run(begun.id).metrics["pushed"]["created"] == 9


def test_a_push_whose_answer_was_lost_creates_nothing_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = world.begin()
    while world.store.round(begun.id).stage is not Stage.PUSH:
        world.runner.advance(begun.id)
    real, calls = world.studio.select_version, []

    def lose_the_answer(project_id: int, version: str) -> None:
        calls.append(version)
        if len(calls) == 1:
            raise LabelStudioError("The connection was lost.")
        real(project_id, version)

    monkeypatch.setattr(world.studio, "select_version", lose_the_answer)
    with pytest.raises(LabelStudioError):
        world.runner.run(begun.id)
    done = world.runner.run(begun.id)
    assert calls[0] == calls[1] == done.model_version
    assert len(world.studio.pushed) == 9


def test_a_label_renamed_under_way_makes_the_round_stale(world: World) -> None:
    begun = world.begin()
    while world.store.round(begun.id).stage is not Stage.PUSH:
        world.runner.advance(begun.id)
    world.studio.config = world.studio.config.replace("good", "great")
    over = world.runner.run(begun.id)
    assert over.status is RoundStatus.STALE
    assert "label config was changed" in str(over.error)
    assert world.studio.pushed == {}
    world.llm.asked.clear()
    fresh = world.begin()
    assert fresh.number == 2
    world.runner.advance(fresh.id)
    assert world.store.project(1).label_space.labels == ("bad", "great")


def test_a_paused_round_stops_at_its_next_step(world: World) -> None:
    begun = world.begin()
    world.runner.advance(begun.id)
    world.store.set_round_status(begun.id, RoundStatus.PAUSED, "somebody asked")
    assert world.runner.run(begun.id).status is RoundStatus.PAUSED
    assert world.llm.asked == []


def test_an_empty_project_and_one_without_texts_say_so(world: World) -> None:
    world.studio.tasks = {}
    with pytest.raises(InputError, match="has no tasks"):
        world.run()
    world.studio.tasks = {1: {"content": "x"}, 2: {"text": None}}
    begun = world.begin()
    with pytest.raises(InputError, match=r"None of the 2 tasks .* 'text'"):
        world.runner.run(begun.id)
    assert world.store.round(begun.id).status is RoundStatus.FAILED


def test_one_unreadable_task_does_not_stop_the_others(world: World) -> None:
    world.studio.tasks[99] = {"text": {"nested": True}}
    done = world.run()
    verdict = next(v for v in world.store.verdicts(1, done.id) if v.task_id == 99)
    assert (verdict.label, verdict.flag, verdict.prediction_label) == (None, Flag.NOISY, None)
    assert "it must be a text" in str(world.store.llm_labels(1)[99].reason)


def test_a_task_deleted_in_label_studio_leaves(world: World) -> None:
    world.run()
    del world.studio.tasks[8]
    again = world.run(retrain=True)
    assert {v.task_id for v in world.store.verdicts(1, again.id)} == set(range(1, 8))


def test_annotations_deleted_unseen_are_found_missing(world: World) -> None:
    world.studio.annotations = {1: [annotation(10, "good")]}
    world.run()
    assert set(world.store.human_labels(1)) == {1}
    world.studio.annotations = {}
    world.run(retrain=True)
    assert world.store.human_labels(1) == {}


def test_lost_arrays_cost_a_training_not_the_round(world: World) -> None:
    begun = world.begin()
    while world.store.round(begun.id).stage is not Stage.FLAG:
        world.runner.advance(begun.id)
    for file in world.settings.model_dir.rglob("arrays.safetensors"):
        file.unlink()
    assert world.runner.run(begun.id).status is RoundStatus.DONE


def test_an_annotation_that_comes_while_reading_back_is_not_taken_for_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run()
    real = world.studio.annotated_tasks

    def with_a_webhook_meanwhile(project_id: int, updated_after: str | None = None) -> Iterator[dict[str, object]]:
        yield from real(project_id)
        world.store.put_annotations(1, [HumanLabel(77, 3, "bad", 1, "2026-01-01T10:00:00Z")])

    monkeypatch.setattr(world.studio, "annotated_tasks", with_a_webhook_meanwhile)
    sync.reconcile(world.store, world.client, world.store.project(1))
    assert world.store.human_labels(1)[3].label == "bad"


def test_an_annotation_missing_in_one_answer_is_asked_for_before_it_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.studio.annotations = {1: [annotation(10, "good")]}
    world.run()
    monkeypatch.setattr(world.studio, "annotated_tasks", lambda *_: iter(()))
    sync.reconcile(world.store, world.client, world.store.project(1))
    assert set(world.store.human_labels(1)) == {1}


def test_a_human_labelled_task_is_never_sent_to_the_llm_not_even_as_demonstration(world: World) -> None:
    world.studio.annotations = {i: [annotation(i, "good")] for i in range(1, 8)}
    done = world.run()
    assert world.llm.asked == [8]
    assert all(demo.label == "good" for demo in done.demos if demo.text != TEXTS[7])


def test_a_wanted_task_that_the_round_judged_is_not_judged_again(world: World) -> None:
    world.runner.advance(world.begin().id)
    world.store.put_samples(1, [Sample(1, TEXTS[0])], wanted=True)
    active = world.store.active_round(1)
    assert active is not None
    world.runner.run(active.id)
    assert world.store.wanted(1) == []


def test_an_edited_text_is_judged_anew_and_its_old_prediction_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = world.run()
    monkeypatch.setattr(annotate, "make_annotator", lambda *_: world.llm)
    monkeypatch.setattr("coral_backend.slm.engine.Model", QuickModel)
    edited = Sample(4, "very good indeed")
    world.studio.tasks[4] = {"text": edited.text}
    world.store.put_samples(1, [edited], wanted=True)
    assert catch_up.catch_up(world.store, world.settings, lambda: world.client, 1) == 1
    [verdict] = world.store.verdicts(1, done.id, [4])
    assert (verdict.llm_label, verdict.content_hash) == ("good", edited.content_hash)
    result, _ = world.studio.pushed[4, str(done.model_version)]
    assert result[0]["value"]["choices"] == ["good"]
    assert world.store.wanted(1) == []


def test_lost_arrays_make_new_tasks_wait_instead_of_forgetting_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run()
    for file in world.settings.model_dir.rglob("arrays.safetensors"):
        file.unlink()
    world.llm.asked.clear()
    world.store.put_samples(1, [Sample(50, "new and good")], wanted=True)
    monkeypatch.setattr(annotate, "make_annotator", lambda *_: world.llm)
    with pytest.raises(ModelFileError, match="arrays of round 1 are missing"):
        catch_up.catch_up(world.store, world.settings, lambda: world.client, 1)
    assert world.store.wanted(1) == [50]
    assert "MODEL_DIR" in str(world.store.project(1).catch_up_error)


def test_arrays_that_are_always_missing_end_the_round(world: World) -> None:
    begun = world.begin()

    def run_without_arrays() -> None:
        for _ in range(50):
            if world.store.round(begun.id).stage is Stage.FLAG:
                for file in world.settings.model_dir.rglob("arrays.safetensors"):
                    file.unlink()
            world.runner.advance(begun.id)

    with pytest.raises(TrainingError, match="share one MODEL_DIR"):
        run_without_arrays()
    assert world.store.round(begun.id).status is RoundStatus.FAILED


def test_a_round_cancelled_while_it_pushes_leaves_the_old_version_selected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.run()
    world.studio.annotations = {1: [annotation(10, "good")]}
    begun = world.begin()
    while world.store.round(begun.id).stage is not Stage.PUSH:
        world.runner.advance(begun.id)
    real = world.studio.select_version

    def cancel_then_select(project_id: int, version: str) -> None:
        if world.store.round(begun.id).status is RoundStatus.RUNNING:
            world.store.set_round_status(begun.id, RoundStatus.CANCELLED)
        real(project_id, version)

    monkeypatch.setattr(world.studio, "select_version", cancel_then_select)
    world.runner.run(begun.id)
    assert world.store.round(begun.id).status is RoundStatus.CANCELLED
    assert world.studio.selected == first.model_version == world.store.project(1).model_version


def test_old_folders_go_and_the_serving_one_stays(world: World) -> None:
    kept = [world.run(retrain=bool(i)) for i in range(4)]
    assert corpus_arrays.remove_old_folders(world.settings, world.store, 1) == 2
    left = {path.name for path in (world.settings.model_dir / "projects" / "1").iterdir()}
    assert left == {f"round-{current.id}" for current in kept[2:]}


def test_of_rounds_that_were_set_aside_nothing_is_kept(world: World) -> None:
    _, second, *_ = [world.run() for _ in range(4)]
    lease = world.store.take_lease("rollback-1")
    assert lease is not None
    world.store.roll_back(1, second.id, lease)
    world.store.drop_lease(lease)
    newest = world.run()  # a round of its own: built on the second
    assert [r.id for r in corpus_arrays.rounds_kept(world.settings, world.store, 1)] == [newest.id, second.id]
    corpus_arrays.remove_old_folders(world.settings, world.store, 1)
    left = {path.name for path in (world.settings.model_dir / "projects" / "1").iterdir()}
    assert left == {f"round-{newest.id}", f"round-{second.id}"}, "the two that were set aside are gone, and the first"


@pytest.mark.parametrize("status", [RoundStatus.CANCELLED, RoundStatus.PENDING, RoundStatus.PAUSED])
def test_who_is_a_moment_late_does_not_undo_the_end_of_a_round(
    world: World, monkeypatch: pytest.MonkeyPatch, status: RoundStatus
) -> None:
    begun = world.begin()
    real = Store.round

    def then_it_ends(store: Store, round_id: int) -> Round:
        seen = real(store, round_id)
        monkeypatch.setattr(Store, "round", real)
        world.runner.run(round_id)
        return seen

    monkeypatch.setattr(Store, "round", then_it_ends)
    with pytest.raises(ConflictError, match="is done; only an active round"):
        world.store.set_round_status(begun.id, status)
    assert world.store.round(begun.id).status is RoundStatus.DONE


def test_where_people_find_the_llm_worse_the_slm_goes_first_and_everybody_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the slice "shop" the LLM says the opposite of what it reads; the SLM learns nothing of that, and people agree with it."""
    world.settings = world.settings.model_copy(update={"slice_key": "source", "annotate_chunk": 1000})
    texts = [f"{'good' if i % 3 else 'bad'} thing {i}" for i in range(1, 81)]
    world.studio.tasks = {i: {"text": text, "source": "shop" if i % 2 else "press"} for i, text in enumerate(texts, 1)}

    class Contrary(CountingLLM):
        def annotate(
            self, questions: Iterable[Question], on_answer: Callable[[Sample, Answer], None], check: object
        ) -> None:
            for sample in (question.sample for question in questions):
                good = ("good" in sample.text) == (sample.slice == "press")
                on_answer(sample, Answer("good" if good else "bad", "", annotator="scripted:test"))

    world.llm = Contrary()
    first = world.run()
    assert not any(one["slm_first"] for one in first.metrics["slices"])
    shop = [i for i in world.studio.tasks if i % 2]
    checked = {i: "good" if "good" in texts[i - 1] else "bad" for i in [*shop[:24], *range(2, 60, 2)]}
    world.studio.annotations = {i: [annotation(1000 + i, label)] for i, label in checked.items()}
    again = world.run(retrain=True)
    decided = {one["name"]: one for one in again.metrics["slices"]}
    assert (decided["shop"]["slm_first"], decided["press"]["slm_first"]) == (True, False)
    assert (decided["shop"]["checked"], decided["shop"]["llm_right"], decided["shop"]["slm_right"]) == (24, 0, 24)
    for verdict in world.store.verdicts(1, again.id):
        if verdict.task_id in shop and verdict.task_id not in checked:
            right = "good" if "good" in texts[verdict.task_id - 1] else "bad"
            assert (verdict.label, verdict.prediction_label, verdict.machine_label) == (right, right, right)
            assert (verdict.source, verdict.flag) == (Source.SLM, Flag.INCONSISTENT)
    assert world.studio.tasks[1]["coral_slice"] == "shop · SLM first"
    assert world.studio.tasks[2]["coral_slice"] == "press"
    told = {line.name: line for line in status_of(world.store, 1).slices}
    assert (told["shop"].slm_first, told["press"].slm_first, told["shop"].slm) == (True, False, 1.0)

    world.studio.tasks[81] = {"text": "good thing 81", "source": "shop"}
    world.store.put_samples(1, [Sample(81, "good thing 81", slice="shop")], wanted=True)
    monkeypatch.setattr("coral_backend.slm.engine.Model", QuickModel)
    assert catch_up.catch_up(world.store, world.settings, lambda: world.client, 1) == 1
    [new] = world.store.verdicts(1, again.id, [81])
    assert (new.llm_label, new.prediction_label) == ("bad", "good"), "tasks that come later are routed too"
    assert world.studio.tasks[81]["coral_slice"] == "shop · SLM first"

    world.settings = world.settings.model_copy(update={"slice_key": None})
    last = world.run(retrain=True)
    assert [one["name"] for one in last.metrics["slices"]] == [""], "a changed key holds from the next round on"
    assert last.metrics["slices"][0]["slm_first"], "the whole corpus is one slice then"
    assert world.studio.tasks[1]["coral_slice"] == "SLM first"
