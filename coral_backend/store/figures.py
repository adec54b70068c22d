"""How does a project stand, in numbers? Counts, agreement with people, and what the charts and the map of a round draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, and_, case, func, select

from coral_backend.store import tables as t
from coral_backend.store.browse import FLAGS, Columns, by_a_person, people, set_aside
from coral_backend.store.store import Store
from coral_backend.types import Floats, Ints

__all__ = ["Agreement", "Counts", "Point", "Scores", "agreement", "counts", "points", "scores"]


@dataclass(frozen=True)
class Counts:
    """How much there is of a project.

    Attributes
    ----------
    unreadable : int
        Tasks without a text that can be labelled.
    annotated, abstained : int
        Tasks whose newest answer of the annotator is a label; is none.
    human : int
        Tasks with a label of a person.
    flags : mapping of str to int
        Verdicts of the round that is looked at.
    """

    tasks: int
    unreadable: int
    annotated: int
    abstained: int
    human: int
    waiting: int
    flags: Mapping[str, int]


@dataclass(frozen=True)
class Agreement:
    """On how many tasks with a label of a person each says the same; one line of the paper's Table 2.

    Attributes
    ----------
    n, llm, slm : int
        Tasks compared; of them those on which each agrees.
    """

    n: int
    llm: int
    slm: int


def _said_by_people(connection: Connection, project_id: int) -> dict[int, str]:
    """Return the label of each task that a person labelled and that still exists."""
    s, p = t.samples.c, people.c
    known = people.join(t.samples, and_(s.project_id == p.project_id, s.task_id == p.task_id))
    query = select(p.task_id, p.label).select_from(known).where(p.project_id == project_id, s.retired.is_(False))
    return {row[0]: row[1] for row in connection.execute(query.where(by_a_person(p.project_id, p.task_id)))}


def counts(store: Store, project_id: int, round_id: int | None) -> Counts:
    """Count a project's tasks, answers, labels of people, and the flags of one round."""
    s, v, a = t.samples.c, t.verdicts.c, t.llm_labels.c
    here = and_(s.project_id == project_id, s.retired.is_(False))
    sums = [func.count(), func.count(s.problem), func.sum(case((s.wanted.is_(True), 1), else_=0))]
    same = and_(a.project_id == s.project_id, a.task_id == s.task_id, a.content_hash == s.content_hash)
    newest = select(func.max(a.round_number)).where(same, a.round_number.not_in(set_aside(project_id)))
    fits = and_(same, a.round_number == newest.correlate(t.samples).scalar_subquery())
    flags = select(v.flag, func.count()).select_from(
        t.verdicts.join(t.samples, and_(s.project_id == v.project_id, s.task_id == v.task_id))
    )
    flags = flags.where(v.project_id == project_id, v.round_id == (round_id or 0), s.retired.is_(False)).group_by(
        v.flag
    )
    with store.reading() as connection:
        tasks, unreadable, waiting = connection.execute(select(*sums).where(here)).one()
        asked, labelled = connection.execute(
            select(func.count(), func.count(a.label)).select_from(t.samples.join(t.llm_labels, fits)).where(here)
        ).one()
        human = len(_said_by_people(connection, project_id))
        found: dict[str, int] = {row[0]: row[1] for row in connection.execute(flags)}
    return Counts(tasks, unreadable, labelled, asked - labelled, human, waiting or 0, found)


def agreement(store: Store, project_id: int) -> dict[int, Agreement]:
    """Return, for each round's id, how often LLM and SLM said what people say now.

    People look at doubtful tasks first, so both shares are below those over all tasks.
    """
    v, s, r, p = t.verdicts.c, t.samples.c, t.rounds.c, people.c
    # From the rounds and the few labels of people to one verdict each, never over all verdicts.
    both = (
        t.rounds.join(people, and_(p.project_id == r.project_id, by_a_person(p.project_id, p.task_id)))
        .join(t.verdicts, and_(v.project_id == r.project_id, v.round_id == r.id, v.task_id == p.task_id))
        .join(t.samples, and_(s.project_id == r.project_id, s.task_id == p.task_id))
    )
    hits = [func.sum(case((said == people.c.label, 1), else_=0)) for said in (v.llm_label, v.slm_label)]
    query = select(v.round_id, func.count(), *hits).select_from(both)
    query = query.where(r.project_id == project_id, s.retired.is_(False)).group_by(v.round_id)
    with store.reading() as connection:
        return {row[0]: Agreement(row[1], row[2], row[3]) for row in connection.execute(query)}


@dataclass(frozen=True)
class Scores:
    """What a round says about N tasks: numbers as arrays, NaN where there is none, and the labels.

    Attributes
    ----------
    flag : ndarray of int
        Place in ``FLAGS``.
    llm, slm, human : sequence of str or None
        Labels; the human one as it stands now.
    """

    loss: Floats
    confidence: Floats
    flag: Ints
    llm: Sequence[str | None]
    slm: Sequence[str | None]
    human: Sequence[str | None]

    @property
    def right(self) -> Ints:
        """Whether the SLM says what a person says, 1 or 0; -1 where no person labelled."""
        pairs = zip(self.slm, self.human, strict=True)
        return np.array([-1 if human is None else int(slm == human) for slm, human in pairs], dtype=np.int64)

    def pairs(self, row: str, column: str) -> Counter[tuple[str, str]]:
        """Count the pairs of two of ``llm``, ``slm`` and ``human``; tasks that lack one are left out."""
        both = zip(getattr(self, row), getattr(self, column), strict=True)
        return Counter((a, b) for a, b in both if a is not None and b is not None)


def scores(store: Store, project_id: int, round_id: int) -> Scores:
    """Return losses (nats), confidences in [0, 1], flags and labels of a round: one reading for all charts."""
    columns, v = Columns(project_id, round_id), t.verdicts.c
    query = select(v.loss, v.slm_score, v.flag, v.llm_label, v.slm_label, v.task_id).select_from(columns.judged)
    with store.reading() as connection:
        said = _said_by_people(connection, project_id)
        rows = connection.execute(query.where(columns.here)).all()
    loss, confidence, flag, llm, slm, ids = zip(*rows, strict=True) if rows else ((), (), (), (), (), ())
    return Scores(
        np.array(loss, dtype=float),
        np.array(confidence, dtype=float),
        np.array([FLAGS.index(name) for name in flag], dtype=np.int64),
        llm,
        slm,
        [said.get(task_id) for task_id in ids],
    )


@dataclass(frozen=True)
class Point:
    """What colours a point of the map; labels as they stand now."""

    task_id: int
    label: str | None
    flag: str
    confidence: float | None
    human: bool


def points(store: Store, project_id: int, round_id: int) -> list[Point]:
    """Return what colours the points of a round, the most doubtful first."""
    columns, v = Columns(project_id, round_id), t.verdicts.c
    query = select(v.task_id, columns.machine, v.flag, v.slm_score).select_from(columns.judged).where(columns.here)
    with store.reading() as connection:
        said = _said_by_people(connection, project_id)
        rows = connection.execute(query.order_by(v.rank, v.task_id)).all()
    return [Point(i, said.get(i, label), flag, confidence, i in said) for i, label, flag, confidence in rows]
