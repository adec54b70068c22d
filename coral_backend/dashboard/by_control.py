"""What do the pages show of one control, in a project with several? The same charts and points, made of that control's verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from coral_backend.controls import agreed_pairs
from coral_backend.exceptions import InputError
from coral_backend.labels import read_controls, write_controls
from coral_backend.store import Store, browse, figures
from coral_backend.store.controls import ControlStore, view_of
from coral_backend.types import LabelSpace, Project, Round, Verdict

__all__ = ["agreement_of", "asks_for", "choices", "chosen", "points_of", "scores_of", "whole_lines", "wrong_ids"]


def chosen(project: Project, wanted: str | None) -> LabelSpace | None:
    """Return the control that a page is about: the one called `wanted`, else the first; None in a project with one.

    Raises
    ------
    InputError
        If there is no such control.
    """
    controls = project.label_space.controls
    if not controls or not wanted:
        return controls[0] if controls else None
    found = next((space for space in controls if space.from_name == wanted), None)
    if found is None:
        raise InputError(f"control is {wanted[:40]!r}. Allowed: {', '.join(space.from_name for space in controls)}.")
    return found


def asks_for(control: LabelSpace | None, label: str) -> str:
    """Return how the table of samples is asked for a label: of one of several controls, with its name."""
    return label if control is None else write_controls({control.from_name: label}, [control.from_name])


def choices(project: Project) -> list[tuple[str, str]]:
    """Return the labels that the table of samples can be asked for, each with what people read."""
    space = project.label_space
    if not space.controls:
        return [(label, label) for label in space.labels]
    return [(asks_for(one, label), f"{one.from_name}: {label}") for one in space.controls for label in one.labels]


def scores_of(store: Store, project: Project, control: LabelSpace | None, current: Round) -> figures.Scores:
    """Return what the charts of a round are made of."""
    if control is None:
        return figures.scores(store, project.id, current.id)
    verdicts, human = _of(store, project, control, current)
    return figures.Scores(
        np.array([one.loss for one in verdicts], dtype=float),
        np.array([one.slm_score for one in verdicts], dtype=float),
        np.array([browse.FLAGS.index(str(one.flag)) for one in verdicts], dtype=np.int64),
        [one.llm_label for one in verdicts],
        [one.slm_label for one in verdicts],
        [human.get(one.task_id) for one in verdicts],
    )


def points_of(store: Store, project: Project, control: LabelSpace | None, current: Round) -> list[figures.Point]:
    """Return what colours the points of a round, the most doubtful first."""
    if control is None:
        return figures.points(store, project.id, current.id)
    verdicts, human = _of(store, project, control, current)
    return [
        figures.Point(
            one.task_id, human.get(one.task_id, one.label), str(one.flag), one.slm_score, one.task_id in human
        )
        for one in verdicts
    ]


def agreement_of(store: Store, project: Project, control: LabelSpace | None) -> dict[int, figures.Agreement]:
    """Return, for each round's id, how often LLM and SLM say what people say now; of several controls, of the one or of all."""
    if not project.label_space.controls:
        return figures.agreement(store, project.id)
    view = store if control is None else view_of(store, project, control)
    space = project.label_space if control is None else control
    human = view.human_labels(project.id)
    found = {}
    for one in store.rounds(project.id):
        verdicts = view.verdicts(project.id, one.id, list(human))
        pairs = [pair for v in verdicts for pair in agreed_pairs(space, human[v.task_id].label, v)]
        if pairs:
            llm, slm = sum(said == llm for said, llm, _ in pairs), sum(said == slm for said, _, slm in pairs)
            found[one.id] = figures.Agreement(len(pairs), llm, slm)
    return found


def whole_lines(
    store: Store, project: Project, current: Round | None, lines: Sequence[browse.Line]
) -> list[browse.Line]:
    """Return the lines of the table with the machine's word where a person labelled some of several controls only."""
    names = {space.from_name for space in project.label_space.controls}
    people = {line.task_id: read_controls(line.human_label) or {} for line in lines if line.human_label is not None}
    partly = [task_id for task_id, said in people.items() if names - set(said)]
    if not partly or current is None:
        return list(lines)
    judged = {one.task_id: read_controls(one.label) or {} for one in store.verdicts(project.id, current.id, partly)}
    order = [space.from_name for space in project.label_space.controls]
    return [
        replace(line, label=write_controls({**judged[line.task_id], **people[line.task_id]}, order))
        if line.task_id in judged
        else line
        for line in lines
    ]


def wrong_ids(store: Store, project: Project, current: Round | None, who: str) -> list[int]:
    """Return the tasks of which a person labelled a control otherwise than ``llm``, or ``slm``, does."""
    human = store.human_labels(project.id)
    verdicts = store.verdicts(project.id, current.id, list(human)) if current is not None else []
    place = {"llm": 1, "slm": 2}[who]
    pairs = {v.task_id: agreed_pairs(project.label_space, human[v.task_id].label, v) for v in verdicts}
    return [task for task, many in pairs.items() if any(pair[0] != pair[place] for pair in many)]


def _of(
    store: Store, project: Project, control: LabelSpace, current: Round
) -> tuple[list[Verdict], Mapping[int, str | None]]:
    view = ControlStore(store, control, project.label_space)
    human = {task_id: label.label for task_id, label in view.human_labels(project.id).items()}
    return view.judged(project.id, current.id), human
