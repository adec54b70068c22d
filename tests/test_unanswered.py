"""Does a round ask about the same samples, read a page at a time, as if all of them lay open?"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from coral_backend import unanswered
from coral_backend.store import Store
from coral_backend.types import (
    Answer,
    Flag,
    HumanLabel,
    LabelSpace,
    Project,
    Round,
    RoundStatus,
    Sample,
    Source,
    Stage,
    Verdict,
)
from coral_backend.unanswered import Unanswered

PROJECT = Project(1, "t", "<View/>", "hash", LabelSpace("Choices", "label", "text", "text", ("a", "b")))


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(unanswered, "PAGE", 7)
    opened = Store(url)
    opened.save_project(PROJECT)
    yield opened
    opened.close()


def say(store: Store, number: int, sample: Sample, label: str | None) -> None:
    store.put_llm_label(1, number, sample, Answer(label, annotator="x"), prompt_version="p")


def person(store: Store, task_id: int, label: str | None, *, skipped: bool = False) -> None:
    store.put_annotations(
        1, [HumanLabel(1000 + task_id, task_id, label, None, updated_at="2026-01-01", skipped=skipped)]
    )


def a_round(number: int, revision: int = 0) -> Round:
    return Round(9, 1, number, revision, RoundStatus.RUNNING, Stage.ANNOTATE, "hash")


def served(store: Store, verdicts: list[Verdict]) -> Project:
    """Finish a round with `verdicts`, and return the project that it serves."""
    begun = store.create_round(1, {})
    lease = store.take_lease(f"round-{begun.id}")
    assert lease is not None
    store.put_verdicts(1, begun.id, verdicts, lease)
    store.finish_round(begun.id, lease, "v1", {})
    return store.project(1)


def judged(task_id: int, flag: Flag, label: str | None = "a") -> Verdict:
    return Verdict(task_id=task_id, label=label, score=0.9, source=Source.LLM, flag=flag, rank=task_id)


def looked_up(store: Store, project: Project, current: Round) -> tuple[list[int], int]:
    """Say the same from whole tables, as the paper's refinery words it."""
    allows = project.label_space.allows
    answers, samples, human = store.llm_labels(1), store.samples(1), set(store.human_labels(1))
    done = told = {t for t, a in answers.items() if a.label is None or allows(a.label)}
    total = len(samples)
    if current.number > 1 and not current.revision and project.active_round is not None:
        verdicts = store.verdicts(1, project.active_round)
        clean = {v.task_id for v in verdicts if v.flag is Flag.CLEAN and allows(v.label)}
        done = (told & clean) | set(store.llm_labels(1, round_number=current.number))
        total = sum(s.task_id not in clean | human for s in samples)
    return [s.task_id for s in samples if s.task_id not in done | human], total


def test_a_first_round_asks_for_what_has_no_label_that_fits(store: Store) -> None:
    samples = [Sample(i, f"text {i}") for i in range(1, 31)]
    store.put_samples(1, samples)
    for sample, label in zip(samples, ("a", "b", None, "gone"), strict=False):
        say(store, 1, sample, label)
    say(store, 1, samples[4], "a")
    store.put_samples(1, [Sample(5, "edited")])
    person(store, 6, "a")
    person(store, 7, None, skipped=True)
    store.retire_samples(1, [8])
    asks = Unanswered(store, store.project(1), a_round(1))
    samples_left, left, total = asks.count()
    assert [s.task_id for s in samples_left] == [4, 5, 7, *range(9, 31)]
    assert samples_left[1].text == "edited"
    assert (left, total) == (25, 29)
    assert asks.count(3) == (samples_left[:3], 25, 29)
    assert asks.first(2, after=0) == samples_left[:2]
    assert [s.task_id for s in asks.first(100, after=28)] == [29, 30]


def test_an_empty_project_has_nothing_to_ask(store: Store) -> None:
    assert Unanswered(store, store.project(1), a_round(1)).count() == ([], 0, 0)


def test_a_later_round_asks_again_about_what_is_doubtful_once(store: Store) -> None:
    samples = [Sample(i, f"text {i}") for i in range(1, 8)]
    store.put_samples(1, samples)
    for sample in samples:
        say(store, 1, sample, "a")
    flags = [Flag.CLEAN, Flag.NOISY, Flag.NOISY, Flag.INCONSISTENT, Flag.CLEAN]
    project = served(store, [judged(i + 1, flag, "gone" if i == 4 else "a") for i, flag in enumerate(flags)])
    person(store, 3, "b")
    say(store, 2, samples[3], "gone")
    left = {
        2: [2, 5, 6, 7],  # 1 is clean, 3 a person's, 4 was asked in this round; the label of 5 is no longer there
        3: [2, 4, 5, 6, 7],
    }
    for number, expected in left.items():
        found, _, total = Unanswered(store, project, a_round(number)).count()
        assert [s.task_id for s in found] == expected
        assert total == 5
    assert Unanswered(store, project, a_round(2, revision=1)).count()[0] == [samples[3]], "a retraining fills gaps only"


@pytest.mark.parametrize("seed", range(8))
def test_pages_say_what_whole_tables_say(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    samples = [Sample(i, f"text {i}") for i in sorted(rng.sample(range(1, 200), 60))]
    store.put_samples(1, samples)
    for number in (0, 1, 2, 3):
        for sample in rng.sample(samples, 30):
            say(store, number, sample, rng.choice(["a", "b", None, "gone"]))
    flags = [judged(s.task_id, rng.choice(list(Flag)), rng.choice(["a", "gone"])) for s in rng.sample(samples, 50)]
    project = served(store, flags)
    for sample in rng.sample(samples, 8):
        person(store, sample.task_id, rng.choice(["a", None]))
    store.put_samples(1, [Sample(s.task_id, "edited") for s in rng.sample(samples, 5)])
    store.retire_samples(1, [s.task_id for s in rng.sample(samples, 3)])
    for current in (a_round(1), a_round(2), a_round(3), a_round(4), a_round(3, revision=2)):
        found, left, total = Unanswered(store, project, current).count()
        assert ([s.task_id for s in found], total) == looked_up(store, project, current)
        assert left == len(found)


def test_a_round_that_was_set_aside_does_not_count(store: Store) -> None:
    sample = Sample(1, "text")
    store.put_samples(1, [sample])
    first = served(store, [])
    second = served(store, [])
    assert second.active_round is not None
    assert first.active_round is not None
    say(store, 2, sample, "a")
    current = a_round(3, revision=1)
    assert Unanswered(store, second, current).count()[1] == 0
    lease = store.take_lease("rollback-1")
    assert lease is not None
    store.roll_back(1, first.active_round, lease)
    assert Unanswered(store, store.project(1), current).count()[1] == 1
