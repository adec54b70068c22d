"""What does the database know of review? Second looks, what a round changed, and the way back to an older one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Select, and_, func, insert, or_, select, update

from coral_backend.exceptions import ConflictError
from coral_backend.store import holders
from coral_backend.store import tables as t
from coral_backend.types import Change, Flag, Lease, SecondLook, Source

__all__ = ["ReviewVerbs", "rollback_lease"]

IN_CHUNK = 500


def rollback_lease(project_id: int) -> str:
    """Return the name of the lease under which a project goes back to an older round; no round begins meanwhile."""
    return f"rollback-{project_id}"


class ReviewVerbs:
    """The verbs of ``Store`` that review needs; each is one transaction."""

    _now: Callable[[], float]

    if TYPE_CHECKING:

        def _read(self) -> AbstractContextManager[Connection]: ...

        def _write(self) -> AbstractContextManager[Connection]: ...

        def _guard(self, connection: Connection, lease: Lease | None) -> None: ...

        def _set_project(self, project_id: int, **values: Any) -> None: ...

    # --- the tabs in Label Studio -----------------------------------------------------------------------------

    def mark_tidied(self, project_id: int, change: int) -> None:
        """Remember that the review tabs are true up to ``Project.changes`` = `change`."""
        self._set_project(project_id, tidied_change=change)

    def mark_instructed(self, project_id: int) -> None:
        """Remember that annotators were told about the tabs; they are told once, so that it can be taken out."""
        self._set_project(project_id, instructed=True)

    # --- second looks -----------------------------------------------------------------------------------------

    def put_second_looks(self, project_id: int, looks: Sequence[SecondLook]) -> None:
        """Store new questions; a label of a task that was asked about before is not asked about again."""
        known = {(look.task_id, look.label) for look in self.second_looks(project_id)}
        rows = [
            {
                "project_id": project_id,
                "task_id": look.task_id,
                "label": look.label,
                "annotation_id": look.annotation_id,
                "updated_at": look.updated_at,
                "machine_label": look.machine_label,
                "score": look.score,
                "asked_at": self._now(),
                "looked_at": None,
            }
            for look in looks
            if (look.task_id, look.label) not in known
        ]
        if rows:
            with self._write() as connection:
                connection.execute(insert(t.second_looks), rows)

    def second_looks(self, project_id: int, *, standing: bool = False) -> list[SecondLook]:
        """Return all questions ever asked about tasks that still exist, by task; only those without an answer if `standing`."""
        c, s = t.second_looks.c, t.samples.c
        here = and_(s.project_id == c.project_id, s.task_id == c.task_id, s.retired.is_(False))
        columns = [c[name] for name in SecondLook.__dataclass_fields__]
        query = select(*columns).join(t.samples, here).where(c.project_id == project_id)
        if standing:
            query = query.where(c.looked_at.is_(None))
        with self._read() as connection:
            return [SecondLook(*tuple(row)) for row in connection.execute(query.order_by(c.task_id, c.asked_at))]

    def close_second_looks(self, project_id: int, looks: Sequence[SecondLook]) -> None:
        """Remember that a person has looked at these tasks again."""
        c = t.second_looks.c
        with self._write() as connection:
            for look in looks:
                this = and_(c.project_id == project_id, c.task_id == look.task_id, c.label == look.label)
                connection.execute(update(t.second_looks).where(this).values(looked_at=self._now()))

    def annotation_states(self, project_id: int, task_ids: Collection[int]) -> dict[int, dict[int, str]]:
        """Return, for each of `task_ids`, its annotations that are not deleted: id -> when it was last changed."""
        c = t.annotations.c
        query = select(c.task_id, c.annotation_id, c.updated_at).where(c.project_id == project_id, c.deleted.is_(False))
        found: dict[int, dict[int, str]] = {task_id: {} for task_id in task_ids}
        ids = sorted(found)
        with self._read() as connection:
            for start in range(0, len(ids), IN_CHUNK):
                for row in connection.execute(query.where(c.task_id.in_(ids[start : start + IN_CHUNK]))):
                    found[row.task_id][row.annotation_id] = row.updated_at
        return found

    # --- what a round changed ---------------------------------------------------------------------------------

    def verdict_changes(
        self, project_id: int, before: int, after: int, *, limit: int | None = None, offset: int = 0,
        characters: int | None = None, elsewhere: bool = False,
    ) -> Iterator[Change]:  # fmt: skip
        """Yield how the verdicts of round `after` differ from those of round `before`, most doubtful first.

        Only tasks that both judged, that still exist, and whose text is the same. Label or flag differs.

        Parameters
        ----------
        limit, offset : int, optional
            At most so many, after so many.
        characters : int, optional
            At most so many of each text, cut by the database; default: whole texts.
        elsewhere : bool
            Only tasks that no person had labelled in either round: what ``count_changes`` calls ``tasks``.
        """
        c, d, query = _differences(project_id, before, after)
        text = t.samples.c.text
        columns = (
            d.task_id, (text if characters is None else func.substr(text, 1, characters)).label("text"),
            c.label.label("label_before"), d.label, c.flag.label("flag_before"), d.flag, c.score.label("score_before"),
            d.score, d.source,
        )  # fmt: skip
        if elsewhere:
            query = query.where(_elsewhere(c, d))
        ordered = query.with_only_columns(*columns).order_by(d.rank, d.task_id).limit(limit).offset(offset)
        with self._read() as connection:
            for row in connection.execute(ordered):
                yield _change(row)

    def count_changes(self, project_id: int, before: int, after: int) -> dict[str, int]:
        """Return how much the verdicts of two rounds differ, counted outside of what people labelled.

        Keys: ``labels`` and ``flags`` (verdicts whose label, or flag, is another), ``tasks`` (with either), ``compared``
        (tasks that both judged), ``people`` (tasks that got or lost a person's label between the two).
        """
        c, d, query = _differences(project_id, before, after, all_tasks=True)
        human = str(Source.HUMAN)
        elsewhere = _elsewhere(c, d)
        labels, flags = c.label.is_distinct_from(d.label), c.flag != d.flag
        became = or_(
            and_(d.source == human, _other(c.source, human)),
            and_(c.source == human, _other(d.source, human)),
            and_(c.source == human, d.source == human, labels),
        )
        wanted = {
            "labels": and_(elsewhere, labels), "flags": and_(elsewhere, flags),
            "tasks": and_(elsewhere, or_(labels, flags)), "people": became,
        }  # fmt: skip
        sums = [func.count().filter(condition).label(name) for name, condition in wanted.items()]
        with self._read() as connection:
            row = connection.execute(query.with_only_columns(func.count().label("compared"), *sums)).one()
        return {name: int(value) for name, value in row._mapping.items()}

    # --- the way back -----------------------------------------------------------------------------------------

    def roll_back(self, project_id: int, round_id: int, lease: Lease) -> None:
        """Make an older round the one that serves, and set aside the answers of the rounds that it was not built on.

        Raises
        ------
        ConflictError
            If a round is under way.
        LeaseLostError
            If `lease` is no longer the newest.
        """
        c = t.rounds.c
        with self._write() as connection:
            self._guard(connection, lease)
            if connection.scalar(select(c.id).where(c.active == project_id)) is not None:
                raise ConflictError(f"A round of project {project_id} has begun meanwhile. Wait for it, or cancel it.")
            rows = {row.id: row for row in connection.execute(select(t.rounds).where(c.project_id == project_id))}
            kept = _numbers_of_line(rows, round_id)
            mine = update(t.rounds).where(c.project_id == project_id)
            connection.execute(mine.values(set_aside=c.number.not_in(kept)))
            project = update(t.projects).where(t.projects.c.id == project_id)
            connection.execute(project.values(active_round=round_id, model_version=rows[round_id].model_version))

    def _refuse_rollback(self, connection: Connection, project_id: int) -> None:
        """Refuse to begin a round while a rollback is under way; holds its lease's row till the transaction ends."""
        c = t.leases.c
        held = connection.execute(
            select(t.leases).where(c.name == rollback_lease(project_id)).with_for_update()
        ).first()
        if held is not None and held.expires_at > self._now() and not holders.is_dead(held.holder):
            raise ConflictError(
                f"Project {project_id} is going back to an older round just now. Try again in a minute."
            )


def _differences(project_id: int, before: int, after: int, *, all_tasks: bool = False) -> tuple[Any, Any, Select[Any]]:
    old, new, s = t.verdicts.alias("old"), t.verdicts.alias("new"), t.samples.c
    same_text = old.c.content_hash == new.c.content_hash
    both = and_(
        old.c.project_id == new.c.project_id, old.c.task_id == new.c.task_id, old.c.round_id == before, same_text
    )
    here = and_(s.project_id == new.c.project_id, s.task_id == new.c.task_id, s.retired.is_(False))
    query = select(new.c.task_id).join(old, both).join(t.samples, here)
    query = query.where(new.c.project_id == project_id, new.c.round_id == after)
    if not all_tasks:
        query = query.where(or_(old.c.label.is_distinct_from(new.c.label), old.c.flag != new.c.flag))
    return old.c, new.c, query


def _elsewhere(old: Any, new: Any) -> Any:
    human = str(Source.HUMAN)
    return and_(_other(new.source, human), _other(old.source, human))


def _other(column: Any, value: str) -> Any:
    return column.is_distinct_from(value)


def _change(row: Any) -> Change:
    return Change(
        row.task_id, row.text, row.label_before, row.label, Flag(row.flag_before), Flag(row.flag), row.score_before,
        row.score, row.source == str(Source.HUMAN),
    )  # fmt: skip


def _numbers_of_line(rows: Mapping[int, Row[Any]], round_id: int) -> set[int]:
    """Return the numbers of a round and of those it was built on, and 0, under which first answers stand.

    A round of an older CORAL does not know what it was built on: then all before it count.
    """
    numbers, current = {0}, rows.get(round_id)
    while current is not None:
        numbers.add(current.number)
        if current.parent_id is None:
            numbers.update(row.number for row in rows.values() if row.id < current.id)
        current = rows.get(current.parent_id) if current.parent_id is not None else None
    return numbers
