"""How do stored rows become the arrays that the SLM and the strategies work on, and how do their answers come back?

Row i of every array belongs to ``task_ids[i]``. The arrays of a round lie in its folder as safetensors: they are derived,
and a round that has lost them trains again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from coral_backend import span_arrays
from coral_backend.controls import folder_name
from coral_backend.labels import SPANS
from coral_backend.settings import Settings
from coral_backend.store import Store, checks
from coral_backend.types import (
    UNLABELED,
    Answer,
    Flag,
    Floats,
    HumanLabel,
    Ints,
    LabelSpace,
    Project,
    Round,
    RoundStatus,
    Sample,
    Source,
    Verdict,
)

if TYPE_CHECKING:
    from strategies.review.routing import Slice
    from strategies.review.verdict import Decision

ARRAYS_FILE = "arrays.safetensors"

UNLEARNED = "unlearned.txt"
"""Says, in the folder of one of several controls, why nothing was learned of it."""


class SLMAnswers(Protocol):
    """What a training or a prediction says about N samples; see ``coral_backend.slm.engine.Distilled``."""

    @property
    def probs(self) -> Floats:
        """Shape (N, K), out of sample."""

    @property
    def losses(self) -> Floats:
        """Shape (N,), nats."""

    @property
    def p_clean(self) -> Floats:
        """Shape (N,), in [0, 1]; NaN where there is no LLM label."""

    @property
    def features(self) -> Floats:
        """Shape (N, D)."""


@dataclass(frozen=True)
class Table:
    """The samples of a project that have a readable text, as arrays of length N.

    Attributes
    ----------
    llm_labels, human_labels : ndarray of int
        Index into the label space; ``UNLABELED`` where there is none.
    llm_confidence : ndarray of float
        The annotator's own confidence in [0, 1]; NaN where unknown.
    slices : list of str or None
        The part of the corpus that each belongs to.
    """

    task_ids: Ints
    texts: list[str]
    llm_labels: Ints
    llm_confidence: Floats
    human_labels: Ints
    content_hashes: list[str]
    slices: list[str | None]

    @property
    def size(self) -> int:
        """Return N."""
        return len(self.texts)


@dataclass(frozen=True)
class Arrays:
    """A round's SLM arrays: ``probs`` (N, K), ``losses`` (N,), ``p_clean`` (N,), ``features`` (N, D).

    Of sets of labels, where each label is judged by itself, ``losses`` and ``p_clean`` have shape (N, K), too.
    """

    task_ids: Ints
    probs: Floats
    losses: Floats
    p_clean: Floats
    features: Floats

    def extended(self, task_ids: Sequence[int], answers: SLMAnswers) -> Arrays:
        """Return these arrays with rows for more tasks; rows of tasks that were there already are replaced."""
        keep = ~np.isin(self.task_ids, task_ids)
        return Arrays(
            np.concatenate([self.task_ids[keep], np.asarray(task_ids, dtype=np.int64)]),
            np.concatenate([self.probs[keep], answers.probs]),
            np.concatenate([self.losses[keep], answers.losses]),
            np.concatenate([self.p_clean[keep], answers.p_clean]),
            np.concatenate([self.features[keep], answers.features]),
        )


def read(store: Store, project: Project) -> Table:
    """Return the project's labelled and unlabelled samples as they stand now."""
    samples = [s for s in store.samples(project.id) if s.problem is None]
    return tabulate(project, samples, store.llm_labels(project.id), store.human_labels(project.id))


def tabulate(
    project: Project, samples: Sequence[Sample], answers: dict[int, Answer], human: dict[int, HumanLabel]
) -> Table:
    """Return `samples` with their LLM and human labels as arrays."""
    index, none = project.label_space.index, Answer(None)
    llm = [answers.get(s.task_id, none) for s in samples]
    return Table(
        np.array([s.task_id for s in samples], dtype=np.int64),
        [s.text for s in samples],
        np.array([index(a.label) for a in llm], dtype=np.int64),
        np.array([np.nan if a.confidence is None else a.confidence for a in llm], dtype=float),
        np.array([index(human[s.task_id].label) if s.task_id in human else UNLABELED for s in samples], dtype=np.int64),
        [s.content_hash for s in samples],
        [s.slice for s in samples],
    )


def round_folder(settings: Settings, current: Round, control: str | None = None) -> Path:
    """Return the folder of a round's files, made if it is missing; of one of several controls, that control's."""
    folder = _folder(settings, current)
    folder = folder / folder_name(control) if control is not None else folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _folder(settings: Settings, current: Round) -> Path:
    return settings.model_dir / "projects" / str(current.project_id) / f"round-{current.id}"


def save_arrays(folder: Path, task_ids: Ints, answers: SLMAnswers) -> None:
    """Write a round's arrays; a reader sees the old file or the whole new one."""
    tensors: dict[str, npt.NDArray[Any]] = {
        "task_ids": np.ascontiguousarray(task_ids, dtype=np.int64),
        "probs": np.ascontiguousarray(answers.probs, dtype=np.float64),
        "losses": np.ascontiguousarray(answers.losses, dtype=np.float64),
        "p_clean": np.ascontiguousarray(answers.p_clean, dtype=np.float64),
        "features": np.ascontiguousarray(answers.features, dtype=np.float32),
    }
    unfinished = folder / f"{ARRAYS_FILE}.{os.getpid()}"
    save_file(tensors, unfinished)
    unfinished.replace(folder / ARRAYS_FILE)


