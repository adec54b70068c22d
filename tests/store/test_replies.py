"""Are replies kept once, is what an endpoint accepts remembered, and is what is written together committed together?"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from coral_backend.exceptions import LeaseLostError, StoreUnavailableError
from coral_backend.store import Store, replies, tables
from coral_backend.store.engine import open_engine
from coral_backend.types import Answer, LabelSpace, Project, Reply, Said, Sample

SPACE = LabelSpace("Choices", "label", "text", "text", ("a", "b"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url, now=lambda: 1000.0)
    opened.save_project(Project(1, "t", "<View/>", "h", SPACE))
    opened.put_samples(1, [Sample(i, f"text {i}") for i in range(10)])
    yield opened
    opened.close()


def reply(number: int, body: str = "{}") -> Reply:
    return Reply(f"{number:064x}", body, "model", 40, 5, 0.25)


def test_replies_come_back_as_they_were_put(store: Store) -> None:
    store.replies.put([reply(1, '{"choices": "ünï"}'), reply(2)])
    assert store.replies.find([reply(1).key, reply(3).key]) == {reply(1).key: reply(1, '{"choices": "ünï"}')}
    assert store.replies.find([]) == {}


def test_the_first_reply_to_a_request_stays(store: Store) -> None:
    store.replies.put([reply(1, "first")])
    store.replies.put([reply(1, "second"), reply(2, "other")])
    assert [store.replies.find([reply(i).key])[reply(i).key].body for i in (1, 2)] == ["first", "other"]


def test_old_replies_are_forgotten_and_younger_ones_kept(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "IN_DELETE", 10)
    now = [1000.0]
    store = Store(url, now=lambda: now[0])
    store.replies.put([reply(i) for i in range(35)])
    now[0] = 2000.0
    store.replies.put([reply(100)])
    assert store.replies.forget(1500.0) == 0
    assert store.replies.forget(500.0) == 35
    assert set(store.replies.find([reply(i).key for i in (1, 34, 100)])) == {reply(100).key}
    store.close()


def test_very_many_replies_are_found_in_one_call(store: Store) -> None:
    many = [reply(i) for i in range(1_200)]
    store.replies.put(many)
    assert len(store.replies.find([r.key for r in many])) == 1_200


def test_the_newest_finding_about_an_endpoint_counts_until_it_is_old(store: Store) -> None:
    assert store.replies.accepts("http://x/v1", "m", since=0.0) is None
    store.replies.put_accepts("http://x/v1", "m", {"schema": True})
    store.replies.put_accepts("http://x/v1", "m", {"schema": False})
    assert store.replies.accepts("http://x/v1", "m", since=999.0) == {"schema": False}
    assert store.replies.accepts("http://x/v1", "m", since=1001.0) is None
    assert store.replies.accepts("http://x/v1", "other", since=0.0) is None


def put_label(store: Store, task_id: int, **more: object) -> None:
    store.put_llm_label(1, 1, Sample(task_id, f"text {task_id}"), Answer("a"), prompt_version="p", **more)  # type: ignore[arg-type]


@contextmanager
def undone(store: Store) -> Iterator[None]:
    """Write together, and fail at the end."""
    with suppress(ZeroDivisionError), store.together():
        yield
        raise ZeroDivisionError


def test_what_is_written_together_is_seen_by_others_together(store: Store, url: str) -> None:
    other = Store(url)
    with store.together():
        store.replies.put([reply(1)])
        put_label(store, 1)
        assert store.llm_labels(1)[1].label == "a", "the writer sees it"
        assert (other.llm_labels(1), other.replies.find([reply(1).key])) == ({}, {})
    assert other.llm_labels(1)[1].label == "a"
    assert other.replies.find([reply(1).key]) == {reply(1).key: reply(1)}
    other.close()


def test_what_is_written_together_is_undone_together(store: Store) -> None:
    with undone(store):
        store.replies.put([reply(1)])
        put_label(store, 1)
    assert (store.llm_labels(1), store.replies.find([reply(1).key])) == ({}, {})
    put_label(store, 2)
    assert set(store.llm_labels(1)) == {2}, "the store goes on as before"


def test_together_within_together_is_one_transaction(store: Store) -> None:
    with undone(store), store.replies.together():
        put_label(store, 1)
    assert store.llm_labels(1) == {}


def test_a_lease_that_was_lost_stops_the_whole_group(store: Store) -> None:
    lease = store.take_lease("round-1")
    assert lease is not None
    with store.together():
        put_label(store, 1, lease=lease)
        put_label(store, 2, lease=lease)
    store.drop_lease(lease)
    assert store.take_lease("round-1") is not None
    with pytest.raises(LeaseLostError), store.together():
        put_label(store, 3, lease=lease)
    assert set(store.llm_labels(1)) == {1, 2}


def test_another_threads_writes_are_its_own(store: Store) -> None:
    with undone(store):
        put_label(store, 1)
        seen: list[object] = []
        reader = threading.Thread(target=lambda: seen.append(store.llm_labels(1)))
        reader.start()
        reader.join()
        assert seen == [{}], "not committed, so not visible to another thread"


def test_a_database_from_before_is_upgraded_and_keeps_its_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'coral.sqlite3'}"
    engine = open_engine(url)
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        connection.exec_driver_sql("DROP TABLE replies")
        connection.exec_driver_sql("DROP TABLE endpoints")
        connection.exec_driver_sql("INSERT INTO migrations VALUES ('m001_first_tables', 1.0)")
    engine.dispose()
    with sqlite3.connect(tmp_path / "coral.sqlite3") as raw:
        raw.execute(
            "INSERT INTO projects (id, title, label_config, config_hash, label_space, options, model_version, changes)"
            " VALUES (7, 'kept', '<View/>', 'h', ?, '{}', 'coral-r0', 0)",
            ('{"tag":"Choices","from_name":"l","to_name":"t","text_key":"t","labels":["a"],"definitions":{}}',),
        )
    raw.close()
    store = Store(url)
    store.replies.put([reply(1)])
    assert store.project(7).title == "kept"
    assert len(store.replies.find([reply(1).key])) == 1
    store.close()


def test_rows_of_many_callers_are_written_in_their_order_and_before_a_question(store: Store) -> None:
    said = [Said(0, Answer(label, annotator="x"), None, "p") for label in "ab"]
    with store.together():
        for task_id in (1, 2):
            put_label(store, task_id)
            store.opinions.put(1, 1, Sample(task_id, f"text {task_id}"), said[0])
        store.opinions.put(1, 1, Sample(1, "text 1"), said[1])
        assert set(store.llm_labels(1)) == {1, 2}
        put_label(store, 3)
    assert set(store.llm_labels(1)) == {1, 2, 3}
    assert store.opinions.of_round(1, 1) == {1: [said[0]], 2: [said[0]]}, "the first in its place stays"


def test_what_cannot_be_written_undoes_the_whole_group(store: Store) -> None:
    def write() -> None:
        bad = Answer("a", confidence={})  # type: ignore[arg-type]
        with store.together():
            put_label(store, 1)
            store.put_llm_label(1, 1, Sample(2, "text 2"), bad, prompt_version="p")

    with pytest.raises(StoreUnavailableError):
        write()
    assert store.llm_labels(1) == {}
    put_label(store, 1)
    assert set(store.llm_labels(1)) == {1}, "nothing of the group is left to be written"


def test_a_database_is_tidied_while_others_write(store: Store) -> None:
    with store.together():
        put_label(store, 1)
        thread = threading.Thread(target=store.replies.tidy)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    store.replies.tidy()
    assert set(store.llm_labels(1)) == {1}


def test_tidying_moves_the_log_into_the_file(tmp_path: Path) -> None:
    file = tmp_path / "coral.sqlite3"
    store = Store(f"sqlite:///{file}")
    store.replies.put([reply(i, "x" * 2_000) for i in range(200)])
    before = file.stat().st_size
    store.replies.tidy()
    assert file.stat().st_size > before + 400_000
    store.close()
