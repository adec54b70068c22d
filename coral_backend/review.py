"""What do people see in Label Studio of a round, and when is it put right?

After a push: columns, second looks, tabs with true counts, one paragraph of instruction. Soon after corrections: the counts, and
the questions that were answered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coral_backend.controls import human_label_of, spaces, verdict_of
from coral_backend.exceptions import LabelStudioError
from coral_backend.labels import MULTIPLE, SEVERAL, SPANS, read_set, write_controls, write_set
from coral_backend.labelstudio import columns, control_columns, hint
from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError
from coral_backend.labelstudio.instruction import add_instruction
from coral_backend.labelstudio.tabs import assert_tabs
from coral_backend.store import Store, checks
from coral_backend.types import HumanLabel, LabelSpace, Project, SecondLook, Source, Verdict

__all__ = ["Shown", "ask_again", "fill_hint", "show", "show_check", "show_some", "tidy"]

logger = logging.getLogger(__name__)

SURE = 0.9
"""The SLM's out-of-sample probability from which a second look is asked for."""


@dataclass(frozen=True)
class Shown:
    """What was put into Label Studio beside the predictions.

    Attributes
    ----------
    tabs : dict of str to int
        Title of each tab of ours, with its count, and its id.
    columns : dict
        What writing the columns took; see ``columns.Written``.
    second_looks : int
        Questions that stand.
    """

    tabs: dict[str, int]
    columns: dict[str, Any]
    second_looks: int

    def to_json(self) -> dict[str, Any]:
        """Return what a round keeps of it in its metrics."""
        return {"tabs": self.tabs, "columns": self.columns, "second_looks": self.second_looks}


def show(
    store: Store,
    client: LabelStudioClient,
    project: Project,
    version: str,
    verdicts: Sequence[Verdict],
    *,
    slices: Mapping[int, columns.Value] | None = None,
    told: Callable[[int, int], None] = lambda _done, _total: None,
) -> Shown:
    """Have Label Studio show `verdicts`, which were pushed and selected as `version`.

    Parameters
    ----------
    slices : mapping of int to Value, optional
        What stands in the column of slices, by task.
    told : callable
        Called as ``told(done, total)`` while columns are written.

    Raises
    ------
    LabelStudioError
        If Label Studio is away. A refusal of columns or instruction is logged: tabs work without them.
    """
    ask_again(store, project, verdicts)
    values = control_columns.fields(project.label_space, verdicts, hint=hint.is_shown(project.label_config))
    looks = _look_values(store, project)
    wanted = {**values, columns.SECOND_LOOK: looks, columns.SLICE: slices or {}}
    written = columns.write(client, project.id, wanted, keep=_taken(project), told=told)
    tabs = _assert_tabs(store, client, project, version)
    _instruct(store, client, project)
    store.mark_tidied(project.id, project.changes)
    return Shown(tabs, written.to_json(), len(store.second_looks(project.id, standing=True)))


def show_some(
    client: LabelStudioClient,
    project: Project,
    verdicts: Sequence[Verdict],
    slices: Mapping[int, columns.Value] | None = None,
) -> None:
    """Fill the columns of a few tasks that were pushed between rounds; the tabs find them by themselves."""
    values = control_columns.fields(project.label_space, verdicts, hint=hint.is_shown(project.label_config))
    named = {task: value for task, value in (slices or {}).items() if value}  # nobody looks first what stands there
    values = {**values, columns.SLICE: named}
    columns.write(client, project.id, values, keep=_taken(project), unseen=True)


def fill_hint(store: Store, client: LabelStudioClient, project: Project) -> None:
    """Write the hint of every task of the serving round, or empty it where the form shows none any more."""
    if project.active_round is None:
        return  # the first push does it
    values = control_columns.fields(
        project.label_space, store.verdicts(project.id, project.active_round), hint=hint.is_shown(project.label_config)
    )
    columns.write(client, project.id, {columns.HINT: values[columns.HINT]}, keep=_taken(project))


def show_check(store: Store, client: LabelStudioClient, project: Project) -> dict[str, int]:
    """Write the tasks of the gold check into their column, and make or mend its tab; return the tabs.

    Raises
    ------
    LabelStudioError
        If Label Studio is away, or does not take the column: without it there is no tab.
    """
    places = {one.task_id: one.place for one in checks.drawn(store, project.id)}
    nothing: dict[int, columns.Value] = {sample.task_id: "" for sample in store.samples(project.id)}
    wanted = {
        columns.CHECK: nothing | columns.check_values(places)
    }  # what was drawn from a slice that is no more is not
    written = columns.write(client, project.id, wanted, keep=_taken(project))
    if written.problem is not None:
        raise LabelStudioError(f"{written.problem} The gold check needs its column; nothing else was changed.")
    return _assert_tabs(store, client, project, project.model_version)


def tidy(store: Store, client: LabelStudioClient, project: Project) -> dict[str, int]:
    """Put tabs, their counts and the second looks right after people have labelled; return the tabs.

    Raises
    ------
    LabelStudioError
        If Label Studio is away; what was not done is done the next time.
    """
    answered = _close_answered(store, project)
    if answered:
        emptied = {columns.SECOND_LOOK: {look.task_id: "" for look in answered}}
        columns.write(client, project.id, emptied, keep=_taken(project), unseen=True)
    tabs = _assert_tabs(store, client, project, project.model_version)
    store.mark_tidied(project.id, project.changes)
    return tabs


