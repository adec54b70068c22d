"""How is a project with several controls seen as one of a single control, and how do its controls' words become the task's?

Whatever asks, learns or judges for a task looks at one control at a time: at a view of the project, of its settings and of its
database (``store/controls.py``), as if the label config had no other. What the controls say is joined again for what people see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coral_backend.labels import SEVERAL, SPANS, read_controls, write_controls
from coral_backend.settings import Settings
from coral_backend.types import Answer, Demo, Detail, Flag, HumanLabel, LabelSpace, Project, Source, Verdict

__all__ = [
    "agreed_pairs", "answer_of", "demos_of", "folder_name", "human_label_of", "is_said", "joined_answer", "joined_demos", "joined_verdict",
    "project_of", "said_of", "settings_of", "spaces", "usual_options", "verdict_of",
]  # fmt: skip

WORST = (Flag.NOISY, Flag.INCONSISTENT, Flag.CLEAN)
"""A task has the first of these flags that one of its controls has."""


def spaces(space: LabelSpace) -> tuple[LabelSpace, ...]:
    """Return the label space of each control: of one alone, itself."""
    return space.controls or (space,)


def project_of(project: Project, space: LabelSpace) -> Project:
    """Return the project as it would be with no other control than `space`; itself where there is none."""
    if project.label_space.kind != SEVERAL:
        return project
    return replace(project, label_space=space, control=space.from_name)


def settings_of(settings: Settings, project: Project) -> Settings:
    """Return the settings for the control that `project` is a view of: its own options on top, and its labels' meanings."""
    if project.control is None:
        return settings
    usual = settings.with_options(usual_options(settings, project))
    return usual.of_control(project.control, project.label_space.labels)


def usual_options(settings: Settings, project: Project) -> dict[str, Any]:
    """Return what the kind of a project, or of the control that it is a view of, has others of than other kinds, unless they are set."""
    usual = type(settings).model_fields["demonstration"].default
    if project.label_space.kind != SPANS or settings.demonstration != usual or "demonstration" in project.options:
        return {}
    return {"demonstration": "retrieval"}  # spans have no classes to take examples from in turn


def folder_name(control: str) -> str:
    """Return the name of a control's folder in that of a round; a control may be named in any characters."""
    return f"control-{hashlib.sha256(control.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def said_of(said: str | None, control: str) -> str | None:
    """Return what is said of one control in what is said of a task."""
    return (read_controls(said) or {}).get(control)


# --- from the task to a control ---------------------------------------------------------------------------------------


def answer_of(answer: Answer, control: str) -> Answer:
    """Return the part of an answer that is about `control`."""
    return replace(answer, label=said_of(answer.label, control))


def human_label_of(label: HumanLabel, control: str) -> HumanLabel:
    """Return what an annotation says of `control`, and what its form was filled with."""
    before = said_of(label.prediction_label, control)
    return replace(label, label=said_of(label.label, control), prediction_label=before)


def demos_of(demos: Iterable[Demo], control: str) -> tuple[Demo, ...]:
    """Return the demonstrations of `control`; each shows one control's label."""
    told = ((demo.text, said_of(demo.label, control)) for demo in demos)
    return tuple(Demo(text, label) for text, label in told if label is not None)


def verdict_of(verdict: Verdict, space: LabelSpace) -> Verdict:
    """Return what was decided about the control of `space`; from the joined labels alone where no details were kept."""
    name = space.from_name
    own, inner = _details_of(verdict, name)
    label = said_of(verdict.label, name)
    said = replace(
        verdict,
        label=label,
        prediction_label=said_of(verdict.prediction_label, name),
        llm_label=said_of(verdict.llm_label, name),
        slm_label=said_of(verdict.slm_label, name),
        machine_label=said_of(verdict.machine_label, name),
        details=inner,
    )
    if own is None:
        source = verdict.source if label is not None else None
        return replace(said, source=source, score=None, prediction_score=None, slm_score=None, p_clean=None, loss=None)
    return replace(
        said,
        score=own.score,
        flag=own.flag,
        source=own.source,
        prediction_score=own.prediction_score,
        slm_score=own.slm_score,
        p_clean=own.p_clean,
        loss=own.loss,
    )


def _details_of(verdict: Verdict, name: str) -> tuple[Detail | None, tuple[Detail, ...]]:
    """Return a control's detail, and those of its own parts (the labels of a set, spans) under their own names."""
    own = next((one for one in verdict.details if one.name == _key(name)), None)
    prefix = f"{_key(name)}/"
    inner = (one for one in verdict.details if one.name.startswith(prefix))
    return own, tuple(replace(one, name=one.name.removeprefix(prefix)) for one in inner)


# --- from the controls to the task ------------------------------------------------------------------------------------


