"""Which rows leave CORAL? One a task, with every label and score as they stand now, read page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

from coral_backend.controls import answer_of, human_label_of, verdict_of
from coral_backend.labels import MULTIPLE, SEVERAL, SINGLE, read_set, write_controls
from coral_backend.store import Store
from coral_backend.types import NOTHING, Answer, Detail, Flag, HumanLabel, LabelSpace, Project, Sample, Source, Verdict

__all__ = [
    "DETAILS", "KINDS", "MEANINGS", "PARTS", "SAID", "SET", "Cell", "Row", "columns", "flat_columns", "flattened", "kind_of",
    "meaning_of", "rows",
]  # fmt: skip

Cell: TypeAlias = str | int | float | list[Any] | None
Row: TypeAlias = dict[str, Cell]

PAGE = 2_000
"""Tasks that are in memory at a time."""

MEANINGS: Mapping[str, str] = {
    "task_id": "Label Studio's id of the task.",
    "text": "What was labelled.",
    "llm_label": "The annotator's newest label; empty where it abstained or was not asked.",
    "slm_label": "The small model's most probable label.",
    "confidence": "The small model's out-of-sample probability of slm_label, 0 to 1.",
    "p_clean": "Posterior that llm_label is right, 0 (surely wrong) to 1 (surely right).",
    "rank": "Place in the review queue; 1 is the most doubtful.",
    "flag": "clean, noisy or inconsistent; empty before the task's first round.",
    "human_label": "The label of a person; empty where there is none.",
    "annotator": "Label Studio's id of that person.",
    "updated_at": "When that person gave it (ISO 8601, UTC).",
    "label": "The label to use: the person's if there is one, else the most probable.",
    "score": "Probability that label is right, 0 to 1, out of sample; 1 for a person's, empty where unknown.",
    "source": "Who gave label: human, llm or slm.",
    "prompt_version": "The prompt that llm_label answers: a digest of its words.",
    "model_version": "The version of the round that judged the task.",
    "note": "Why a machine could not label the task.",
}
"""The columns in their order, and what each says; ``llm_label_r1``, ... come after ``llm_label``."""


KINDS: Mapping[str, type] = {
    "task_id": int,
    "rank": int,
    "annotator": int,
    "confidence": float,
    "p_clean": float,
    "score": float,
}
"""The columns that are no text, whatever is said of a task."""

SET, PARTS = "set", "parts"
"""Further kinds of columns: a list of labels; a list of what was decided about each part of a task."""

DETAILS = "details"
"""The column with the parts, where a task has parts: the fields of ``Detail``."""

SAID = ("llm_label", "slm_label", "human_label", "label")
"""The columns of what somebody said, beside one ``llm_label_r<n>`` a round."""

HAS = "has: "
"""Begins the name of a column with 1 or 0 for a label, in formats without lists."""

MOST_FLAT = 100
"""With more labels than this there is no column for each."""


OF_A_CONTROL = ("label", "score", "source", "flag", "llm_label", "slm_label", "confidence", "p_clean", "human_label")
"""The columns that each of several controls has for itself, as ``<control>.label``; they come after ``source``."""


def columns(store: Store, project_id: int) -> list[str]:
    """Return the names of the columns; there is an ``llm_label_r<n>`` for each round that asked the annotator.

    Where a task has parts, ``details`` comes last.
    """
    names = list(MEANINGS)
    place, end = names.index("llm_label") + 1, names.index("source") + 1
    space = store.project(project_id).label_space
    asked = [f"llm_label_r{number}" for number in store.llm_rounds(project_id)]
    own = [f"{control.from_name}.{column}" for control in space.controls for column in OF_A_CONTROL]
    return [*names[:place], *asked, *names[place:end], *own, *names[end:], *([DETAILS] if _has_parts(space) else [])]


def _has_parts(space: LabelSpace) -> bool:
    """Say whether rows have a column with parts; of several controls each has columns of its own instead."""
    return space.kind not in (SINGLE, SEVERAL)


def meaning_of(name: str) -> str:
    """Return what the column `name` says."""
    if name in MEANINGS:
        return MEANINGS[name]
    if name == DETAILS:
        return "What was decided about each part of the task: its name, label, score, flag, and what LLM and SLM say of it."
    if name.startswith(HAS):
        return f"Whether label has {name.removeprefix(HAS)!r}: 1 or 0."
    control, _, column = name.rpartition(".")
    if control and column in OF_A_CONTROL:
        return f"Of the control {control}: {MEANINGS[column][0].lower()}{MEANINGS[column][1:]}"
    return f"The annotator's label of round {name.removeprefix('llm_label_r')}."


def kind_of(name: str, space: LabelSpace | None = None) -> type | str:
    """Return what the values in the column `name` are: a type, or where `space` says so ``SET`` or ``PARTS``."""
    if name == DETAILS:
        return PARTS
    if name.startswith(HAS):
        return int
    control, _, column = name.rpartition(".")
    if space is not None and (said := _said_in(name, space)) is not None and said.kind == MULTIPLE:
        return SET
    return KINDS.get(name) or KINDS.get(column if control else "", str)


def _said_in(name: str, space: LabelSpace) -> LabelSpace | None:
    """Return the control whose labels stand in a column; None for columns of other things."""
    if not space.controls:
        return space if name in SAID or name.startswith("llm_label_r") else None
    control, _, column = name.rpartition(".")
    return next((one for one in space.controls if one.from_name == control and column in SAID), None)


def flat_columns(names: Sequence[str], space: LabelSpace) -> list[str]:
    """Return the columns for formats without lists: there a set is a text and each of its labels has a column; see ``flattened``."""
    if space.kind != MULTIPLE:
        return list(names)
    own = [f"{HAS}{label}" for label in space.labels] if len(space.labels) <= MOST_FLAT else []
    return [*(name for name in names if name != DETAILS), *own]


def flattened(row: Row, names: Sequence[str]) -> Row:
    """Return a row with the columns `names` of ``flat_columns``; parts of other kinds become JSON."""
    chosen = row["label"]
    return {
        name: _has(name.removeprefix(HAS), chosen)
        if name.startswith(HAS)
        else json.dumps(row[name], ensure_ascii=False)
        if name == DETAILS
        else _flat(row[name])
        for name in names
    }


def _has(label: str, chosen: Cell) -> int | None:
    return int(label in chosen) if isinstance(chosen, list) else None


def _flat(value: Cell) -> Cell:
    return value if not isinstance(value, list) else ", ".join(value) or NOTHING


def rows(store: Store, project_id: int, *, clean_only: bool = False) -> Iterator[Row]:
    """Yield one mapping of column to value a task, by task id; the labels of a page of tasks are in memory at a time.

    Human labels count as they stand now, also those given after the round.

    Parameters
    ----------
    clean_only : bool
        Leave out what is neither flagged clean nor labelled by a person.

    Raises
    ------
    NotFoundError
        If the project is not connected.
    """
    project, numbers = store.project(project_id), store.llm_rounds(project_id)
    return _pages(store, project, numbers, clean_only=clean_only)


def _pages(store: Store, project: Project, numbers: Sequence[int], *, clean_only: bool) -> Iterator[Row]:
    last = -1
    while page := store.sample_page(project.id, last, PAGE):
        last = page[-1].task_id
        for row in (_typed(project.label_space, row) for row in _page(store, project, numbers, page)):
            if not clean_only or _is_clean(project, row):
                yield row


def _is_clean(project: Project, row: Row) -> bool:
    """Say whether a row is flagged clean or labelled by a person; of several controls, each of them."""
    prefixes = [f"{space.from_name}." for space in project.label_space.controls] or [""]
    return all(row[f"{own}source"] == Source.HUMAN or row[f"{own}flag"] == Flag.CLEAN for own in prefixes)


def _page(store: Store, project: Project, numbers: Sequence[int], page: Sequence[Sample]) -> Iterator[Row]:
    ids = [sample.task_id for sample in page]
    human, answers = store.human_labels(project.id, ids), store.llm_labels(project.id, task_ids=ids)
    history = store.llm_history(project.id, ids)
    aside = {one.number for one in store.rounds(project.id) if one.set_aside}
    judged = store.verdicts(project.id, project.active_round, ids) if project.active_round is not None else []
    verdicts = {verdict.task_id: verdict for verdict in judged}
    for sample in page:
        task_id = sample.task_id
        verdict = verdicts.get(task_id)
        if verdict is not None and verdict.content_hash != sample.content_hash:
            verdict = None  # it judged another text, that somebody has changed since
        given = history.get(task_id, {})
        asked = {f"llm_label_r{number}": given[number][0] if number in given else None for number in numbers}
        yield _row(
            project,
            sample,
            verdict,
            answer=answers.get(task_id),
            human=human.get(task_id),
            asked=asked,
            prompt_version=given[max(counted)][1] if (counted := given.keys() - aside) else None,
        )


def _row(
    project: Project,
    sample: Sample,
    verdict: Verdict | None,
    *,
    answer: Answer | None,
    human: HumanLabel | None,
    asked: Mapping[str, str | None],
    prompt_version: str | None,
) -> Row:
    own = _of_controls(project, verdict, answer, human)
    label, score, source = _joined_final(project, own) if own else _final(verdict, answer, human)
    return {
        "task_id": sample.task_id,
        "text": sample.text,
        "llm_label": verdict.llm_label if verdict else answer.label if answer else None,
        **asked,
        "slm_label": verdict.slm_label if verdict else None,
        "confidence": _short(verdict.slm_score) if verdict else None,
        "p_clean": _short(verdict.p_clean) if verdict else None,
        "rank": verdict.rank if verdict else None,
        "flag": str(verdict.flag) if verdict else None,
        "human_label": human.label if human else None,
        "annotator": human.user_id if human else None,
        "updated_at": human.updated_at if human else None,
        "label": label,
        "score": _short(score),
        "source": str(source) if source else None,
        **own,
        "prompt_version": prompt_version,
        "model_version": project.model_version if verdict else None,
        "note": sample.problem or (answer.reason if answer else None),
        **({DETAILS: _parts(verdict)} if _has_parts(project.label_space) else {}),
    }


def _typed(space: LabelSpace, row: Row) -> Row:
    """Return a row in which a set is a list."""
    if all(one.kind != MULTIPLE for one in (space, *space.controls)):
        return row
    return {name: _list(value) if kind_of(name, space) == SET else value for name, value in row.items()}


def _list(said: Cell) -> Cell:
    chosen = read_set(said) if isinstance(said, str) else None
    return None if chosen is None else list(chosen)


def _parts(verdict: Verdict | None) -> list[dict[str, Any]]:
    """Return the details of a verdict as plain values."""
    found = []
    for one in verdict.details if verdict else ():
        values = {f.name: getattr(one, f.name) for f in fields(Detail)}
        found.append({name: _plain(value) for name, value in values.items()})
    return found


def _plain(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else str(value) if isinstance(value, Flag | Source) else value


def _of_controls(
    project: Project, verdict: Verdict | None, answer: Answer | None, human: HumanLabel | None
) -> dict[str, Cell]:
    """Return the columns of each of several controls; nothing where there is one."""
    found: dict[str, Cell] = {}
    for space in project.label_space.controls:
        name = space.from_name
        own, said = verdict_of(verdict, space) if verdict else None, answer_of(answer, name) if answer else None
        person = human_label_of(human, name) if human else None
        person = person if person is not None and person.label is not None else None
        label, score, source = _final(own, said, person)
        values: dict[str, Cell] = {
            "label": label,
            "score": _short(score),
            "source": str(source) if source else None,
            "flag": str(own.flag) if own else None,
            "llm_label": own.llm_label if own else said.label if said else None,
            "slm_label": own.slm_label if own else None,
            "confidence": _short(own.slm_score) if own else None,
            "p_clean": _short(own.p_clean) if own else None,
            "human_label": person.label if person else None,
        }
        found |= {f"{name}.{column}": values[column] for column in OF_A_CONTROL}
    return found


def _joined_final(project: Project, own: Mapping[str, Cell]) -> tuple[str | None, float | None, Source | None]:
    """Return label, score and source of a task of several controls: what they say, as sure as the least sure."""
    order = [space.from_name for space in project.label_space.controls]
    said = {name: str(label) for name in order if (label := own[f"{name}.label"]) is not None}
    scores = [score for name in said if isinstance(score := own[f"{name}.score"], float)]
    sources = {own[f"{name}.source"] for name in said}
    source = next((one for one in (Source.HUMAN, Source.SLM, Source.LLM) if str(one) in sources), None)
    return write_controls(said, order) if said else None, min(scores, default=None), source


def _final(
    verdict: Verdict | None, answer: Answer | None, human: HumanLabel | None
) -> tuple[str | None, float | None, Source | None]:
    """Return label, score and source as they stand now: people may have labelled, or taken back, since the round."""
    if human is not None:
        return human.label, 1.0, Source.HUMAN
    if verdict is None:
        label = answer.label if answer else None
        return label, None, Source.LLM if label is not None else None
    if verdict.source is not Source.HUMAN:
        return verdict.label, verdict.score, verdict.source
    label = verdict.slm_label or verdict.llm_label  # the person's label was taken back since
    source = None if label is None else Source.LLM if label == verdict.llm_label else Source.SLM
    return label, verdict.slm_score if verdict.slm_label else None, source


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
