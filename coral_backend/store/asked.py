"""What is known about each sample that a round could ask about? A part of the store, reached as ``store.asked``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, select

from coral_backend.store import tables as t
from coral_backend.types import Sample

if TYPE_CHECKING:
    from coral_backend.store.store import Store


@dataclass
class Known:
    """A sample and what was said about it.

    Attributes
    ----------
    answers : dict
        Round number -> label (None: abstained), ascending; only what fits the sample's text as it is now.
    by_person : bool
        Whether a person labelled it.
    flag, label : str or None
        Its verdict in the round that serves.
    """

    sample: Sample
    by_person: bool
    flag: str | None
    label: str | None
    answers: dict[int, str | None] = field(default_factory=dict)


class Asked:
    """One question, a page at a time: a round over a large corpus must not read all of it for each chunk."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def page(self, project_id: int, after: int, size: int, *, serving: int | None = None) -> list[Known]:
        """Return the next `size` samples behind the task `after`, by task id, with what is known about them.

        Parameters
        ----------
        serving : int or None
            The id of the round whose verdicts are wanted.
        """
        values = {"project": project_id, "after": after, "size": size, "serving": -1 if serving is None else serving}
        found: dict[int, Known] = {}
        with self._store._read() as connection:
            for row in connection.execute(self._page, values):
                task_id, text, problem, recorded, part, annotation, flag, verdict, number, label = row
                known = found.get(task_id)
                if known is None:
                    sample = Sample(task_id, text, problem, recorded, part)
                    known = found[task_id] = Known(sample, annotation is not None, flag, verdict)
                if number is not None:
                    known.answers[number] = label
        return list(found.values())

    @cached_property
    def _page(self) -> Any:
        # Put together once: that takes longer than to execute it.
        s, a, v, r = t.samples.c, t.annotations.c, t.verdicts.c, t.rounds.c
        mine = select(t.samples).where(s.project_id == bindparam("project"), s.retired.is_(False))
        page = mine.where(s.task_id > bindparam("after")).order_by(s.task_id).limit(bindparam("size")).subquery()
        p, said = page.c, t.llm_labels.c
        people = (
            select(a.annotation_id)
            .where(a.project_id == p.project_id, a.task_id == p.task_id, a.deleted.is_(False), a.label.is_not(None))
            .limit(1)
            .correlate(page)
            .scalar_subquery()
        )
        aside = select(r.number).where(r.project_id == bindparam("project"), r.set_aside.is_(True))
        fits = and_(
            said.project_id == p.project_id,
            said.task_id == p.task_id,
            said.content_hash == p.content_hash,
            said.round_number.not_in(aside),
        )
        judged = and_(v.project_id == p.project_id, v.round_id == bindparam("serving"), v.task_id == p.task_id)
        columns = (
            p.task_id,
            p.text,
            p.problem,
            p.recorded,
            p.slice,
            people,
            v.flag,
            v.label,
            said.round_number,
            said.label,
        )
        joined = page.outerjoin(t.verdicts, judged).outerjoin(t.llm_labels, fits)
        return select(*columns).select_from(joined).order_by(p.task_id, said.round_number)
