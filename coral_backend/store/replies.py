"""What have LLM endpoints answered, and what do they accept? A part of the store, reached as ``store.replies``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, select

from coral_backend.store import tables as t
from coral_backend.types import Reply

if TYPE_CHECKING:
    from coral_backend.store.store import Store

IN_QUERY = 500
"""Keys in one query: below SQLite's and PostgreSQL's limits on bound values."""

IN_DELETE = 1_000


class Replies:
    """The two tables of the LLM layer; every verb is one transaction, or a part of ``together``'s."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def together(self) -> AbstractContextManager[None]:
        """See ``Store.together``: replies, and the labels that were read from them, in one transaction."""
        return self._store.together()

    def find(self, keys: Collection[str]) -> dict[str, Reply]:
        """Return the replies that are known, by key."""
        wanted, found = list(keys), {}
        with self._store._read() as connection:
            for i in range(0, len(wanted), IN_QUERY):
                for row in connection.execute(self._by_key, {"keys": wanted[i : i + IN_QUERY]}):
                    found[row[0]] = Reply(*row)
        return found

    def put(self, replies: Sequence[Reply]) -> None:
        """Keep `replies`; the first to a request stays, since it is the one that was read."""
        now = self._store._now()
        rows = [
            {
                "key": reply.key,
                "body": reply.body,
                "model": reply.model,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "seconds": reply.seconds,
                "created_at": now,
            }
            for reply in replies
        ]
        if rows:
            self._store._put(self._insert, rows)

    def forget(self, seconds: float) -> int:
        """Delete replies that are older than so many seconds and return how many, a part at a time: others write meanwhile."""
        c, oldest, deleted = t.replies.c, self._store._now() - seconds, 0
        while True:
            part = select(c.key).where(c.created_at < oldest).limit(IN_DELETE)
            with self._store._write() as connection:
                gone = connection.execute(delete(t.replies).where(c.key.in_(part))).rowcount
            deleted += gone
            if gone < IN_DELETE:
                return deleted

    def tidy(self) -> None:
        """Move the database's log into its file, where it has one; for a thread of its own, while others write."""
        self._store.tidy()

    def accepts(self, base_url: str, model: str, *, since: float) -> dict[str, Any] | None:
        """Return what an endpoint was found to accept for a model; None if it was not asked after `since`."""
        c = t.endpoints.c
        query = select(c.accepts).where(c.base_url == base_url, c.model == model, c.probed_at >= since)
        with self._store._read() as connection:
            found = connection.scalar(query)
        return None if found is None else dict(found)

    def put_accepts(self, base_url: str, model: str, accepts: Mapping[str, Any]) -> None:
        """Remember what an endpoint accepts; the newest finding counts."""
        row = {"base_url": base_url, "model": model, "accepts": dict(accepts), "probed_at": self._store._now()}
        with self._store._write() as connection:
            self._store._upsert(
                connection, t.endpoints, [row], key=("base_url", "model"), change=("accepts", "probed_at")
            )

    # Put together once: that takes longer than to execute them, and they are executed for every few answers.

    @cached_property
    def _by_key(self) -> Any:
        c = t.replies.c
        columns = (c.key, c.body, c.model, c.prompt_tokens, c.completion_tokens, c.seconds)
        return select(*columns).where(c.key.in_(bindparam("keys", expanding=True)))

    @cached_property
    def _insert(self) -> Any:
        return self._store._insert(t.replies).on_conflict_do_nothing()