def load_arrays(folder: Path) -> Arrays | None:
    """Return a round's arrays, or None when the file is missing or damaged."""
    try:
        return Arrays(**load_file(folder / ARRAYS_FILE))
    except (FileNotFoundError, SafetensorError, TypeError):
        return None


def is_kept(settings: Settings, current: Round, space: LabelSpace) -> bool:
    """Say whether a round's arrays are here, those of every control; one that had too little to learn from has none."""
    there = [(one, round_folder(settings, current, one.from_name)) for one in space.controls]
    there = there or [(space, round_folder(settings, current))]
    return all((folder / UNLEARNED).is_file() or _are_kept(one, folder) for one, folder in there)


def _are_kept(space: LabelSpace, folder: Path) -> bool:
    return load_arrays(folder) is not None and (space.kind != SPANS or span_arrays.load(folder) is not None)


def rounds_kept(settings: Settings, store: Store, project_id: int) -> list[Round]:
    """Return the newest done rounds of which models and predictions are kept; none that a rollback set aside is among them.

    One that was set aside would take the place of an older one that counts, to which a person may want to go back.
    """
    counts = [r for r in store.rounds(project_id) if r.status is RoundStatus.DONE and not r.set_aside]
    return counts[: settings.keep_versions]


def remove_old_folders(settings: Settings, store: Store, project_id: int) -> int:
    """Remove models and arrays of all rounds but the serving, the kept and the active ones; return how many."""
    rounds = store.rounds(project_id)
    kept = rounds_kept(settings, store, project_id)
    keep = {r.id for r in kept} | {r.id for r in rounds if r.finished_at is None}
    keep |= {store.project(project_id).active_round or 0}
    removed = 0
    for current in rounds:
        folder = _folder(settings, current)
        if current.id not in keep and folder.exists():
            shutil.rmtree(folder)
            removed += 1
    return removed


@dataclass(frozen=True)
class Judged:
    """What is decided about every sample of a project, and about the slices that it falls into."""

    verdicts: list[Verdict]
    slices: tuple[Slice, ...]


def judge(store: Store, project: Project, arrays: Arrays, p_threshold: float) -> Judged:
    """Decide about every sample of a project from a round's arrays and the labels as they stand now.

    In slices where people say that the LLM is worse than the SLM, the SLM's label goes first. Samples without a readable text cannot
    be judged by a machine: they get their human label or none, at the end.
    """
    from strategies.review.routing import route
    from strategies.review.verdict import decide  # scikit-learn: the web process reads arrays and decides nothing

    table = read(store, project)
    place = {task_id: i for i, task_id in enumerate(arrays.task_ids.tolist())}
    known = [i for i, task_id in enumerate(table.task_ids.tolist()) if task_id in place]
    rows = np.array([place[int(table.task_ids[i])] for i in known], dtype=np.int64)
    llm, human = table.llm_labels[known], table.human_labels[known]
    random = np.isin(table.task_ids[known], [one.task_id for one in checks.drawn(store, project.id)])
    routing = route([table.slices[i] for i in known], llm, arrays.probs[rows], human, random)
    decision = decide(
        llm,
        arrays.probs[rows],
        arrays.p_clean[rows],
        human,
        llm_confidence=calibrated(table)[known],
        p_threshold=p_threshold,
        slm_first=routing.noise,
    )
    ids, labels = table.task_ids[known], project.label_space.labels
    judged = [
        replace(
            _verdict(decision, i, int(ids[i]), labels),
            llm_label=_name(labels, llm[i]),
            p_clean=_number(arrays.p_clean[r]),
            loss=_number(arrays.losses[r]),
            content_hash=table.content_hashes[known[i]],
        )
        for i, r in enumerate(rows)
    ]
    problems = [s for s in store.samples(project.id) if s.problem is not None]
    return Judged(judged + unreadable(problems, store.human_labels(project.id), len(judged)), routing.slices)


def calibrated(table: Table) -> Floats:
    """Return the annotator's confidence, shape (N,), NaN where unknown: calibrated on human labels where these suffice, else raw."""
    from strategies.review.calibration import platt  # scikit-learn, as above

    checked = (table.human_labels != UNLABELED) & (table.llm_labels != UNLABELED)
    right = table.human_labels == table.llm_labels
    calibration = platt(table.llm_confidence[checked], right[checked])
    return table.llm_confidence if calibration is None else calibration(table.llm_confidence)


def _verdict(decision: Decision, i: int, task_id: int, labels: Sequence[str]) -> Verdict:
    return Verdict(
        task_id=task_id,
        label=_name(labels, decision.label[i]),
        score=_number(decision.score[i]),
        source=Source(str(decision.source[i])),
        flag=Flag(str(decision.flag[i])),
        rank=int(decision.rank[i]),
        prediction_label=_name(labels, decision.prediction_label[i]),
        prediction_score=_number(decision.prediction_score[i]),
        slm_label=_name(labels, decision.slm_label[i]),
        slm_score=_number(decision.slm_score[i]),
        machine_label=_name(labels, decision.machine_label[i]),
    )


def unreadable(samples: Sequence[Sample], human: dict[int, HumanLabel], last: int) -> list[Verdict]:
    """Return verdicts on samples without a readable text: a person's label or none, behind the `last` rank."""
    return [
        Verdict(
            task_id=s.task_id,
            label=human[s.task_id].label if s.task_id in human else None,
            score=None,
            source=Source.HUMAN if s.task_id in human else None,
            flag=Flag.NOISY,
            rank=last + 1 + i,
            content_hash=s.content_hash,
        )
        for i, s in enumerate(samples)
    ]


def _name(labels: Sequence[str], index: Any) -> str | None:
    return labels[int(index)] if index != UNLABELED else None


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