def ask_again(store: Store, project: Project, verdicts: Iterable[Verdict]) -> list[SecondLook]:
    """Note the tasks that deserve a second look, close those that got one, and return the questions that stand.

    LLM and SLM agree on another label than the one person who labelled the task, the SLM is sure of it (out of sample), and the
    person did not mark the label as ground truth. A label is asked about once.
    """
    _close_answered(store, project)
    judged = {verdict.task_id: verdict for verdict in verdicts if verdict.source is Source.HUMAN}
    human, states = store.human_labels(project.id, judged), store.annotation_states(project.id, judged)
    looks = [
        look
        for task_id, verdict in judged.items()
        if task_id in human and len(states[task_id]) == 1 and (look := _look(project, verdict, human[task_id]))
    ]
    store.put_second_looks(project.id, looks)
    return store.second_looks(project.id, standing=True)


def _look(project: Project, verdict: Verdict, human: HumanLabel) -> SecondLook | None:
    """Return the question to the person who gave `human`, or None; of several controls, about the one that is doubted most."""
    if project.label_space.kind != SEVERAL:
        return _look_at(project.label_space, verdict, human)
    looks = []
    for space in project.label_space.controls:
        name = space.from_name
        look = _look_at(space, verdict_of(verdict, space), human_label_of(human, name))
        if look is not None:
            said, theirs = (write_controls({name: label}, [name]) for label in (look.label, look.machine_label))
            looks.append(replace(look, label=said, machine_label=theirs))
    return max(looks, key=lambda look: look.score, default=None)


def _look_at(space: LabelSpace, verdict: Verdict, human: HumanLabel) -> SecondLook | None:
    if human.label is None or human.ground_truth or not space.allows(human.label):
        return None
    agreed = _agreed_set(space, verdict, human.label) if space.kind == MULTIPLE else None
    said, score = agreed or (verdict.slm_label, verdict.slm_score)
    if said is None or score is None or said == human.label or score < SURE:
        return None
    if agreed is None and said != verdict.llm_label:
        return None
    return SecondLook(verdict.task_id, human.label, human.annotation_id, human.updated_at, said, score)


def _agreed_set(space: LabelSpace, verdict: Verdict, human: str) -> tuple[str, float | None]:
    """Return a person's set with those labels put right of which LLM and SLM are sure together, and how sure the SLM is of the least."""
    chosen = set(read_set(human) or ())
    other = [
        one
        for one in verdict.details
        if one.llm_label == one.slm_label != ("yes" if one.name in chosen else "no") and (one.slm_score or 0.0) >= SURE
    ]
    machine = chosen.symmetric_difference(one.name for one in other)
    scores = [one.slm_score for one in other if one.slm_score is not None]
    return write_set(machine, space.labels), min(scores, default=None)


def _close_answered(store: Store, project: Project) -> list[SecondLook]:
    """Close the questions whose annotation was changed, deleted or joined by another; return them."""
    standing = store.second_looks(project.id, standing=True)
    states = store.annotation_states(project.id, {look.task_id for look in standing})
    answered = [look for look in standing if states[look.task_id] != {look.annotation_id: look.updated_at}]
    store.close_second_looks(project.id, answered)
    return answered


def _look_values(store: Store, project: Project) -> dict[int, columns.Value]:
    found: dict[int, columns.Value] = {}
    space, looks = project.label_space, store.second_looks(project.id)
    # Spans that differ may well have the same labels: only with their words can they be told apart.
    marks = any(one.kind == SPANS for one in spaces(space))
    tasks = {look.task_id for look in looks} if marks else set()
    texts = {sample.task_id: sample.text for sample in store.samples(project.id, tasks)} if tasks else {}
    for look in looks:  # by task and time: a question that stands is the last one
        text = texts.get(look.task_id, "")
        theirs, ours = space.shown(look.label, text), space.shown(look.machine_label, text)
        said = columns.unmarked(f"Person: {theirs} · {columns.ASKED} {ours}")
        asked = (f"{said} ({columns.MARKS[0]})", f"{100 * look.score:.0f} %")
        found[look.task_id] = "" if look.looked_at is not None else asked
    return found


def _assert_tabs(store: Store, client: LabelStudioClient, project: Project, version: str) -> dict[str, int]:
    asked = {columns.SECOND_LOOK} if store.second_looks(project.id, standing=True) else set()
    drawn = {columns.CHECK} if checks.drawn(store, project.id) else set()
    flags = version != Project.model_version  # which is that of a project without a round
    shown = project.label_space.shown_key
    return assert_tabs(client, project.id, version, text_key=shown, more=asked | drawn, flags=flags)


def _instruct(store: Store, client: LabelStudioClient, project: Project) -> None:
    if project.instructed:
        return
    try:
        add_instruction(client, project.id)
    except LabelStudioHTTPError as error:
        if error.uncertain:
            raise
        logger.warning("project %d: the instruction was not added: %s", project.id, error)
    store.mark_instructed(project.id)


def _taken(project: Project) -> set[str]:
    """Return keys that look like ours but hold what the project labels."""
    return {*project.label_space.text_keys, str(project.options.get("recorded_key") or "")}
