"""How are several controls of one text learned and judged? Each by its own kind, as if it were alone; then they are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coral_backend.controls import folder_name, joined_verdict, project_of, settings_of
from coral_backend.corpus_arrays import UNLEARNED
from coral_backend.exceptions import TrainingError
from coral_backend.kinds.base import Judged, Kind, Work
from coral_backend.store.controls import view_of
from coral_backend.types import Flag, LabelSpace, Progress, Sample, Source, Verdict

__all__ = ["SeveralControls", "works_of"]


class SeveralControls:
    """Each control has a view of the round to itself, with a folder of its own.

    Parameters
    ----------
    kind_of : callable
        Returns what learns and judges the answers of one control.
    """

    def __init__(self, kind_of: Callable[[LabelSpace], Kind]) -> None:
        self._kind_of = kind_of

    def distil(self, work: Work, progress: Progress) -> Mapping[str, Any]:
        """Train one SLM a control; one that has too little to learn from is left out, with a note.

        Raises
        ------
        TrainingError
            If that is so of all.
        """
        parts = list(works_of(work))
        facts: dict[str, Mapping[str, Any]] = {}
        notes: list[str] = []
        for place, (name, part) in enumerate(parts):
            (part.folder / UNLEARNED).unlink(missing_ok=True)
            try:
                facts[name] = self._kind(part).distil(part, _shifted(progress, name, place, len(parts)))
            except TrainingError as error:
                (part.folder / UNLEARNED).write_text(str(error), encoding="utf-8")
                notes.append(f"{name}: nothing was learned. {error}")
            else:
                notes += [f"{name}: {note}" for note in facts[name].get("notes") or ()]
        if not facts:
            raise TrainingError(" ".join(notes))
        seconds = [dict(one.get("slm_seconds") or {}) for one in facts.values()]
        stages = dict.fromkeys(stage for one in seconds for stage in one)
        return {
            "controls": {name: dict(one) for name, one in facts.items()},
            "notes": notes,
            "slm_seconds": {stage: round(sum(one.get(stage, 0.0) for one in seconds), 3) for stage in stages},
        }

    def judge(self, work: Work) -> Judged | None:
        """Return what each kind says of its control, joined by the task; ranked by the least sure control."""
        facts: dict[str, Mapping[str, Any]] = {}

        def judge(kind: Kind, part: Work) -> list[Verdict] | None:
            judged = kind.judge(part)
            if judged is not None and part.project.control is not None:
                facts[part.project.control] = judged.facts
            return judged.verdicts if judged is not None else None

        verdicts = self._joined(work, judge)
        return None if verdicts is None else Judged(verdicts, _joined_slices(facts))

    def judge_new(self, work: Work, samples: Sequence[Sample]) -> list[Verdict] | None:
        """Judge new samples by every control."""
        return self._joined(work, lambda kind, part: kind.judge_new(part, samples))

    def _joined(self, work: Work, judge: Callable[[Kind, Work], list[Verdict] | None]) -> list[Verdict] | None:
        by_task: dict[int, dict[str, Verdict]] = {}
        for name, part in works_of(work):
            unlearned = (part.folder / UNLEARNED).is_file()
            verdicts = _said_alone(part) if unlearned else judge(self._kind(part), part)
            if verdicts is None:
                return None
            for verdict in verdicts:
                by_task.setdefault(verdict.task_id, {})[name] = verdict
        order = [space.from_name for space in work.project.label_space.controls]
        full = [all(one.source is Source.HUMAN for one in parts.values()) for parts in by_task.values()]
        return _ranked([joined_verdict(parts, order) for parts in by_task.values()], full)

    def _kind(self, part: Work) -> Kind:
        return self._kind_of(part.project.label_space)


def works_of(work: Work) -> Iterator[tuple[str, Work]]:
    """Yield the name of each control and the round's work as it is for that control alone."""
    for space in work.project.label_space.controls:
        project = project_of(work.project, space)
        store, settings = view_of(work.store, work.project, space), settings_of(work.settings, project)
        name = folder_name(space.from_name)
        earlier = None if work.earlier is None else work.earlier / name
        yield space.from_name, Work(store, project, settings, _made(work.folder / name), earlier)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _shifted(progress: Progress, name: str, place: int, parts: int) -> Progress:
    """Return what tells the progress of one control as that of all, which are taken to be as long."""

    def told(done: int, total: int, detail: Mapping[str, Any]) -> None:
        progress(place * total + done, parts * total, {**detail, "control": name})

    return told


def _joined_slices(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a round keeps of its slices: each as the first control has it of which it is SLM-first, else the first."""
    found: dict[str, dict[str, Any]] = {}
    for control, told in facts.items():
        for one in told.get("slices") or ():
            known = found.get(one["name"])
            if known is None or (one["slm_first"] and not known["slm_first"]):
                found[one["name"]] = {**one, "control": control}
    counts = [told["n_slices"] for told in facts.values() if "n_slices" in told]
    return {"slices": list(found.values()), "n_slices": max(counts)} if counts else {}


def _said_alone(part: Work) -> list[Verdict]:
    """Return verdicts about a control that has no SLM: what was said of it, doubtful unless a person said it."""
    answers, human = part.store.llm_labels(part.project.id), part.store.human_labels(part.project.id)
    allows = part.project.label_space.allows
    verdicts = []
    for sample in part.store.samples(part.project.id):
        answer, person = answers.get(sample.task_id), human.get(sample.task_id)
        given = answer.label if answer is not None and allows(answer.label) else None
        label = person.label if person is not None and allows(person.label) else None
        source = Source.HUMAN if label is not None else Source.LLM if given is not None else None
        verdicts.append(
            Verdict(
                sample.task_id,
                label or given,
                None if label is None else 1.0,
                source,
                Flag.NOISY if label is None else Flag.CLEAN,
                rank=0,
                prediction_label=label or given,
                prediction_score=None if label is None else 1.0,
                llm_label=given,
                content_hash=sample.content_hash,
                machine_label=given,
            )
        )
    return verdicts


def _ranked(verdicts: Sequence[Verdict], full: Sequence[bool]) -> list[Verdict]:
    """Give each its place in the queue: as for one control, the least sure first, what people have labelled in full at the end.

    A task that nobody could say anything about comes after all: its text cannot be read.
    """
    from strategies.review.ranking import review_order  # scikit-learn: not for processes that only read

    score = np.array([np.nan if one.score is None else one.score for one in verdicts], dtype=float)
    mute = np.array([one.label is None for one in verdicts], dtype=bool)
    ordered = sorted(
        zip(mute.tolist(), review_order(score, np.array(full, dtype=bool)).tolist(), verdicts, strict=True),
        key=lambda row: row[:2],
    )
    return [replace(verdict, rank=place) for place, (*_, verdict) in enumerate(ordered, 1)]
