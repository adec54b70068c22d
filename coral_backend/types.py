"""Which values travel between the rooms? The words of ``docs/ARCHITECTURE.md`` 3 as frozen dataclasses."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from coral_backend.labels import MULTIPLE, SEVERAL, SINGLE, SPANS, read_controls, read_set, read_spans

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

UNLABELED = -1
"""The index that stands for "no label" in arrays of labels: abstained, unknown, not asked."""

Progress: TypeAlias = Callable[[int, int, Mapping[str, Any]], None]
"""``progress(done, total, detail)``: called often; may raise ``RoundStopped`` or ``LeaseLostError`` to end the work."""


NOTHING = "(none)"
"""What people read of an empty set of labels, and of a text without spans."""


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
    parts : tuple of (str, str)
        Title and key of each text, where a sample's text is several; empty where it is the one under `text_key`.
    forms : mapping of str to tuple of str
        By key, how a value is read that is not simply a text: ``("html",)``, ``("dialogue", name key, text key)``, ``("exact",)`` for a
        text whose characters must stand where Label Studio counts them, ``("row",)`` for an object of columns, or ``("row", key,
        key ...)`` for columns that are keys of the task.
    nested : bool
        Whether labels are paths, as ``control_tags/paths.py`` writes them.
    kind : str
        What is said of a task with this control, and how it is written as one string: see ``labels.py``.
    controls : tuple of LabelSpace
        Those of a config with several, each with its own kind; the fields above are then the first one's.
    required : bool
        Of a set of labels: whether it must have at least one.
    """

    tag: str
    from_name: str
    to_name: str
    text_key: str
    labels: tuple[str, ...]
    definitions: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[tuple[str, str], ...] = ()
    forms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nested: bool = False
    kind: str = SINGLE
    controls: tuple[LabelSpace, ...] = ()
    required: bool = False

    @property
    def is_row(self) -> bool:
        """Whether a sample is a row of a table; its text is a JSON object then."""
        return self.forms.get(self.text_key, ("",))[0] == "row"

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of ``task["data"]`` that are the columns of a row; empty where the row is one object, or there is none."""
        return self.forms[self.text_key][1:] if self.is_row else ()

    @property
    def text_keys(self) -> tuple[str, ...]:
        """The keys of ``task["data"]`` that hold the sample's text."""
        return tuple(key for _, key in self.parts) or self.columns or (self.text_key,)

    @property
    def shown_key(self) -> str | None:
        """The key whose column shows people the sample; None where it takes several."""
        return None if self.parts or self.columns else self.text_key

    @property
    def named_labels(self) -> tuple[str, ...]:
        """What people read of all labels: of several controls each with its control's name."""
        named = (f"{space.from_name}: {label}" for space in self.controls for label in space.named_labels)
        return tuple(named) or self.labels

    def index(self, label: str | None) -> int:
        """Return the index of `label`, or ``UNLABELED`` for None and for labels the config no longer has."""
        try:
            return self.labels.index(label) if label is not None else UNLABELED
        except ValueError:
            return UNLABELED

    def first_index(self, said: str | None) -> int:
        """Return the index of the one label that stands for `said` where there is room for one: of a set the first in the config."""
        if self.kind == MULTIPLE:
            return next((self.index(label) for label in read_set(said) or ()), UNLABELED)
        return self.index(said)

    def allows(self, said: str | None) -> bool:
        """Say whether `said`, as ``labels.py`` writes it, can be said with the labels that the config has now."""
        if said is None:
            return False
        if self.kind == MULTIPLE:
            chosen = read_set(said)
            return chosen is not None and set(chosen) <= set(self.labels) and bool(chosen or not self.required)
        if self.kind == SPANS:
            spans = read_spans(said)
            return spans is not None and all(span.label in self.labels for span in spans)
        if self.kind == SEVERAL:
            by_control, spaces = read_controls(said), {space.from_name: space for space in self.controls}
            return bool(by_control) and all(
                name in spaces and spaces[name].allows(one) for name, one in (by_control or {}).items()
            )
        return said in self.labels

    def shown(self, said: str, text: str = "") -> str:
        """Return what people read of `said`: the labels, of spans how many of each, or with their words where `text` is given."""
        if self.kind == MULTIPLE:
            return ", ".join(read_set(said) or ()) or NOTHING
        if self.kind == SPANS:
            spans = read_spans(said) or ()
            if text:
                return "; ".join(f"{s.label}: {text[s.start : s.end]}" for s in spans) or NOTHING
            counts = Counter(span.label for span in spans)
            counted = [(f"{label} × {counts[label]}" if counts[label] > 1 else label) for label in sorted(counts)]
            return ", ".join(counted) or NOTHING
        if self.kind == SEVERAL:
            return "; ".join(self.shown_parts(said, text))
        return said

    def shown_parts(self, said: str, text: str = "") -> list[str]:
        """Return what people read of `said`, of several controls each by itself with its name."""
        if self.kind != SEVERAL:
            return [self.shown(said, text)]
        by_control = read_controls(said) or {}
        there = [space for space in self.controls if space.from_name in by_control]
        return [f"{one.from_name}: {one.shown(by_control[one.from_name], text)}" for one in there] or [NOTHING]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_json`` restores an equal object. What is empty is left out: it is the usual."""
        more = {
            "parts": [list(part) for part in self.parts],
            "forms": {key: list(form) for key, form in self.forms.items()},
            "nested": self.nested,
            "kind": "" if self.kind == SINGLE else self.kind,
            "controls": [control.to_json() for control in self.controls],
            "required": self.required,
        }
        return {
            **{name: value for name, value in more.items() if value},
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
        parts = tuple((title, key) for title, key in data.get("parts", ()))
        forms = {key: tuple(form) for key, form in data.get("forms", {}).items()}
        controls = tuple(cls.from_json(control) for control in data.get("controls", ()))
        more = {"labels": tuple(data["labels"]), "parts": parts, "forms": forms, "controls": controls}
        return cls(**{**data, **more})


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
    control : str or None
        The one that this is a view of, in a project with several (``controls.py``); None: all that there is. Not stored.
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
    control: str | None = None


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
    slice : str or None
        The part of the corpus that it belongs to (``CORAL_SLICE_KEY``); None where nobody asked for parts. No label depends on it.
    """

    task_id: int
    text: str
    problem: str | None = None
    recorded: str | None = None
    slice: str | None = None

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
        Why there is no label, or why not all of the answer was taken; None when all is well.
    confidence : float or None
        The annotator's own confidence in [0, 1]; None when unknown. Not calibrated.
    annotator : str
        Who answered, for example ``"openai:gpt-4o-mini"``.
    missing_mass : float or None
        Probability that the model gave to answers that are no label, where the confidence is from log-probabilities.
    """

    label: str | None
    raw: str = ""
    reason: str | None = None
    confidence: float | None = None
    annotator: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    missing_mass: float | None = None


@dataclass(frozen=True)
class Reply:
    """A completion that an endpoint gave, kept so that the same request is never paid twice.

    Attributes
    ----------
    key : str
        SHA-256 of the request as CORAL wanted it (``llm/replies.py`` ``reply_key``), 64 hex digits.
    body : str
        The JSON of the completion as it came, without the API key.
    seconds : float
        How long it took.
    """

    key: str
    body: str
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Said:
    """One ``opinion``: the answer to one question about one sample in one round.

    Attributes
    ----------
    place : int
        0 for the first question about the sample in the round.
    candidates : tuple of str or None
        The labels that the question listed; None for all.
    """

    place: int
    answer: Answer
    candidates: tuple[str, ...] | None = None
    prompt_version: str = ""


@dataclass(frozen=True)
class Spend:
    """What requests to one annotator took: of one, or summed.

    Attributes
    ----------
    annotator : str
        Who was asked; in a strategy of several annotators, its link.
    batch : bool
        Whether it was asked through a Batch API.
    requests : int
        Requests that were answered, or may have been.
    unsettled : int
        Those of them whose usage never came (cut connection, killed request); they count with the most they can have cost.
    characters : int
        Characters of the settled requests' messages; with `prompt_tokens` this tells how long a token is.
    cached_tokens : int
        Those of `prompt_tokens` that the endpoint had in its prompt cache.
    cost : float
        USD, at the prices of the day; of the requests whose price is known.
    unpriced : int
        Requests whose price is not known.
    """

    annotator: str
    batch: bool = False
    requests: int = 0
    unsettled: int = 0
    characters: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0

    @property
    def known_cost(self) -> float | None:
        """The cost in USD; None when the price of any request is not known."""
        return None if self.unpriced else self.cost

    def plus(self, other: Spend) -> Spend:
        """Return the sum; who was asked is taken from this one."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in SUMS}
        return replace(self, **sums)


