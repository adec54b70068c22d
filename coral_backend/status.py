"""How does a project stand? Counts, the history of its rounds and what they cost, read from the database alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from coral_backend.controls import agreed_pairs
from coral_backend.costs import CostLine, cost_lines, cost_of
from coral_backend.effects import effect_of
from coral_backend.slices import SliceLine, slice_lines
from coral_backend.store import Store
from coral_backend.types import Flag, Project, Round, Spend, Stage

__all__ = ["ProjectStatus", "RoundLine", "status_of", "tokens_of"]


@dataclass(frozen=True)
class RoundLine:
    """One line of the history, as in the paper's Table 2.

    Attributes
    ----------
    name : str
        ``"1"``, or ``"1.2"`` for a second retraining.
    llm, slm : float or None
        Share of the tasks with a human label **now** on which each says the same, in [0, 1]; None without human labels.
        People look at doubtful tasks first, so it is below the share over all tasks.
    compared : int
        How many tasks that is; of several controls, how many of their labels.
    tokens : int
        Prompt and completion tokens that the round's answers took; 0 for a retraining.
    requests : int
        Requests to an LLM.
    cost : float or None
        USD of those requests; None where a price is not known, or the round is older than the counting.
    cost_per_label : float or None
        USD for each task of the round that got a label.
    budget : float or None
        The most that the round may cost, in USD.
    serves : bool
        Whether its predictions are the ones selected now.
    effect : mapping or None
        What it changed elsewhere; see ``coral_backend.effects.Effect``. None for a first round.
    """

    name: str
    status: str
    stage: str
    llm: float | None
    slm: float | None
    compared: int
    flags: Mapping[str, int]
    tokens: int
    seconds: float
    model_version: str | None
    error: str | None
    requests: int = 0
    cost: float | None = None
    cost_per_label: float | None = None
    budget: float | None = None
    serves: bool = False
    effect: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ProjectStatus:
    """A project now.

    Attributes
    ----------
    tasks, unreadable : int
        Tasks known; those of them without a readable text.
    annotated, abstained : int
        Tasks with an annotator's label; tasks where it had none.
    human_labels, new_changes : int
        Tasks labelled by people; changes of human labels that no round has learned from yet.
    waiting : int
        Tasks that Label Studio asked for and no worker has answered yet.
    flags : mapping of str to int
        Of the round that serves.
    progress : mapping
        Of the active round: stage to ``{"done", "total", ...}``.
    cost : float or None
        USD of all requests to LLMs; None where a price is not known.
    costs : tuple of CostLine
        The same by round and annotator.
    controls : mapping
        Of several controls: name to the counts, flags and agreement that the round that serves had for it; else empty.
    slices : tuple of SliceLine
        The parts of the corpus, the largest first, and how LLM and SLM do in each by the labels of people.
    """

    id: int
    title: str
    model_version: str
    labels: tuple[str, ...]
    tasks: int
    unreadable: int
    annotated: int
    abstained: int
    annotator: str | None
    human_labels: int
    new_changes: int
    waiting: int
    flags: Mapping[str, int]
    tokens: Mapping[str, int]
    rounds: tuple[RoundLine, ...] = ()
    active: RoundLine | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cost: float | None = None
    costs: tuple[CostLine, ...] = ()
    controls: Mapping[str, Any] = field(default_factory=dict)
    slices: tuple[SliceLine, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def status_of(store: Store, project_id: int) -> ProjectStatus:
    """Return how a project stands.

    Raises
    ------
    NotFoundError
        If it is not connected.
    """
    project = store.project(project_id)
    samples, answers = store.samples(project_id), store.llm_labels(project_id)
    human = {task_id: str(label.label) for task_id, label in store.human_labels(project_id).items()}
    usage, rounds = store.llm_usage(project_id), store.rounds(project_id)
    spending = store.ledger.spending(project_id)
    lines = tuple(
        _line(store, project, one, human, usage, spending=spending.get(one.id, [])) for one in reversed(rounds)
    )
    tokens = tokens_of([one for spent in spending.values() for one in spent], list(usage.values()))
    active = store.active_round(project_id)
    serving = store.round(project.active_round) if project.active_round is not None else None
    flags = serving.metrics.get("flags", {}) if serving else {}
    learned = max((one.through_change for one in rounds), default=0)
    return ProjectStatus(
        id=project_id,
        title=project.title,
        model_version=project.model_version,
        labels=project.label_space.named_labels,
        tasks=len(samples),
        unreadable=sum(sample.problem is not None for sample in samples),
        annotated=sum(answer.label is not None for answer in answers.values()),
        abstained=sum(answer.label is None for answer in answers.values()),
        annotator=_annotator(answers.values()),
        human_labels=len(human),
        new_changes=max(0, project.changes - learned),
        waiting=len(store.wanted(project_id)),
        flags={str(flag): int(flags.get(str(flag), 0)) for flag in Flag},
        tokens=tokens,
        rounds=lines,
        active=next((line for line in lines if active is not None and line.name == active.name), None),
        progress={str(stage): active.progress[stage] for stage in Stage if stage in active.progress} if active else {},
        notes=tuple(str(note) for note in (serving.metrics.get("notes") or ())) if serving else (),
        cost=cost_of([one for spent in spending.values() for one in spent], tokens=sum(tokens.values())),
        costs=tuple(cost_lines(store, project_id, rounds)),
        controls=dict(serving.metrics.get("by_control") or {}) if serving else {},
        slices=tuple(slice_lines(store, project)),
    )


def _line(
    store: Store,
    project: Project,
    one: Round,
    human: Mapping[int, str],
    usage: Mapping[int, Mapping[str, int]],
    *,
    spending: Sequence[Spend],
) -> RoundLine:
    verdicts = store.verdicts(project.id, one.id, list(human)) if human else []
    pairs = [pair for v in verdicts for pair in agreed_pairs(project.label_space, human[v.task_id], v)]
    spent = usage.get(one.number, {}) if one.revision == 0 else {}
    tokens = sum(tokens_of(spending, [spent]).values())
    cost, labels = cost_of(spending, tokens=tokens), spent.get("labels") or 0
    return RoundLine(
        name=one.name,
        status=str(one.status),
        stage=str(one.stage),
        llm=_share([said == llm for said, llm, _ in pairs]),
        slm=_share([said == slm for said, _, slm in pairs]),
        compared=len(pairs),
        flags=dict(one.metrics.get("flags", {})),
        tokens=tokens,
        seconds=round(sum(one.metrics.get("seconds", {}).values()), 1),
        model_version=one.model_version,
        error=one.error,
        requests=sum(line.requests for line in spending),
        cost=cost,
        cost_per_label=cost / labels if cost is not None and labels else None,
        budget=one.settings.get("budget"),
        serves=one.id == project.active_round,
        effect=effect.to_json() if (effect := effect_of(store, one)) else None,
    )


def tokens_of(spending: Sequence[Spend], usage: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the tokens of the requests; of the answers, where the requests of an older version were not counted.

    An answer that a batch brought, or an earlier request, took no tokens of its own.
    """
    of_requests = {
        "prompt": sum(s.prompt_tokens for s in spending),
        "completion": sum(s.completion_tokens for s in spending),
    }
    of_answers = {kind: sum(one.get(f"{kind}_tokens") or 0 for one in usage) for kind in of_requests}
    return {kind: max(of_requests[kind], of_answers[kind]) for kind in of_requests}


def _annotator(answers: Any) -> str | None:
    names = Counter(answer.annotator for answer in answers if answer.annotator)
    return names.most_common(1)[0][0] if names else None


def _share(hits: list[bool]) -> float | None:
    return round(sum(hits) / len(hits), 4) if hits else None
