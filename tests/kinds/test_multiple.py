"""Are sets judged label by label, with what people said as certain, and what came later beside the round?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coral_backend import review
from coral_backend.demos import Verified, choose_demos
from coral_backend.kinds import Work, kind_of
from coral_backend.kinds.base import Judged
from coral_backend.kinds.multiple import ALL_UP_TO, SetOfLabels, tabulate
from coral_backend.labels import read_set, write_set
from coral_backend.labelstudio import columns
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.summary import summary
from coral_backend.types import Answer, Detail, Flag, Floats, HumanLabel, Ints, Sample, Source, Verdict
from tests import filled_sets as sets
from tests import filled_store as filled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")
    yield made
    made.close()


@pytest.fixture
def work(store: Store, tmp_path: Path) -> Work:
    sets.fill(store, tmp_path)
    return Work(store, store.project(1), Settings.load({}, model_dir=tmp_path), tmp_path)


def by_task(judged: Judged | Sequence[Verdict] | None) -> dict[int, Verdict]:
    assert judged is not None
    return {one.task_id: one for one in (judged.verdicts if isinstance(judged, Judged) else judged)}


def test_each_label_has_a_verdict_and_the_task_has_theirs(work: Work) -> None:
    assert isinstance(kind_of(work.project.label_space), SetOfLabels)
    found = by_task(SetOfLabels().judge(work))
    first = found[1]
    assert (first.label, first.llm_label, first.slm_label) == ('["sports"]',) * 3
    assert (first.flag, first.source) == (Flag.CLEAN, Source.LLM)
    assert [one.name for one in first.details] == list(sets.LABELS)
    assert [one.label for one in first.details] == ["yes", "no", "no", "no"]
    assert first.score == pytest.approx(np.prod([one.score or 0 for one in first.details]))
    assert first.slm_score == pytest.approx(0.95 * 0.98**3)
    assert first.loss == pytest.approx(-np.log(0.95 * 0.98**3))
    abstained = found[5]
    assert (abstained.llm_label, abstained.label, abstained.prediction_label) == (None, '["sports"]', '["sports"]')
    assert (abstained.flag, abstained.source, abstained.loss) == (Flag.NOISY, Source.SLM, None)
    assert [one.llm_label for one in abstained.details] == [None] * 4
    assert {one.rank for one in found.values()} == set(range(1, 7))
    doubted = found[6]
    assert [(one.name, one.flag) for one in doubted.details if one.flag is not Flag.CLEAN] == [
        ("=1+1", Flag.INCONSISTENT)
    ]
    assert doubted.flag is Flag.INCONSISTENT
    assert doubted.rank < first.rank


MACHINES = {2: ("sports", "a, b"), 3: (), 4: ("a, b",)}


def test_people_are_certain_also_of_the_empty_set(work: Work) -> None:
    found = by_task(SetOfLabels().judge(work))
    for task_id, labels in sets.PEOPLE.items():
        one = found[task_id]
        assert (one.label, one.source, one.flag, one.score) == (sets.said(labels), Source.HUMAN, Flag.CLEAN, 1.0)
        assert one.rank > 3
        assert one.machine_label == sets.said(MACHINES[task_id]), "what would be said without them is told, too"
    assert found[4].llm_label == '["a, b"]'
    told = summary(work.store, work.project, list(found.values()))["agreement"]
    assert (told["n"], told["llm"], told["slm"]) == (3, pytest.approx(1 / 3, abs=1e-3), pytest.approx(2 / 3, abs=1e-3))
    assert told["llm_f1"] == pytest.approx(2 * 2 / 6, abs=1e-3)
    assert told["slm_f1"] == pytest.approx(2 * 3 / 7, abs=1e-3)


def test_sets_with_labels_that_are_gone_are_none(store: Store) -> None:
    space = sets.SPACE
    samples = [Sample(i, f"text {i}") for i in (1, 2, 3)]
    answers = {1: Answer('["sports", "gone"]'), 2: Answer("sports"), 3: Answer("[]", confidence=0.5)}
    human = {1: HumanLabel(1, 1, '["gone"]', 7, "x"), 2: HumanLabel(2, 2, '["a, b"]', 7, "x")}
    table = tabulate(space, samples, answers, human)
    assert table.llm.tolist() == [[-1] * 4, [-1] * 4, [0] * 4]
    assert table.human.tolist() == [[-1] * 4, [0, 1, 0, 0], [-1] * 4]
    assert np.isnan(table.llm_confidence[:2]).all()
    bound = tabulate(replace(space, required=True), samples, answers, {})
    assert bound.llm.tolist() == [[-1] * 4] * 3


def test_of_many_labels_those_are_kept_that_anybody_names_or_that_are_doubtful(store: Store, tmp_path: Path) -> None:
    labels = tuple(f"l{i}" for i in range(ALL_UP_TO + 5))
    made = sets.project(store, replace(sets.SPACE, labels=labels))
    filled.put_sample(store, 1, "text", write_set(["l3"], labels))
    probs = np.full((1, len(labels)), 0.01)
    probs[0, [3, 7, 9]] = 0.95, 0.8, 0.4
    sets.put_arrays(tmp_path, probs)
    [one] = by_task(SetOfLabels().judge(Work(store, made, Settings.load({}, model_dir=tmp_path), tmp_path))).values()
    assert {"l3", "l7"} <= {part.name for part in one.details} < set(labels)


def test_without_arrays_or_with_those_of_other_labels_nothing_is_judged(work: Work) -> None:
    other = replace(work, project=replace(work.project, label_space=replace(sets.SPACE, labels=sets.LABELS[:3])))
    assert SetOfLabels().judge(other) is None
    (work.folder / "arrays.safetensors").unlink()
    assert SetOfLabels().judge(work) is None
    assert SetOfLabels().judge_new(work, [Sample(9, "late")]) is None


def test_tasks_that_come_later_are_judged_beside_the_others(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick:
        @classmethod
        def load(cls, _: Path) -> Quick:
            return cls()

        def predict(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
            return np.tile([0.9, 0.1, 0.1, 0.1], (len(texts), 1)), np.zeros((len(texts), 3), dtype=np.float32)

        def p_clean(self, probs: Floats, answers: Ints) -> Floats:
            return np.where(answers < 0, np.nan, 0.8)

    monkeypatch.setattr("coral_backend.slm.set_model.SetModel", Quick)
    late = filled.put_sample(work.store, 9, "late", '["sports", "a, b"]')
    found = by_task(SetOfLabels().judge_new(work, [late]))
    assert len(found) == 7
    assert found[9].llm_label == '["sports", "a, b"]'
    assert {one.name: one.flag for one in found[9].details}["a, b"] is Flag.INCONSISTENT
    again = by_task(SetOfLabels().judge(work))
    assert again[9] == found[9]


def test_columns_and_hint_name_the_doubtful_labels() -> None:
    parts = (
        Detail("sports", "no", 0.59, Flag.NOISY),
        Detail("a*b", "yes", 0.3, Flag.INCONSISTENT),
        Detail("sure", "yes", 0.99, Flag.CLEAN),
    )
    one = Verdict(
        1, '["a*b", "sure"]', 0.2, Source.LLM, Flag.NOISY, 1, llm_label='["a*b", "sure"]', slm_label="[]", slm_score=0.4, details=parts
    )  # fmt: skip
    space = replace(sets.SPACE, labels=("sports", "a*b", "sure"))
    found = columns.fields([one, replace(one, task_id=2, flag=Flag.CLEAN)], space=space, hint=True)
    assert (found["coral_llm"][1], found["coral_slm"][1]) == ("a*b, sure", "(none)")
    assert found["coral_hint"] == {1: "**Doubtful:** a\\*b 30 % · sports 41 %", 2: ""}
    disputed = replace(one, details=(Detail("sports", "yes", 0.5, Flag.INCONSISTENT, None, "yes", "no", 0.6),))
    found = columns.fields([disputed], space=space, hint=True)
    assert found["coral_hint"][1] == "**Doubtful:** sports 50 % (LLM yes, SLM no)"
    many = replace(one, details=tuple(Detail(f"l{i}", "no", 0.6, Flag.NOISY) for i in range(7)))
    assert str(columns.fields([many], space=space, hint=True)["coral_hint"][1]).endswith("· and 2 more")


def test_a_second_look_is_asked_for_at_the_labels_that_llm_and_slm_are_sure_of(store: Store) -> None:
    project = sets.project(store)
    store.put_samples(1, [Sample(1, "one"), Sample(2, "two")])
    for task_id in (1, 2):
        store.put_annotations(1, [HumanLabel(task_id, task_id, '["a, b"]', 7, filled.LONG_AGO)])

    def sure_of(task_id: int, sure: float) -> Verdict:
        parts = (
            Detail("sports", "no", 1.0, Flag.CLEAN, Source.HUMAN, "yes", "yes", sure),
            Detail("a, b", "yes", 1.0, Flag.CLEAN, Source.HUMAN, "no", "no", 0.6),
        )
        return Verdict(task_id, '["a, b"]', 1.0, Source.HUMAN, Flag.CLEAN, task_id, details=parts)

    [look] = review.ask_again(store, project, [sure_of(1, 0.97), sure_of(2, 0.85)])
    assert (look.task_id, look.label, look.machine_label, look.score) == (1, '["a, b"]', '["sports", "a, b"]', 0.97)


def test_examples_are_balanced_by_the_rarest_label_of_a_set(store: Store, tmp_path: Path) -> None:
    settings = Settings.load({}, model_dir=tmp_path, n_demos=4)
    from coral_backend import corpus_arrays

    done = sets.fill(store, tmp_path / "arrays")
    folder = corpus_arrays.round_folder(settings, done)
    sets.put_arrays(folder)
    project = store.project(1)
    verified = Verified.read(store, settings, project)
    assert verified is not None
    texts = [text for text, ok in zip(verified.texts, verified.eligible, strict=True) if ok]
    assert {"text 1", "text 2", "text 3", "text 4"} <= set(texts)
    groups = dict(zip(verified.texts, verified.groups.tolist(), strict=True))
    assert groups["text 1"] == 0
    assert groups["text 3"] == len(sets.LABELS), "the empty set is a group of its own"
    assert groups["text 4"] == 1
    demos = choose_demos(store, settings, project)
    assert len(demos) == 4
    assert {read_set(demo.label) for demo in demos} >= {(), ("sports",)}
    place = verified.texts.index("text 4")
    assert verified.labels_of(place, project.label_space) == (0, 1)
