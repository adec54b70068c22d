"""What did each annotator say about a sample, question by question? A part of the store, reached as ``store.opinions``."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, or_, select

from coral_backend.store import tables as t
from coral_backend.store.engine import storable
from coral_backend.types import Answer, Lease, Said, Sample

if TYPE_CHECKING:
    from coral_backend.store.store import Store

KEY = ("project_id", "task_id", "round_number", "place")


class Opinions:
    """One table; ``llm_labels`` keeps what was decided from it. Every verb is one transaction, or a part of ``together``'s.

    Parameters
    ----------
    control : str or None
        In a project with several, the one that all of this is about.
    first : int
        The place of its first question in the table, where each place of a task is taken once.
    """

    def __init__(self, store: Store, control: str | None = None, first: int = 0) -> None:
        self._store, self._control, self._first = store, control, first

    def put(
        self, project_id: int, round_number: int, sample: Sample, said: Said, *, lease: Lease | None = None
    ) -> None:
        """Keep one answer; the first in its place stays, unless it was about another text of the task.

        Raises
        ------
        LeaseLostError
            If `lease` is no longer the newest: another worker owns the round.
        """
        answer = said.answer
        row = {
            "project_id": project_id,
            "task_id": sample.task_id,
            "round_number": round_number,
            "place": self._first + said.place,
            "control": self._control,
            "content_hash": sample.content_hash,
            "annotator": answer.annotator,
            "label": storable(answer.label),
            "confidence": answer.confidence,
            "missing_mass": answer.missing_mass,
            "candidates": None if said.candidates is None else list(said.candidates),
            "raw": storable(answer.raw),
            "reason": storable(answer.reason),
            "prompt_version": said.prompt_version,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "seconds": answer.seconds,
            "created_at": self._store._now(),
        }
        self._store._put(self._upsert, [row], lease)

    def of_round(
        self, project_id: int, round_number: int, task_ids: Collection[int] | None = None
    ) -> dict[int, list[Said]]:
        """Return what was said in a round about each task as it stands now, in the order in which it was asked."""
        c, s = t.opinions.c, t.samples.c
        same = and_(s.project_id == c.project_id, s.task_id == c.task_id, s.content_hash == c.content_hash)
        query = select(t.opinions).join(t.samples, same)
        query = query.where(c.project_id == project_id, c.round_number == round_number, s.retired.is_(False))
        if self._control is not None:
            query = query.where(c.control == self._control)
        found: dict[int, list[Said]] = {}
        for row in self._store._by_task(query.order_by(c.task_id, c.place), c.task_id, task_ids):
            answer = Answer(**{name: getattr(row, name) for name in Answer.__dataclass_fields__})
            candidates = None if row.candidates is None else tuple(row.candidates)
            found.setdefault(row.task_id, []).append(
                Said(row.place - self._first, answer, candidates, row.prompt_version)
            )
        return found

    def usage(self, project_id: int, round_number: int) -> dict[str, dict[str, Any]]:
        """Return, for each annotator that was asked in a round, the questions and what they took."""
        c = t.opinions.c
        sums = (func.count(), func.sum(c.prompt_tokens), func.sum(c.completion_tokens), func.sum(c.seconds))
        query = select(c.annotator, *sums).where(c.project_id == project_id, c.round_number == round_number)
        with self._store._read() as connection:
            rows = connection.execute(query.group_by(c.annotator).order_by(c.annotator)).all()
        names = ("asked", "prompt_tokens", "completion_tokens", "seconds")
        return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}

    @cached_property
    def _upsert(self) -> Any:
        # Put together once: that takes longer than to execute it.
        c = t.opinions.c
        return self._store._upsert_into(
            t.opinions,
            key=KEY,
            change=tuple(set(c.keys()) - set(KEY)),
            where=lambda new: or_(c.content_hash != new.content_hash, c.control.is_distinct_from(new.control)),
        )
