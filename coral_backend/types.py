"""Which values travel between the rooms? The words of ``docs/ARCHITECTURE.md`` 3 as frozen dataclasses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

UNLABELED = -1
"""The index that stands for "no label" in arrays of labels: abstained, unknown, not asked."""

Progress: TypeAlias = Callable[[int, int, Mapping[str, Any]], None]
"""``progress(done, total, detail)``: called often; may raise ``RoundStopped`` or ``LeaseLostError`` to end the work."""


class Flag(StrEnum):
    """The paper's three kinds of machine label (section 4, step 4)."""

    CLEAN = "clean"
    NOISY = "noisy"
    INCONSISTENT = "inconsistent"


class Source(StrEnum):
    """Who gave the verdict."""

    HUMAN = "human"
    LLM = "llm"
    SLM = "slm"


class Stage(StrEnum):
    """The stages of a round, in their order."""

    SYNC = "sync"
    ANNOTATE = "annotate"
    DISTIL = "distil"
    FLAG = "flag"
    PUSH = "push"


class RoundStatus(StrEnum):
    """What a round is doing. ``pending``, ``running`` and ``paused`` rounds are active: at most one a project."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STALE = "stale"


@dataclass(frozen=True)
class LabelSpace:
    """What can be said about a task: the part of a label config that CORAL serves.

    Attributes
    ----------
    tag : str
        The Label Studio control tag, for example ``"Choices"``.
    from_name, to_name : str
        Names of the control and of the object it labels.
    text_key : str
        The key of ``task["data"]`` that holds the text (``"text"`` for ``value="$text"``).
    labels : tuple of str
        The K label values in the order of the config; index k in every array means ``labels[k]``.
    definitions : mapping of str to str
        What a label means, where the config says so (``hint``); may be empty.
    """

    tag: str
    from_name: str
    to_name: str
    text_key: str
    labels: tuple[str, ...]
    definitions: Mapping[str, str] = field(default_factory=dict)

    def index(self, label: str | None) -> int:
        """Return the index of `label`, or ``UNLABELED`` for None and for labels the config no longer has."""
        try:
            return self.labels.index(label) if label is not None else UNLABELED
        except ValueError:
            return UNLABELED

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_json`` restores an equal object."""
        return {
            "tag": self.tag,
            "from_name": self.from_name,
            "to_name": self.to_name,
            "text_key": self.text_key,
            "labels": list(self.labels),
            "definitions": dict(self.definitions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelSpace:
        """Restore what ``to_json`` returned."""
        return cls(**{**data, "labels": tuple(data["labels"])})


@dataclass(frozen=True)
class Project:
    """Our row for a Label Studio project.

    Attributes
    ----------
    id : int
        Label Studio's project id.
    config_hash : str
        Identifies the label config; labels given under another hash are not pushed under this one.
    options : mapping
        Settings of this project that override the process's (strategy names, recorded key ...).
    model_version : str
        The version that ``/setup``, ``/predict`` and pushed predictions carry.
    active_round : int or None
        Id of the round whose verdicts and model serve now; None before the first.
    changes : int
        Counts every change of a human label; ``Round.through_change`` says up to where a round has learned from them.
    changed_at : float or None
        When the last of them came, in seconds since the epoch.
    reconciled_at : float or None
        When annotations were last read back from Label Studio, or this was tried.
    catch_up_after : float or None
        Wanted tasks are not tried again before this time; set after a failure.
    catch_up_error : str or None
        What that failure was.
    tidied_change : int
        Up to which of `changes` the review tabs are true.
    instructed : bool
        Whether annotators were told, in the project's instruction, how to work through the tabs.
    """

    id: int
    title: str
    label_config: str
    config_hash: str
    label_space: LabelSpace
    options: Mapping[str, Any] = field(default_factory=dict)
    model_version: str = "coral-r0"
    active_round: int | None = None
    changes: int = 0
    changed_at: float | None = None
    reconciled_at: float | None = None
    catch_up_after: float | None = None
    catch_up_error: str | None = None
    tidied_change: int = 0
    instructed: bool = False


@dataclass(frozen=True)
class Sample:
    """Our row for a Label Studio task.

    Attributes
    ----------
    text : str
        What is labelled; empty when `problem` is set.
    problem : str or None
        Why the task cannot be labelled (missing key, not a text, too long ...); None when it can.
    recorded : str or None
        A label that came with the task (``recorded`` annotator); None when there is none.
    """

    task_id: int
    text: str
    problem: str | None = None
    recorded: str | None = None

    @property
    def content_hash(self) -> str:
        """SHA-256 of what a label depends on; a change of it makes the stored LLM label out of date."""
        return hashlib.sha256(f"{self.text}\x00{self.recorded or ''}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Answer:
    """One ``llm_label``: what the annotator said about one sample.

    Attributes
    ----------
    label : str or None
        A label of the label space; None when the annotator abstained or its answer is unusable.
    raw : str
        The answer as it came.
    reason : str or None
        Why there is no label; None when there is one.
    confidence : float or None
        The annotator's own confidence in [0, 1]; None when unknown. Not calibrated.
    annotator : str
        Who answered, for example ``"openai:gpt-4o-mini"``.
    """

    label: str | None
    raw: str = ""
    reason: str | None = None
    confidence: float | None = None
    annotator: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class HumanLabel:
    """One annotation by a person.

    Attributes
    ----------
    label : str or None
        None for a skipped task and for an empty result: it is no training label, but the task was seen.
    user_id : int or None
        Label Studio's id of the annotator.
    updated_at : str
        ISO 8601, UTC, as Label Studio sent it: the newer of two states of an annotation wins.
    """

    annotation_id: int
    task_id: int
    label: str | None
    user_id: int | None
    updated_at: str
    skipped: bool = False
    ground_truth: bool = False
    lead_time: float | None = None
    prediction_version: str | None = None
    prediction_label: str | None = None


@dataclass(frozen=True)
class Demo:
    """One in-context demonstration."""

    text: str
    label: str


@dataclass(frozen=True)
class Verdict:
    """The label that would be exported now, and why.

    Attributes
    ----------
    label : str or None
        None only when nobody, machine or person, could say anything.
    score : float or None
        Probability in [0, 1] that `label` is right, from out-of-sample SLM probabilities; 1 = surely right; None = unknown.
    prediction_label : str or None
        What pre-fills the form: the LLM's label, the SLM's where the LLM abstained.
    prediction_score : float or None
        The SLM's out-of-sample confidence in `prediction_label`, in [0, 1].
    slm_score : float or None
        The SLM's out-of-sample probability of `slm_label`, in [0, 1].
    p_clean : float or None
        The GMM's posterior that the LLM's label is right; 1 = surely clean.
    loss : float or None
        Cross-entropy of the LLM's label in nats, out of sample.
    rank : int
        Place in the review queue; 1 is the most doubtful.
    content_hash : str or None
        ``Sample.content_hash`` of the text that was judged: a verdict about another text of the task does not count.
    """

    task_id: int
    label: str | None
    score: float | None
    source: Source | None
    flag: Flag
    rank: int
    prediction_label: str | None = None
    prediction_score: float | None = None
    llm_label: str | None = None
    slm_label: str | None = None
    slm_score: float | None = None
    p_clean: float | None = None
    loss: float | None = None
    content_hash: str | None = None


@dataclass(frozen=True)
class Lease:
    """The right to work on something, with a fencing token: a write under an older token is refused."""

    name: str
    token: int


@dataclass(frozen=True)
class SecondLook:
    """One question to a person: LLM and SLM are sure of another label than yours; is yours right?

    Attributes
    ----------
    label, machine_label : str
        What the person said; what LLM and SLM both say.
    score : float
        The SLM's out-of-sample probability of `machine_label`, in [0, 1].
    annotation_id, updated_at : int, str
        The annotation that is asked about, in the state that it had.
    looked_at : float or None
        When it was found that a person had looked again, in seconds since the epoch; None while the question stands.
    """

    task_id: int
    label: str
    annotation_id: int
    updated_at: str
    machine_label: str
    score: float
    looked_at: float | None = None


@dataclass(frozen=True)
class Change:
    """How a verdict differs from the one of the round before.

    Attributes
    ----------
    by_person : bool
        Whether a person labelled the task: the cause, not the effect, of a retraining.
    """

    task_id: int
    text: str
    label_before: str | None
    label: str | None
    flag_before: Flag
    flag: Flag
    score_before: float | None
    score: float | None
    by_person: bool


@dataclass(frozen=True)
class Round:
    """One pass through the stages.

    Attributes
    ----------
    number, revision : int
        Round 1, 2, ... asks the LLM; revision 1, 2, ... of it only retrains the SLM on new human labels.
    progress : mapping
        ``{"stage": {"done": int, "total": int, ...}}`` of every stage begun.
    metrics : mapping
        What came out: counts, seconds of each stage, accuracies where a gold is known.
    through_change : int
        ``Project.changes`` when the round began, then when its SLM read the human labels: what it has learned from.
    settings : mapping
        The resolved settings of the round, without secrets, so that it can be repeated.
    parent_id : int or None
        The round that served when this one began; None for the first, and for rounds of older versions of CORAL.
    set_aside : bool
        Whether a rollback went behind it: its LLM labels no longer count.
    """

    id: int
    project_id: int
    number: int
    revision: int
    status: RoundStatus
    stage: Stage
    config_hash: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    demos: tuple[Demo, ...] = ()
    model_version: str | None = None
    error: str | None = None
    through_change: int = 0
    created_at: float = 0.0
    updated_at: float = 0.0
    finished_at: float | None = None
    parent_id: int | None = None
    set_aside: bool = False

    @property
    def name(self) -> str:
        """``"1"`` for a round, ``"1.2"`` for its second retraining."""
        return f"{self.number}.{self.revision}" if self.revision else str(self.number)
