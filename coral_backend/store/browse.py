"""What does a page of a project show? Counted, filtered, sorted and cut into pages by the database, never in Python.

Ten thousand tasks, some with texts of megabytes, must not be read to show fifty lines: texts are cut in SQL as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Integer, and_, bindparam, case, false, func, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

from coral_backend.exceptions import NotFoundError
from coral_backend.labels import MULTIPLE, SINGLE, SPANS, read_controls
from coral_backend.store import tables as t
from coral_backend.store.store import Store

__all__ = [
    "EXCERPT",
    "FLAGS",
    "SORTS",
    "Columns",
    "Filters",
    "Line",
    "Page",
    "by_a_person",
    "one",
    "page",
    "people",
    "set_aside",
]

EXCERPT: Final = 280
"""Characters of a text that a line of the table shows."""

FLAGS: Final = ("clean", "noisy", "inconsistent", "none")
"""What a filter may ask for; ``none`` is a task that no round has judged."""


@dataclass(frozen=True)
class Filters:
    """What the lines must be like; None asks for nothing.

    Attributes
    ----------
    contains : str or None
        Stands in the text, letters large or small.
    human : str or None
        ``yes``: labelled by a person; ``no``: not.
    agree : str or None
        Whether LLM and SLM say the same.
    wrong : str or None
        ``llm`` or ``slm``: tasks with a label of a person, which this one does not say.
    llm, slm, label, human_label : str or None
        A label; the empty text asks for tasks that have none.
    at_least, at_most : float or None
        Bounds of the SLM's confidence.
    task_ids : sequence of int or None
        Only these: a set drawn on the map.
    parts : mapping of str to str or None
        The kind of each of several controls, by its name: a label that is asked for is then that of one of them, as ``labels.py``
        writes it, and others may stand beside it.
    sets : bool
        Whether what is said of a task is a set of labels: then a label asks for those that have it.
    spans : bool
        Whether it is spans: then a label asks for the tasks that have a span with it.
    rows : bool
        Whether a text is a row of a table: then `contains` is looked for as people read it, ``name: value``.
    """

    contains: str | None = None
    flag: str | None = None
    label: str | None = None
    llm: str | None = None
    slm: str | None = None
    human_label: str | None = None
    human: str | None = None
    agree: str | None = None
    wrong: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    task_ids: Sequence[int] | None = field(default=None, repr=False)
    parts: Mapping[str, str] | None = None
    sets: bool = False
    spans: bool = False
    rows: bool = False


@dataclass(frozen=True)
class Line:
    """One task as the table shows it; the names are those of the export.

    Attributes
    ----------
    text : str
        Its beginning, ``EXCERPT`` characters unless more were asked for; `length` says how many there are.
    source : str or None
        Who gave `label`: ``human``, ``llm`` or ``slm``.
    details : list of dict or None
        What was decided about the parts of a task that has some, as ``Detail``.
    """

    task_id: int
    text: str
    length: int
    problem: str | None
    llm_label: str | None
    slm_label: str | None
    confidence: float | None
    p_clean: float | None
    rank: int | None
    flag: str | None
    human_label: str | None
    label: str | None
    source: str | None
    details: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Page:
    """Some of the lines that fit, and how many fit in all."""

    lines: Sequence[Line]
    total: int


# --- what the queries are made of -------------------------------------------------------------------------------------


people: Final = t.annotations.alias("people")


def by_a_person(project_id: Any, task_id: Any) -> ColumnElement[bool]:
    """Say that a row of ``people`` is the label of this task that counts: the ground truth, else the newest (as ``human_labels``).

    One look into the index a task; a join with a ranked list would be read whole for each of them.
    """
    c = t.annotations.c
    order = (c.ground_truth.desc(), c.updated_at.desc(), c.annotation_id.desc())
    labels = select(c.annotation_id).where(
        c.project_id == project_id, c.task_id == task_id, c.deleted.is_(False), c.label.is_not(None)
    )
    first = labels.order_by(*order).limit(1).correlate(project_id.table).scalar_subquery()
    return and_(people.c.project_id == project_id, people.c.annotation_id == first)


def set_aside(project_id: int) -> Any:
    """Return the numbers of the rounds that a rollback set aside: what an LLM said in them does not count."""
    r = t.rounds.c
    return select(r.number).where(r.project_id == project_id, r.set_aside.is_(True))


def _newest_answer(project_id: int) -> Any:
    """Return the annotator's newest label of the sample in the outer query."""
    c, s = t.llm_labels.c, t.samples.c
    same = and_(c.project_id == s.project_id, c.task_id == s.task_id, c.content_hash == s.content_hash)
    same = and_(same, c.round_number.not_in(set_aside(project_id)))
    query = select(c.label).where(same).order_by(c.round_number.desc()).limit(1)
    return query.correlate(t.samples).scalar_subquery()


