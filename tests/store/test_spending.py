"""Is what was paid for kept: added up, in the same transaction as the answer, and across versions of the database?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from coral_backend.exceptions import LeaseLostError
from coral_backend.store import Lease, Store
from coral_backend.store.engine import open_engine
from coral_backend.types import Answer, Batch, LabelSpace, Project, Sample, Spend

PROJECT = Project(1, "t", "<View/>", "h", LabelSpace("Choices", "label", "text", "text", ("a", "b")))
ONE = Spend("openai:m", requests=1, characters=90, prompt_tokens=30, cached_tokens=10, completion_tokens=5, cost=0.25)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    opened.save_project(PROJECT)
    yield opened
    opened.close()


def test_spending_is_added_up_by_round_annotator_and_way_of_asking(store: Store) -> None:
    store.ledger.add(1, 7, [ONE, replace(ONE, batch=True)])
    store.ledger.add(1, 7, [ONE])
    store.ledger.add(1, 0, [replace(ONE, annotator="openai:other", unpriced=1)])
    found = store.ledger.spending(1)
    assert found[7] == [ONE.plus(ONE), replace(ONE, batch=True)]
    assert [one.known_cost for one in found[0]] == [None]
    store.ledger.add(1, 7, [])
    assert store.ledger.spending(1) == found
    assert store.ledger.spending(2) == {}
    assert sum(one.requests for one in store.ledger.spending()[0]) == 4


def test_a_spend_is_stored_with_its_answer_or_not_at_all(store: Store) -> None:
    store.put_samples(1, [Sample(1, "text")])

    def write() -> None:
        with store.together():
            store.ledger.add(1, 3, [ONE])
            store.put_llm_label(1, 1, Sample(1, "text"), Answer("a"), prompt_version="p", lease=Lease("none", 7))

    with pytest.raises(LeaseLostError):
        write()
    assert store.ledger.spending(1) == {}
    assert store.llm_labels(1) == {}


def test_a_batch_comes_back_equal_and_closes_once(store: Store) -> None:
    begun = store.create_round(1, {})
    lease = store.take_lease(f"round-{begun.id}")
    assert lease is not None
    made = Batch("k", 1, begun.id, None, "creating", True, "openai:m", ("f3", "a1"), reserved=1.5, requests=2)
    store.ledger.put_batch(made, lease)
    store.ledger.put_batch(replace(made, batch_id="batch_1", file_id="file-1", status="in_progress", done=1), lease)
    (found,) = store.ledger.batches(begun.id)
    assert found.created_at > 0
    assert replace(found, created_at=0.0, updated_at=0.0) == replace(
        made, batch_id="batch_1", file_id="file-1", status="in_progress", done=1
    )
    assert set(store.ledger.rounds_with_open_batches(1)) == {begun.id}
    for _ in range(2):
        store.ledger.close_batch(replace(found, status="completed", again=("f3",)), [ONE], lease)
    (closed,) = store.ledger.batches(begun.id)
    assert (closed.open, closed.status, closed.again, closed.reserved) == (False, "completed", ("f3",), 0.0)
    assert store.ledger.spending(1) == {begun.id: [ONE]}, "charged once"
    with pytest.raises(LeaseLostError):
        store.ledger.put_batch(made, replace(lease, token=0))


def test_a_rounds_own_options_can_be_changed_under_way(store: Store) -> None:
    begun = store.create_round(1, {"budget": 1.0, "seed": 3})
    assert store.set_round_options(begun.id, budget=2.0).settings == {"budget": 2.0, "seed": 3}


def test_a_database_of_before_is_upgraded_and_keeps_its_rows(url: str, store: Store) -> None:
    store.put_samples(1, [Sample(1, "text")])
    store.close()
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in ("DROP TABLE spend", "DROP TABLE batches", "DELETE FROM migrations WHERE name = 'm004_spend'"):
            connection.execute(text(statement))
    engine.dispose()
    upgraded = Store(url)
    assert len(upgraded.samples(1)) == 1
    upgraded.ledger.add(1, 1, [ONE])
    assert upgraded.ledger.spending(1) == {1: [ONE]}
    assert upgraded.ledger.batches(1) == []
    upgraded.close()
