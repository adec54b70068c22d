"""Does a project go back to an older round as a whole, alone, and does the next one build on it? And what did a round change?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_backend import corpus_arrays, effects, export, jobs
from coral_backend.dashboard.progress import live
from coral_backend.exceptions import ConflictError, InputError, LabelStudioError, NotFoundError
from coral_backend.labelstudio.predictions import other_version
from coral_backend.rollback import Rollback, roll_back
from coral_backend.rounds import round_lease
from coral_backend.settings import Settings
from coral_backend.status import status_of
from coral_backend.store import browse, figures
from coral_backend.store.review import rollback_lease
from coral_backend.types import Answer, Lease, RoundStatus, Source
from tests.stand_ins import CONFIG, annotation
from tests.test_rounds import World


@pytest.fixture
def world(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, url, monkeypatch)
    yield made
    made.store.close()


def go_back(world: World, name: str) -> Rollback:
    return roll_back(world.store, world.settings, lambda: world.client, 1, name)


def correct(world: World, task_id: int, label: str) -> None:
    world.studio.annotations[task_id] = [annotation(100 + task_id, label)]


def retrained(world: World) -> None:
    """Run round 1, have a person correct task 1, and retrain."""
    world.run()
    correct(world, 1, "good")
    world.run(retrain=True)


def test_an_older_round_serves_again_and_human_labels_stay(world: World) -> None:
    retrained(world)
    first, again = (effects.round_named(world.store, 1, name) for name in ("1", "1.1"))
    assert world.studio.selected == again.model_version
    gone = {first.model_version, other_version(str(first.model_version))}
    world.studio.pushed = {key: row for key, row in world.studio.pushed.items() if key[1] not in gone}
    done = go_back(world, "1")
    assert (done.round, done.before, done.version, done.pushed) == ("1", "1.1", first.model_version, 9)
    assert world.studio.selected == world.store.project(1).model_version == first.model_version
    assert world.store.project(1).active_round == first.id
    assert world.store.human_labels(1)[1].label == "good"
    tokens = [view["data"]["filters"]["items"][0]["value"] for view in world.studio.view_rows.values()]
    assert all(str(first.model_version) in token for token in tokens), "the tabs follow"
    assert [line.name for line in status_of(world.store, 1).rounds if line.serves] == ["1"]
    assert go_back(world, "1.1").pushed == 0, "what is there is not pushed again"
    assert world.store.project(1).active_round == again.id


def test_the_next_round_builds_on_it_and_not_on_what_was_set_aside(world: World) -> None:
    world.run()
    world.run()
    second = effects.round_named(world.store, 1, "2")
    sample = world.store.samples(1, [3])[0]
    lease = world.store.take_lease("t")
    assert isinstance(lease, Lease)
    world.store.put_llm_label(1, 2, sample, Answer("bad"), prompt_version="p2", lease=lease)
    assert world.store.llm_labels(1)[3].label == "bad"
    go_back(world, "1")
    assert world.store.llm_labels(1)[3].label == "good", "what the LLM said in round 2 no longer counts"
    assert world.store.llm_history(1, [3])[3][2][0] == "bad", "it stays as history"
    again = world.run(retrain=True)
    assert (again.name, again.parent_id) == ("1.1", effects.round_named(world.store, 1, "1").id)
    third = world.run()
    assert (third.name, third.parent_id) == ("3", again.id)
    assert world.store.llm_labels(1)[3].label == "good"
    go_back(world, "2")
    assert world.store.llm_labels(1)[3].label == "bad", "it counts again"
    assert [one.name for one in world.store.rounds(1) if one.set_aside] == ["3"]
    assert second.demos == effects.round_named(world.store, 1, "2").demos


def test_without_its_arrays_a_round_serves_with_its_own_demonstrations(world: World) -> None:
    retrained(world)
    first = effects.round_named(world.store, 1, "1")
    (corpus_arrays.round_folder(world.settings, first) / corpus_arrays.ARRAYS_FILE).unlink()
    world.studio.tasks[99] = {"text": "good late film"}
    world.run(retrain=True)
    done = go_back(world, "1")
    assert (done.model_kept, done.new_tasks) == (False, 1)
    assert world.store.wanted(1) == [], "nothing could label it before the next round"
    assert world.run().demos == first.demos


def test_tasks_that_came_later_are_wanted_again(world: World) -> None:
    world.run()
    world.studio.tasks[99] = {"text": "good late film"}
    world.run(retrain=True)
    done = go_back(world, "1")
    assert (done.model_kept, done.new_tasks, world.store.wanted(1)) == (True, 1, [99])


def test_it_never_races_a_round(world: World) -> None:
    retrained(world)
    begun = world.begin(retrain=True)
    with pytest.raises(ConflictError, match=r"Round 1\.2 of project 1 is pending"):
        go_back(world, "1")
    world.store.set_round_status(begun.id, RoundStatus.CANCELLED)
    for name in (rollback_lease(1), "catch-up-1"):
        lease = world.store.take_lease(name)
        assert isinstance(lease, Lease)
        with pytest.raises(ConflictError, match="busy"):
            go_back(world, "1")
        if name == rollback_lease(1):
            with pytest.raises(ConflictError, match="going back"):
                world.begin()
        world.store.drop_lease(lease)
    assert go_back(world, "1").round == "1"
    assert not world.store.lease_is_held(rollback_lease(1))
    assert world.begin().name == "1.3" or world.store.active_round(1) is not None
    assert not world.store.lease_is_held(round_lease(begun.id))


def test_label_studio_away_leaves_the_round_that_serves(world: World) -> None:
    retrained(world)
    serving = world.store.project(1).active_round
    world.studio.down = True
    with pytest.raises(LabelStudioError):
        go_back(world, "1")
    assert world.store.project(1).active_round == serving
    world.studio.down = False
    assert go_back(world, "1").round == "1"


def test_pages_and_exports_leave_out_what_was_set_aside(world: World) -> None:
    world.run()
    world.studio.tasks[99] = {"text": "good late film"}
    world.run()
    second = world.store.llm_history(1, [99])
    assert list(second[99]) == [2]
    go_back(world, "1")
    assert 99 not in world.store.llm_labels(1)
    active = world.store.project(1).active_round
    assert browse.one(world.store, 1, active, 99).llm_label is None
    counts, line = figures.counts(world.store, 1, active), status_of(world.store, 1)
    assert (counts.annotated, counts.abstained) == (line.annotated, line.abstained)
    [row] = [row for row in export.rows(world.store, 1) if row["task_id"] == 99]
    assert (row["llm_label"], row["llm_label_r2"], row["prompt_version"]) == (None, "good", None)


def test_the_newest_round_is_the_last_that_began(world: World) -> None:
    world.run()
    world.run()
    go_back(world, "1")
    begun = world.begin(retrain=True)
    seen = live(world.store, 1)
    assert (seen["round"], seen["active"]) == ("1.1", True), "else its buttons are missing"
    world.runner.run(begun.id)
    assert effects.round_named(world.store, 1).name == "1.1"


@pytest.mark.parametrize("part", ["coral_backend.rollback.review.show", "coral_backend.store.Store.roll_back"])
def test_a_rollback_that_was_cut_off_can_be_repeated(world: World, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    retrained(world)
    serving = world.store.project(1).active_round
    world.studio.tasks[99] = {"text": "good late film"}

    def cut(*_: object, **__: object) -> None:
        raise LabelStudioError("Label Studio does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(part, cut)
        with pytest.raises(LabelStudioError):
            go_back(world, "1")
    assert world.store.project(1).active_round == serving
    first = effects.round_named(world.store, 1, "1")
    assert go_back(world, "1").version == first.model_version
    tokens = [view["data"]["filters"]["items"][0]["value"] for view in world.studio.view_rows.values()]
    assert all(str(first.model_version) in token for token in tokens)


def test_a_task_that_was_edited_since_is_wanted_again(world: World) -> None:
    world.run()
    world.studio.tasks[3] = {"text": "now it is bad"}
    world.run(retrain=True)
    done = go_back(world, "1")
    assert (done.new_tasks, world.store.wanted(1)) == (1, [3])


def test_the_tabs_are_not_put_right_for_the_old_version_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrained(world)
    monkeypatch.setattr(Settings, "load", lambda: world.settings)
    monkeypatch.setattr(jobs, "client_for", lambda _: world.client)
    lease = world.store.take_lease(rollback_lease(1))
    assert isinstance(lease, Lease)
    assert jobs.tidy(1) == []
    world.store.drop_lease(lease)
    assert len(jobs.tidy(1)) > 0


def test_what_cannot_serve_is_told(world: World) -> None:
    retrained(world)
    with pytest.raises(NotFoundError, match=r"no round '7'. Its rounds: 1\.1 \(done\), 1 \(done\)"):
        go_back(world, "7")
    with pytest.raises(ConflictError, match="serves already"):
        go_back(world, "1.1")
    cancelled = world.begin()
    world.store.set_round_status(cancelled.id, RoundStatus.CANCELLED)
    with pytest.raises(ConflictError, match="only one that is done"):
        go_back(world, cancelled.name)
    world.studio.config = CONFIG.replace('"bad"', '"awful"')
    with pytest.raises(ConflictError, match="labels of project 1 were changed"):
        go_back(world, "1")


def test_the_effect_of_a_correction_is_told_and_shown(world: World) -> None:
    retrained(world)
    effect, found = effects.changes(world.store, 1)
    assert (effect.round, effect.before, effect.people, effect.compared) == ("1.1", "1", 1, 8)
    assert effect.labels == effect.flags == effect.tasks == 0, "the stand-in for the SLM learns nothing"
    [change] = found
    assert (change.task_id, change.label, change.by_person, str(change.flag)) == (1, "good", True, "clean")
    lines = {line.name: line for line in status_of(world.store, 1).rounds}
    assert lines["1.1"].effect == effect.to_json()
    assert lines["1"].effect is None


def test_a_change_elsewhere_is_counted_apart_from_its_cause(world: World) -> None:
    retrained(world)
    first, again = (effects.round_named(world.store, 1, name) for name in ("1", "1.1"))
    verdicts = {v.task_id: v for v in world.store.verdicts(1, again.id)}
    from dataclasses import replace

    turned = replace(verdicts[4], label="bad" if verdicts[4].label == "good" else "good", source=Source.SLM)
    world.store.put_verdicts(1, again.id, [turned], None)
    counts = world.store.count_changes(1, first.id, again.id)
    assert counts == {"compared": 8, "people": 1, "labels": 1, "flags": 0, "tasks": 1}
    assert {c.task_id: c.by_person for c in world.store.verdict_changes(1, first.id, again.id)} == {1: True, 4: False}
    assert len(list(world.store.verdict_changes(1, first.id, again.id, limit=1))) == 1


def test_a_first_round_has_nothing_to_compare_with(world: World) -> None:
    with pytest.raises(NotFoundError, match="no finished round"):
        effects.changes(world.store, 1)
    world.run()
    with pytest.raises(InputError, match="nothing to be compared with"):
        effects.changes(world.store, 1)