class Columns:
    """The columns of a line in SQL, over samples, the verdicts of one round, and the labels of people.

    ``judged`` has the same without people: whoever reads every line asks for their few labels by themselves.
    """

    def __init__(self, project_id: int, round_id: int | None, *, whole: bool = False) -> None:
        s, v = t.samples.c, t.verdicts.c
        # A verdict about another text of the task does not count. No round has the id 0; IS NULL would use no index.
        about = and_(
            v.project_id == s.project_id,
            v.task_id == s.task_id,
            v.round_id == (round_id or 0),
            v.content_hash == s.content_hash,
        )
        self.judged = t.samples.join(t.verdicts, about)
        self.source = t.samples.outerjoin(t.verdicts, about).outerjoin(people, by_a_person(s.project_id, s.task_id))
        self.here = and_(s.project_id == project_id, s.retired.is_(False))
        self.llm = case((v.task_id.is_not(None), v.llm_label), else_=_newest_answer(project_id))
        self.human = people.c.label
        # As the export has it: a label that its person took back since the round falls to the machine's.
        self.machine = case((v.source == "human", func.coalesce(v.slm_label, v.llm_label)), else_=v.label)
        self.label = func.coalesce(people.c.label, case((v.task_id.is_not(None), self.machine), else_=self.llm))
        said_by = case(
            (v.source.in_(("llm", "slm")), v.source),
            (v.slm_label == v.llm_label, "llm"),
            (v.slm_label.is_not(None), "slm"),
            (self.label.is_not(None), "llm"),
        )
        self.said_by = case((people.c.label.is_not(None), "human"), else_=said_by)
        self.names: dict[str, ColumnElement[Any]] = {
            "task_id": s.task_id,
            "text": s.text if whole else func.substr(s.text, 1, EXCERPT),
            "length": func.length(s.text),
            "problem": s.problem,
            "llm_label": self.llm,
            "slm_label": v.slm_label,
            "confidence": v.slm_score,
            "p_clean": v.p_clean,
            "rank": v.rank,
            "flag": v.flag,
            "human_label": self.human,
            "label": self.label,
            "source": self.said_by,
            "details": v.details,
        }

    def all(self) -> list[Any]:
        """Return them under the names of ``Line``, in its order."""
        return [column.label(name) for name, column in self.names.items()]


SORTS: Final = (
    "rank", "task_id", "text", "llm_label", "slm_label", "confidence", "p_clean", "flag", "human_label", "label"
)  # fmt: skip
"""What the lines can be sorted by."""


# --- questions --------------------------------------------------------------------------------------------------------


def page(
    store: Store,
    project_id: int,
    round_id: int | None,
    filters: Filters,
    *,
    sort: str = "rank",
    descending: bool = False,
    limit: int = 50,
    offset: int = 0,
    whole: bool = False,
) -> Page:
    """Return the lines from `offset` on that fit `filters`.

    Parameters
    ----------
    round_id : int or None
        Whose verdicts; None before the first round.
    sort : str
        One of ``SORTS``; lines that have no value there come last, and ties go by task id.
    whole : bool
        Whether texts are not cut: a row of a table cannot be read in part.
    """
    columns = Columns(project_id, round_id, whole=whole)
    where = _where(columns, filters)
    by = columns.names[sort]
    order = (by.is_(None), by.desc() if descending else by.asc(), t.samples.c.task_id)
    query = select(*columns.all()).select_from(columns.source).where(where).order_by(*order).limit(limit).offset(offset)
    count = select(func.count()).select_from(columns.source).where(where)
    with store.reading() as connection:
        lines = [Line(*tuple(row)) for row in connection.execute(query)]
        total = connection.scalar(count) or 0
    return Page(lines, total)


def one(store: Store, project_id: int, round_id: int | None, task_id: int, *, whole: bool = False) -> Line:
    """Return one task's line; see ``page``.

    Raises
    ------
    NotFoundError
        If the project has no such task.
    """
    columns = Columns(project_id, round_id, whole=whole)
    query = select(*columns.all()).select_from(columns.source).where(columns.here, t.samples.c.task_id == task_id)
    with store.reading() as connection:
        row = connection.execute(query).first()
    if row is None:
        raise NotFoundError(f"Project {project_id} has no task {task_id}. It may have been deleted in Label Studio.")
    return Line(*tuple(row))


