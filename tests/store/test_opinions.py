"""Is it kept who said what, once, and apart from what was decided?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import delete, inspect
from sqlalchemy.exc import IntegrityError

from coral_backend.exceptions import LeaseLostError
from coral_backend.store import Lease, Store
from coral_backend.store.engine import open_engine
from coral_backend.store.tables import migrations, opinions
from coral_backend.types import Answer, LabelSpace, Project, Said, Sample

PROJECT = Project(1, "t", "<View/>", "hash", LabelSpace("Choices", "label", "text", "text", ("a", "b")))
SAMPLE = Sample(7, "a text")
CHEAP = Said(
    0, Answer("a", "raw\x00\ud800", None, 0.25, "openai:cheap", 40, 5, 0.5, missing_mass=0.125), ("a", "b"), "p1"
)
DEAR = Said(1, Answer(None, "?", "It names no label.", None, "openai:dear", 44, 6, 1.5), None, "p2")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    opened.save_project(PROJECT)
    opened.put_samples(1, [SAMPLE, Sample(8, "another")])
    yield opened
    opened.close()


def test_what_was_said_comes_back_in_order(store: Store) -> None:
    for said in (DEAR, CHEAP):
        store.opinions.put(1, 1, SAMPLE, said)
    store.opinions.put(1, 2, SAMPLE, CHEAP)
    clean = replace(CHEAP, answer=replace(CHEAP.answer, raw="raw\ufffd?"))
    assert store.opinions.of_round(1, 1) == {7: [clean, DEAR]}
    assert store.opinions.of_round(1, 1, [8]) == {}
    assert store.llm_labels(1) == {}, "nothing is decided yet"


def test_the_first_answer_in_a_place_stays(store: Store) -> None:
    store.opinions.put(1, 1, SAMPLE, DEAR)
    store.opinions.put(1, 1, SAMPLE, replace(DEAR, answer=Answer("b", annotator="late")))
    assert store.opinions.of_round(1, 1) == {7: [DEAR]}


def test_what_was_said_about_another_text_does_not_count(store: Store) -> None:
    store.opinions.put(1, 1, SAMPLE, DEAR)
    edited = Sample(7, "edited")
    store.put_samples(1, [edited])
    assert store.opinions.of_round(1, 1) == {}
    fresh = Said(1, Answer("b", annotator="openai:dear"), None, "p2")
    store.opinions.put(1, 1, edited, fresh)
    assert store.opinions.of_round(1, 1) == {7: [fresh]}


def test_an_opinion_and_its_decision_are_one_transaction(store: Store) -> None:
    def write() -> None:
        with store.together():
            store.opinions.put(1, 1, SAMPLE, DEAR)
            store.put_llm_label(1, 1, SAMPLE, DEAR.answer, prompt_version=None)  # type: ignore[arg-type]

    with pytest.raises(IntegrityError):
        write()
    assert (store.opinions.of_round(1, 1), store.llm_labels(1)) == ({}, {})


def test_a_worker_that_was_taken_over_writes_nothing(store: Store) -> None:
    lease = store.take_lease("round-1")
    assert lease is not None
    store.opinions.put(1, 1, SAMPLE, DEAR, lease=lease)
    with pytest.raises(LeaseLostError):
        store.opinions.put(1, 1, Sample(8, "another"), DEAR, lease=Lease("round-1", lease.token - 1))
    assert set(store.opinions.of_round(1, 1)) == {7}


def test_usage_of_a_round_by_annotator(store: Store) -> None:
    for task_id, text in ((7, "a text"), (8, "another")):
        store.opinions.put(1, 1, Sample(task_id, text), CHEAP)
    store.opinions.put(1, 1, SAMPLE, DEAR)
    store.opinions.put(1, 2, SAMPLE, DEAR)
    assert store.opinions.usage(1, 1) == {
        "openai:cheap": {"asked": 2, "prompt_tokens": 80, "completion_tokens": 10, "seconds": 1.0},
        "openai:dear": {"asked": 1, "prompt_tokens": 44, "completion_tokens": 6, "seconds": 1.5},
    }


def test_an_older_database_gets_the_table(url: str) -> None:
    Store(url).close()
    engine = open_engine(url)
    with engine.begin() as connection:
        opinions.drop(connection)
        connection.execute(delete(migrations).where(migrations.c.name == "m003_opinions"))
    engine.dispose()
    upgraded = Store(url)
    upgraded.save_project(PROJECT)
    upgraded.put_samples(1, [SAMPLE])
    upgraded.opinions.put(1, 1, SAMPLE, DEAR)
    assert upgraded.opinions.of_round(1, 1) == {7: [DEAR]}
    upgraded.close()
    engine = open_engine(url)
    assert "missing_mass" in {column["name"] for column in inspect(engine).get_columns("opinions")}
    engine.dispose()