def joined_answer(answers: Mapping[str, Answer], order: Sequence[str]) -> Answer:
    """Return what the controls' answers say together: as sure as the least sure of them.

    Parameters
    ----------
    answers : mapping of str to Answer
        By control; a control that was not asked yet is not in it.
    """
    there = [(name, answers[name]) for name in order if name in answers]
    reasons = [f"{name}: {one.reason or 'no label'}" for name, one in there if one.label is None]
    said = {name: one.label for name, one in there}
    return Answer(
        _joined(said, order),
        raw=json.dumps({name: one.raw for name, one in there}, ensure_ascii=False),
        reason="; ".join(reasons) or None,
        confidence=_least(one.confidence for _, one in there),
        annotator="+".join(dict.fromkeys(one.annotator for _, one in there if one.annotator)),
        prompt_tokens=sum(one.prompt_tokens for _, one in there),
        completion_tokens=sum(one.completion_tokens for _, one in there),
        seconds=sum(one.seconds for _, one in there),
    )


def joined_demos(demos: Mapping[str, Iterable[Demo]]) -> tuple[Demo, ...]:
    """Return the demonstrations of all controls, each with its control's label as ``labels.py`` writes several."""
    return tuple(Demo(d.text, write_controls({name: d.label}, [name])) for name, own in demos.items() for d in own)


def joined_verdict(parts: Mapping[str, Verdict], order: Sequence[str]) -> Verdict:
    """Return what is decided about a task from what is decided about its controls; its rank is left at 0.

    The task is as doubtful as the control that is least sure: scores are the least of the controls', the flag is the worst, the
    loss is the sum (the controls' labels are taken for independent). A person's label of any control makes it the person's.

    Parameters
    ----------
    parts : mapping of str to Verdict
        Of one task, by control.
    """
    there = {name: parts[name] for name in order if name in parts}
    some = next(iter(there.values()))

    def said(of: Callable[[Verdict], str | None]) -> str | None:
        return _joined({name: of(one) for name, one in there.items()}, order)

    def least(of: Callable[[Verdict], float | None]) -> float | None:
        return _least(of(one) for one in there.values())

    losses = [one.loss for one in there.values() if one.loss is not None]
    return Verdict(
        task_id=some.task_id,
        label=said(lambda one: one.label),
        score=least(lambda one: one.score),
        source=_source([one.source for one in there.values()]),
        flag=min((one.flag for one in there.values()), key=WORST.index),
        rank=0,
        prediction_label=said(lambda one: one.prediction_label),
        prediction_score=least(lambda one: one.prediction_score),
        llm_label=said(lambda one: one.llm_label),
        slm_label=said(lambda one: one.slm_label),
        slm_score=least(lambda one: one.slm_score),
        p_clean=least(lambda one: one.p_clean),
        loss=sum(losses) if losses else None,
        content_hash=some.content_hash,
        details=tuple(detail for name, one in there.items() for detail in _details(name, one)),
        machine_label=said(lambda one: one.machine_label),
    )


def is_said(human: str, said: str | None) -> bool:
    """Say whether `said` is what a person says, of several controls of each that the person labelled."""
    if human == said:
        return True
    parts = read_controls(human)
    return bool(parts) and all(said_of(said, name) == label for name, label in (parts or {}).items())


def agreed_pairs(space: LabelSpace, human: str | None, verdict: Verdict) -> list[tuple[str, str | None, str | None]]:
    """Return (a person's, the LLM's, the SLM's) label of each control that the person labelled; of one control, of it."""
    if space.kind != SEVERAL:
        return [] if human is None else [(human, verdict.llm_label, verdict.slm_label)]
    llm, slm = read_controls(verdict.llm_label) or {}, read_controls(verdict.slm_label) or {}
    return [(said, llm.get(name), slm.get(name)) for name, said in (read_controls(human) or {}).items()]


def _details(name: str, part: Verdict) -> list[Detail]:
    own = Detail(
        _key(name),
        part.label,
        part.score,
        part.flag,
        part.source,
        part.llm_label,
        part.slm_label,
        part.slm_score,
        part.p_clean,
        part.prediction_score,
        part.loss,
    )
    return [own, *(replace(inner, name=f"{own.name}/{inner.name}") for inner in part.details)]


def _key(control: str) -> str:
    """Return a control's name as details have it, without a slash (RFC 6901): one "a/b" is not the part b of another, "a"."""
    return control.replace("~", "~0").replace("/", "~1")


def _source(sources: Sequence[Source | None]) -> Source | None:
    return next((one for one in (Source.HUMAN, Source.SLM, Source.LLM) if one in sources), None)


def _joined(said: Mapping[str, str | None], order: Sequence[str]) -> str | None:
    return write_controls(said, order) if any(one is not None for one in said.values()) else None


def _least(numbers: Iterable[float | None]) -> float | None:
    return min((number for number in numbers if number is not None), default=None)
