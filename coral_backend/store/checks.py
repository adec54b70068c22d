"""What do people's labels say of each slice? The tasks drawn for a gold check, and how often LLM, SLM and verdict are right."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import and_, func, select

from coral_backend.controls import is_said
from coral_backend.store import tables as t
from coral_backend.store.browse import by_a_person, people
from coral_backend.store.store import Store

__all__ = ["Drawn", "Found", "draw", "drawn", "found_in_slices"]


@dataclass(frozen=True)
class Drawn:
    """A task that was drawn at random from its slice, as number `place` of all drawn; ``""`` is the slice of tasks in none."""

    task_id: int
    slice: str
    place: int


@dataclass(frozen=True)
class Found:
    """What people say of one slice now; one line of the table of slices.

    Attributes
    ----------
    slice : str
        Its name; empty for tasks in no slice.
    tasks : int
        Tasks in it that have a readable text.
    checked : int
        Tasks that people labelled and that the round had an LLM label for.
    llm_right, slm_right : int
        On how many of these each is right.
    drawn, drawn_checked : int
        Tasks that were drawn at random from it; those of them that people labelled.
    machine_right : int
        On how many of the latter the machine's verdict is right that would stand there without a person.
    """

    slice: str
    tasks: int
    checked: int = 0
    llm_right: int = 0
    slm_right: int = 0
    drawn: int = 0
    drawn_checked: int = 0
    machine_right: int = 0


def draw(store: Store, project_id: int, slices: Mapping[int, str]) -> list[Drawn]:
    """Add tasks (task id -> slice, in the order of the drawing) to those drawn before, and return the new ones.

    A task whose slice has changed since it was drawn is drawn from its new one.
    """
    known = {one.task_id: one for one in drawn(store, project_id)}
    new = [task_id for task_id, name in slices.items() if task_id not in known or known[task_id].slice != name]
    last, now = max((one.place for one in known.values()), default=0), time.time()
    found = [Drawn(task_id, slices[task_id], last + number) for number, task_id in enumerate(new, 1)]
    rows = [{"project_id": project_id, **asdict(one), "drawn_at": now} for one in found]
    rows.sort(
        key=lambda row: row["task_id"]
    )  # two people may draw at once: their transactions then wait, and never for each other
    with store.writing() as connection:
        key, change = ("project_id", "task_id"), ("slice", "place", "drawn_at")
        store._upsert(connection, t.checks, rows, key=key, change=change)
    return found


def drawn(store: Store, project_id: int) -> list[Drawn]:
    """Return the tasks drawn from the slices they are still in, in the order of the drawing."""
    c, s = t.checks.c, t.samples.c
    here = and_(s.project_id == c.project_id, s.task_id == c.task_id, s.retired.is_(False))
    query = select(c.task_id, c.slice, c.place).join(t.samples, here).where(c.project_id == project_id)
    query = query.where(func.coalesce(s.slice, "") == c.slice).order_by(c.place)
    with store.reading() as connection:
        return [Drawn(*tuple(row)) for row in connection.execute(query)]


def found_in_slices(store: Store, project_id: int, round_id: int | None) -> list[Found]:
    """Return what people say of each slice, the largest first; the machines' labels are those of one round."""
    s = t.samples.c
    name = func.coalesce(s.slice, "").label("slice")
    here = and_(s.project_id == project_id, s.retired.is_(False), s.problem.is_(None))
    with store.reading() as connection:
        sizes = {row[0]: row[1] for row in connection.execute(select(name, func.count()).where(here).group_by(name))}
        rows = connection.execute(_checked(project_id, round_id, name, here)).all()
    pulled = drawn(store, project_id)
    counts: dict[str, Counter[str]] = {slice_: Counter() for slice_ in sizes}
    random = {one.task_id for one in pulled}
    for one in pulled:
        counts.setdefault(one.slice, Counter())["drawn"] += 1
    for row in rows:
        counted = counts[row.slice]
        if row.llm_label is not None:
            counted["checked"] += 1
            counted["llm_right"] += is_said(row.label, row.llm_label)
            counted["slm_right"] += is_said(row.label, row.slm_label)
        if row.task_id in random and row.machine_label is not None:
            counted["drawn_checked"] += 1
            counted["machine_right"] += is_said(row.label, row.machine_label)
    lines = [Found(slice_, sizes.get(slice_, 0), **counted) for slice_, counted in counts.items()]
    return sorted(lines, key=lambda line: (-line.tasks, line.slice))


def _checked(project_id: int, round_id: int | None, name: Any, here: Any) -> Any:
    """Return the query for the tasks that a person labelled and the round judged, as it stands now."""
    s, v, p = t.samples.c, t.verdicts.c, people.c
    same = and_(s.project_id == p.project_id, s.task_id == p.task_id)
    judged = and_(
        v.project_id == project_id,
        v.task_id == s.task_id,
        v.round_id == (round_id or 0),
        v.content_hash == s.content_hash,
    )
    # From the few labels of people to one sample and one verdict each, never over all samples.
    both = people.join(t.samples, same).join(t.verdicts, judged)
    columns = (s.task_id, name, p.label, v.llm_label, v.slm_label, v.machine_label)
    mine = and_(p.project_id == project_id, by_a_person(p.project_id, p.task_id))
    return select(*columns).select_from(both).where(mine, here)
