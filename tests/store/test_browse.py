"""Do the pages say the same as status and export, which read everything into Python? And does each filter keep what it says?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coral_backend import export
from coral_backend.exceptions import NotFoundError
from coral_backend.labels import MULTIPLE, SINGLE, SPANS, Span, write_controls, write_set, write_spans
from coral_backend.status import status_of
from coral_backend.store import Store, browse, figures
from coral_backend.store.browse import Filters
from coral_backend.types import HumanLabel, Project, Sample
from tests.filled_store import LONG_AGO, PROJECT, SPACE, fill, put_sample, save_project


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = fill(Store(url))
    yield store
    store.close()


def lines(store: Store, filters: Filters | None = None, **more: Any) -> list[browse.Line]:
    return list(browse.page(store, PROJECT, store.project(PROJECT).active_round, filters or Filters(), **more).lines)


def ids(store: Store, **filters: Any) -> list[int]:
    return sorted(line.task_id for line in lines(store, Filters(**filters)))


def test_a_line_says_what_the_export_says(store: Store) -> None:
    # Two labels of one person each, the newer one counts; one is taken back after the round; one text is edited.
    store.put_annotations(
        PROJECT, [HumanLabel(13, 2, "neg", 7, "2026-11-21T11:00:00Z"), HumanLabel(14, 4, "neg", 7, LONG_AGO)]
    )
    store.retire_annotations(PROJECT, [12, 14])
    store.put_samples(PROJECT, [Sample(1, "good film, edited")])
    exported = {row["task_id"]: row for row in export.rows(store, PROJECT)}
    shown = lines(store, sort="task_id")
    assert [line.task_id for line in shown] == list(exported)
    for line in shown:
        row = exported[line.task_id]
        for name in (
            "llm_label",
            "slm_label",
            "confidence",
            "p_clean",
            "rank",
            "flag",
            "human_label",
            "label",
            "source",
        ):
            assert getattr(line, name) == row[name], (line.task_id, name)


def test_counts_and_agreement_are_those_of_status(store: Store) -> None:
    known = status_of(store, PROJECT)
    counts = figures.counts(store, PROJECT, store.project(PROJECT).active_round)
    assert (counts.tasks, counts.unreadable, counts.human) == (known.tasks, known.unreadable, known.human_labels)
    assert (counts.annotated, counts.abstained, counts.waiting) == (known.annotated, known.abstained, known.waiting)
    assert {name: counts.flags.get(name, 0) for name in known.flags} == dict(known.flags)
    found = figures.agreement(store, PROJECT)
    for line, one in zip(known.rounds, reversed(store.rounds(PROJECT)), strict=True):
        if line.compared:
            assert found[one.id].n == line.compared
            assert (found[one.id].llm / line.compared, found[one.id].slm / line.compared) == (line.llm, line.slm)


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"flag": "clean"}, [1, 4]),
    ({"flag": "none"}, [6]),
    ({"human": "yes"}, [2, 3]),
    ({"human": "no"}, [1, 4, 5, 6]),
    ({"agree": "no"}, [3, 4]),
    ({"llm": "pos"}, [1, 4]),
    ({"slm": "neg"}, [2, 4]),
    ({"human_label": ""}, [1, 4, 5, 6]),
    ({"wrong": "llm"}, [2, 3]),
    ({"wrong": "slm"}, [2]),
    ({"at_least": 0.75}, [4]),
    ({"contains": "FILM"}, [1, 2]),
    ({"contains": "%"}, []),
    ({"contains": "' OR 1=1 --"}, []),
    ({"task_ids": [2, 6, 99]}, [2, 6]),
    ({"task_ids": []}, []),
    ({"task_ids": range(1, 100_000), "flag": "inconsistent"}, [2]),
]


@pytest.mark.parametrize(("filters", "kept"), FILTERS)
def test_a_filter_keeps_what_it_says(store: Store, filters: dict[str, Any], kept: list[int]) -> None:
    assert ids(store, **filters) == kept


@pytest.mark.parametrize("sort", browse.SORTS)
@pytest.mark.parametrize("descending", [False, True])
def test_lines_without_a_value_come_last(store: Store, sort: str, descending: bool) -> None:
    values = [getattr(line, sort) for line in lines(store, sort=sort, descending=descending)]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=descending)
    assert values == known + [None] * (len(values) - len(known))


def test_the_charts_and_the_map_read_the_same_as_the_lines(store: Store) -> None:
    current = store.project(PROJECT).active_round
    assert current is not None
    judged = [line for line in lines(store) if line.flag is not None]
    points = figures.points(store, PROJECT, current)
    assert {(p.task_id, p.label, p.flag, p.confidence, p.human) for p in points} == {
        (line.task_id, line.label, line.flag, line.confidence, line.human_label is not None) for line in judged
    }
    scores = figures.scores(store, PROJECT, current)
    wanted = Counter((line.slm_label, line.human_label) for line in judged if line.slm_label and line.human_label)
    assert scores.pairs("slm", "human") == wanted
    assert sorted(scores.right.tolist()) == [-1, -1, -1, 0, 1]


def test_a_like_sign_is_a_letter(store: Store) -> None:
    put_sample(store, 7, r"100 % sure_ly \ done", "pos")
    for words in ("100 %", "sure_ly", "\\ done"):
        assert ids(store, contains=words) == [7]


ODD = ("x", "y", "x, y", 'x"a', "a]", 'a]"', "mood", "\\", "ß\n")
"""Labels with all that their writing as JSON is made of."""


def several(said: dict[str, Any]) -> str:
    """Return what several controls say of a task: of `tags` and `topics` a set, of `names` spans, of `mood` one label."""
    written = {name: write_set(one, ODD) if isinstance(one, set) else one for name, one in said.items()}
    spans = (
        {"names": write_spans([Span(i, i + 1, one) for i, one in enumerate(said["names"])])} if "names" in said else {}
    )
    return write_controls({**written, **spans}, ("mood", "tags", "topics", "names"))


def test_a_label_of_a_set_or_of_spans_is_found_beside_other_controls(url: str) -> None:
    store = Store(url)
    save_project(store)
    said: list[dict[str, Any]] = [
        {"mood": "x", "tags": {"x", "y"}, "topics": {"y"}, "names": ["x"]},
        {"mood": '"tags": "[', "tags": {"x, y"}, "topics": {"x"}, "names": ["x, y", 'x"a']},
        {"tags": set(), "names": []},
        {"topics": {"x"}},
        {"tags": set(ODD), "topics": set()},
        {"tags": {'a]"'}, "topics": {"x", "a]"}, "names": list(ODD)},
    ]
    for task_id, one in enumerate(said, 1):
        put_sample(store, task_id, "some text", several(one))
    put_sample(store, 7, "some text", None)
    put_sample(store, 8, "some text", "x")
    kinds = {"mood": SINGLE, "tags": MULTIPLE, "topics": MULTIPLE, "names": SPANS}

    def found(control: str, label: str) -> list[int]:
        wanted = Filters(llm=write_controls({control: label}, [control]), parts=kinds)
        return sorted(line.task_id for line in browse.page(store, PROJECT, None, wanted).lines)

    for control in ("tags", "topics", "names"):
        for label in ODD:
            has = [i for i, one in enumerate(said, 1) if label in one.get(control, ())]
            assert found(control, label) == has, (control, label)
    assert found("mood", "x") == [1]
    assert found("tags", "X") == found("tags", "x, ") == found("gone", "x") == []
    store.close()


def test_a_row_is_whole_and_found_as_people_read_it(store: Store) -> None:
    row = json.dumps({"age": 41, "job": 'says "cook"', "remarks": "x" * 500, "income": None})
    put_sample(store, 7, row, "pos")
    for words in ("age: 41, JOB", 'says "cook"', "income: null"):
        assert ids(store, contains=words, rows=True) == [7]
    assert ids(store, contains="age: 4, job", rows=True) == ids(store, contains="age: 41") == []
    [line] = lines(store, Filters(task_ids=[7]), whole=True)
    assert (line.text, line.length) == (row, len(row))
    assert browse.one(store, PROJECT, None, 7, whole=True).text == row
    assert len(browse.one(store, PROJECT, None, 7).text) == browse.EXCERPT


def test_an_unknown_task_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no task 99"):
        browse.one(store, PROJECT, 1, 99)


def test_a_label_of_spans_finds_the_tasks_that_have_such_a_span(tmp_path: Path) -> None:
    labels = ("PER", "PER, LOC", 'a"]')
    said = ('[[0, 4, "PER"]]', '[[0, 4, "PER, LOC"], [5, 6, "PER"]]', "[]", write_spans([Span(0, 2, 'a"]')]), None)
    store = Store(f"sqlite:///{tmp_path / 'spans.sqlite3'}")
    save_project(store)
    store.save_project(Project(PROJECT, "Names", "", "hash", replace(SPACE, labels=labels, kind=SPANS)))
    for task_id, one in enumerate(said, 1):
        put_sample(store, task_id, "some text", one)

    def found(label: str) -> list[int]:
        return sorted(line.task_id for line in browse.page(store, PROJECT, None, Filters(llm=label, spans=True)).lines)

    assert [found(label) for label in labels] == [[1, 2], [2], [4]]
    assert found("") == [3, 5], "no spans, and no answer"
    assert found("per") == found("LOC") == found('a\\"]') == []
    store.close()