SUMS = (
    "requests", "unsettled", "characters", "prompt_tokens", "cached_tokens", "completion_tokens", "cost", "unpriced",
)  # fmt: skip
"""The numbers of a ``Spend``."""


@dataclass(frozen=True)
class Batch:
    """Requests that were handed to a Batch API together.

    Attributes
    ----------
    key : str
        Ours; the endpoint keeps it as metadata, so that a batch is found again whose id we did not live to store.
    batch_id, file_id : str or None
        The endpoint's, of the batch and of its requests; None until it has answered.
    status : str
        ``creating``, the endpoint's own word, or ``lost`` when the endpoint knows no batch with our key.
    open : bool
        Whether something may still come of it.
    asked : tuple of str
        The first 16 digits of the keys of its requests (``Reply.key``).
    again : tuple of str
        Those of them that it brought nothing for: they are asked live.
    characters : int
        Of all messages in it.
    reserved : float
        The most that it can cost, in USD, while it is open.
    requests, done : int
        How many it has, and how many the endpoint has finished.
    """

    key: str
    project_id: int
    round_id: int
    batch_id: str | None
    status: str
    open: bool
    annotator: str
    asked: tuple[str, ...]
    file_id: str | None = None
    again: tuple[str, ...] = ()
    characters: int = 0
    reserved: float = 0.0
    requests: int = 0
    done: int = 0
    error: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0


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
class Detail:
    """What was decided about one part of a task: a label of a set, a span, a control.

    Attributes
    ----------
    name : str
        Of the part: the label, ``"start:end"`` of the span, the control's name (in which ``~`` is ``~0`` and ``/`` is ``~1``); of a
        part of one of several controls ``control/part``.
    label : str or None
        What is said of it now: ``"yes"`` or ``"no"`` of a label in a set, a span's label, a control's answer; None: nothing.
    score : float or None
        Probability in [0, 1] that `label` is right.
    flag : Flag
        Of this part alone.
    source : Source or None
        Whose `label` it is.
    llm_label, slm_label : str or None
        What either says of it.
    slm_score : float or None
        The SLM's out-of-sample probability of `slm_label`, in [0, 1].
    p_clean, prediction_score, loss : float or None
        As for a ``Verdict``; the last two of a control only.
    words : str
        The words of a span; empty of other parts.
    """

    name: str
    label: str | None
    score: float | None
    flag: Flag
    source: Source | None = None
    llm_label: str | None = None
    slm_label: str | None = None
    slm_score: float | None = None
    p_clean: float | None = None
    prediction_score: float | None = None
    loss: float | None = None
    words: str = ""


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
    details : tuple of Detail
        What was decided about the parts of a task that has several; empty for one label.
    machine_label : str or None
        What `label` would be without a person's word about this task; None in rounds of older versions of CORAL.
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
    details: tuple[Detail, ...] = ()
    machine_label: str | None = None


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