def _where(columns: Columns, wanted: Filters) -> ColumnElement[bool]:
    s, v = t.samples.c, t.verdicts.c
    parts: list[ColumnElement[bool]] = [columns.here]
    if wanted.contains:
        text, words = (
            (_unquoted(s.text), wanted.contains.replace('"', "")) if wanted.rows else (s.text, wanted.contains)
        )
        parts.append(text.ilike(f"%{_literal(words)}%", escape="\\"))
    if wanted.flag:
        parts.append(v.flag.is_(None) if wanted.flag == "none" else v.flag == wanted.flag)
    asked = (
        (columns.label, wanted.label),
        (columns.llm, wanted.llm),
        (v.slm_label, wanted.slm),
        (columns.human, wanted.human_label),
    )
    parts += [_says(column, value, wanted) for column, value in asked if value is not None]
    if wanted.human:
        parts.append(columns.human.is_not(None) if wanted.human == "yes" else columns.human.is_(None))
    if wanted.agree:
        same = columns.llm == v.slm_label
        parts.append(same if wanted.agree == "yes" else ~same)
    if wanted.wrong:
        said = columns.llm if wanted.wrong == "llm" else v.slm_label
        parts.append(and_(columns.human.is_not(None), or_(said.is_(None), said != columns.human)))
    if wanted.at_least is not None:
        parts.append(v.slm_score >= wanted.at_least)
    if wanted.at_most is not None:
        parts.append(v.slm_score <= wanted.at_most)
    if wanted.task_ids is not None:
        # Written into the statement as numbers: a set may be larger than the databases' limits on bound values.
        parts.append(
            s.task_id.in_(bindparam("ids", [int(i) for i in wanted.task_ids], expanding=True, literal_execute=True))
        )
    return and_(*parts)


def _says(column: Any, value: str, wanted: Filters) -> ColumnElement[bool]:
    """Say that a column of labels has the label `value`; of the empty text, that it has none."""
    kind = MULTIPLE if wanted.sets else SPANS if wanted.spans else SINGLE
    if value == "":
        return or_(column.is_(None), false() if kind == SINGLE else column == "[]")
    if wanted.parts is not None:
        return _control_says(column, value, wanted.parts)
    same: ColumnElement[bool] = column == value
    return same if kind == SINGLE else _has(column, _MARKS[kind](value))


def _in_set(label: str) -> list[str]:
    """Return what a set, as ``labels.write_set`` writes it, has in it where it has a label.

    Within the text of the list a label begins after a bracket or a comma and a blank, which no label can imitate: in labels quotes are
    escaped.
    """
    name = json.dumps(label, ensure_ascii=False)
    return [f"[{name}", f", {name}"]


def _in_spans(label: str) -> list[str]:
    """Return what spans, as ``labels.write_spans`` writes them, have in them where one has a label; no label can imitate it."""
    return [f", {json.dumps(label, ensure_ascii=False)}]"]


_MARKS: Final = {MULTIPLE: _in_set, SPANS: _in_spans}
"""By the kind of a control that says more than one label."""


def _has(column: Any, parts: Sequence[str]) -> ColumnElement[bool]:
    """Say that a text has one of `parts` in it. Not LIKE, which in SQLite takes large letters for small ones."""
    return or_(*(func.replace(column, part, "") != column for part in parts))


def _has_part(column: Any, value: str) -> ColumnElement[bool]:
    """Say that the JSON object `column` has the one member of the object `value`, which is written alike.

    Inside a text of the JSON every quote has a backslash in front, so that no text is taken for the member.
    """
    return _has(column, [value[1:-1]])


def _unquoted(row: Any) -> ColumnElement[str]:
    """Return the JSON of a row without its quotes, which is ``name: value`` as people read it, with commas between."""
    plain: ColumnElement[str] = func.replace(func.replace(row, '\\"', ""), '"', "")
    return plain


def _control_says(column: Any, value: str, kinds: Mapping[str, str]) -> ColumnElement[bool]:
    """Say that of several controls the one that `value` names has its label; of a control that is not there, that none has."""
    [(control, label)] = (read_controls(value) or {"": ""}).items()
    kind = kinds.get(control)
    if kind is None:
        return false()
    if kind == SINGLE:
        return _has_part(column, value)
    # What is said stands as a text in the JSON, and ends with a bracket. No label can imitate that bracket and quote, nor the control's
    # name with what follows it: inside a text of the JSON every quote has a backslash in front.
    begin = f'{json.dumps(control, ensure_ascii=False)}: "'
    rest = func.substr(column, _Place(column, begin) + len(begin))
    said = func.substr(rest, 1, _Place(rest, ']"'))
    marks = [json.dumps(mark, ensure_ascii=False)[1:-1] for mark in _MARKS[kind](label)]
    return and_(_Place(column, begin) > 0, _has(said, marks))


class _Place(FunctionElement[int]):
    """Where a text begins in another, from 1 on; 0 where it does not: ``instr``, in PostgreSQL ``strpos``."""

    type = Integer()
    inherit_cache = True


@compiles(_Place)
def _instr(element: _Place, compiler: SQLCompiler, **more: Any) -> str:
    return f"instr({compiler.process(element.clauses, **more)})"


@compiles(_Place, "postgresql")
def _strpos(element: _Place, compiler: SQLCompiler, **more: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **more)})"


def _literal(words: str) -> str:
    """Return `words` so that LIKE takes every character for itself."""
    return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
