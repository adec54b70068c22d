"""What did requests take, and which batches are paid for? Kept by the request, not by the label.

A label may have taken several requests, and a request may have brought none; an answer that is replaced was paid for all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, func, select, update

from coral_backend.store import tables as t
from coral_backend.store.engine import storable
from coral_backend.types import SUMS, Batch, Lease, Spend

if TYPE_CHECKING:
    from coral_backend.store.store import Store

LISTS = ("asked", "again")
"""Columns of a batch that hold a list."""


class Ledger:
    """The verbs about money; ``store.ledger`` is one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, project_id: int, round_id: int, spent: Sequence[Spend]) -> None:
        """Add to what a round (0: the time between rounds) has taken. Needs no lease: what was paid was paid."""
        if spent:
            self._store._put(self._addition, _rows(project_id, round_id, spent))

    def spending(self, project_id: int | None = None) -> dict[int, list[Spend]]:
        """Return what each round has taken by its id (0: between rounds), a ``Spend`` for each annotator and way of asking.

        Of all projects together under the id 0 if `project_id` is None.
        """
        c = t.spend.c
        where = [c.project_id == project_id] if project_id is not None else []
        query = select(t.spend).where(*where).order_by(c.round_id, c.annotator, c.batch)
        found: dict[int, list[Spend]] = {}
        with self._store._read() as connection:
            for row in connection.execute(query):
                spent = Spend(**{name: getattr(row, name) for name in Spend.__dataclass_fields__})
                found.setdefault(row.round_id if project_id is not None else 0, []).append(spent)
        return found

    def put_batch(self, batch: Batch, lease: Lease) -> None:
        """Remember a batch, or how it stands.

        Raises
        ------
        LeaseLostError
            If another worker owns the round now.
        """
        row = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
        row |= {name: list(row[name]) for name in LISTS}
        now = self._store._now()
        row |= {"created_at": batch.created_at or now, "updated_at": now, "error": storable(batch.error)}
        with self._store._write() as connection:
            self._store._guard(connection, lease)
            change = tuple(set(row) - {"key", "created_at"})
            self._store._upsert(connection, t.batches, [row], key=("key",), change=change)

    def close_batch(self, batch: Batch, spent: Sequence[Spend], lease: Lease) -> None:
        """Remember how a batch ended and what it took, in one transaction; one that is closed is not charged again.

        Raises
        ------
        LeaseLostError
            If another worker owns the round now.
        """
        values = {
            "status": batch.status,
            "open": False,
            "again": list(batch.again),
            "done": batch.done,
            "reserved": 0.0,
        }
        values |= {"error": storable(batch.error), "updated_at": self._store._now()}
        with self._store._write() as connection:
            self._store._guard(connection, lease)
            row = update(t.batches).where(t.batches.c.key == batch.key, t.batches.c.open.is_(True))
            if connection.execute(row.values(values)).rowcount and spent:
                connection.execute(self._addition, _rows(batch.project_id, batch.round_id, spent))

    def batches(self, round_id: int) -> list[Batch]:
        """Return the batches of a round, the oldest first."""
        query = select(t.batches).where(t.batches.c.round_id == round_id)
        with self._store._read() as connection:
            rows = connection.execute(query.order_by(t.batches.c.created_at, t.batches.c.key)).all()
        return [_batch(row) for row in rows]

    def rounds_with_open_batches(self, project_id: int) -> dict[int, float]:
        """Return the rounds of a project with open batches, and when one of them was last looked at."""
        c = t.batches.c
        query = select(c.round_id, func.max(c.updated_at)).where(c.project_id == project_id, c.open.is_(True))
        with self._store._read() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(c.round_id))}

    @cached_property
    def _addition(self) -> Any:
        # Made once: it is executed with every few answers, and to put it together takes longer.
        statement = self._store._insert(t.spend)
        sums = {name: t.spend.c[name] + statement.excluded[name] for name in SUMS}
        keys = ["project_id", "round_id", "annotator", "batch"]
        return statement.on_conflict_do_update(index_elements=keys, set_=sums)


def _rows(project_id: int, round_id: int, spent: Sequence[Spend]) -> list[dict[str, Any]]:
    names = Spend.__dataclass_fields__
    return [{"project_id": project_id, "round_id": round_id, **{n: getattr(one, n) for n in names}} for one in spent]


def _batch(row: Row[Any]) -> Batch:
    values = {name: getattr(row, name) for name in Batch.__dataclass_fields__}
    return Batch(**{**values, **{name: tuple(values[name]) for name in LISTS}})
