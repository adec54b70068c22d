"""What will the next round ask, and what will it cost? Label Studio is read, as at the start of a round; no LLM is asked.

Which samples would be asked, and in which words, is the round's own logic. Not known before are the labels of the first
demonstrations (the longest is taken for them), and which answers will have to be asked for twice (none is assumed).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from coral_backend.costs import past_spend
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.llm.base import Annotator, abstained, make_annotator
from coral_backend.llm.prices import PriceTable, host_of
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.spend import total
from coral_backend.llm.tokens import TokenCounter
from coral_backend.rounds import (
    RoundRunner,
    Step,
    choose_demos,
    lazy_embed,
    prompt_for,
    refresh_project,
    settings_for,
    settings_of,
    sync_samples,
)
from coral_backend.settings import Settings
from coral_backend.store import Lease, Store
from coral_backend.types import Demo, Project, Round, RoundStatus, Sample, Spend, Stage

if TYPE_CHECKING:  # the SDK behind it takes a second to import
    from coral_backend.llm.client import Endpoint

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a round would ask.

    Attributes
    ----------
    round : str
        Its name; the one under way, of which only the rest is counted, if there is one.
    endpoint : str or None
        Host of the LLM; None when no LLM would be asked.
    tasks : int
        Tasks of the project.
    asked : int
        Tasks that would be asked about.
    requests : int
        Requests for that: equal texts are asked once, empty ones never.
    counted : str
        Where the number of tokens comes from.
    cost : float or None
        USD in the way that the round would ask (`batch`); None when the price is not known.
    live_cost, batch_cost : float or None
        The same live, and through the Batch API.
    budget, spent : float or None
        The round's cap and what it has spent, in USD.
    notes : tuple of str
        What a person should know beside the numbers.
    """

    project: int
    round: str
    annotator: str
    endpoint: str | None
    tasks: int
    asked: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    counted: str
    batch: bool
    cost: float | None
    live_cost: float | None
    batch_cost: float | None
    prices_of: str
    budget: float | None = None
    spent: float = 0.0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Plan:
    """What would be asked: a few samples without demonstrations, then the others with them."""

    first: Sequence[Sample]
    first_prompt: Prompt
    rest: Sequence[Sample]
    prompt: Prompt

    def questions(self) -> Iterator[tuple[Prompt, str]]:
        """Yield what is sent: each text once in each prompt."""
        seen: set[tuple[str, str]] = set()
        for samples, prompt in ((self.first, self.first_prompt), (self.rest, self.prompt)):
            for sample in samples:
                text = prompt.clean(sample.text)
                if abstained(sample, "") is None and (prompt.version, text) not in seen:
                    seen.add((prompt.version, text))
                    yield prompt, text


def estimate(
    store: Store,
    settings: Settings,
    project_id: int,
    connect: Callable[[], LabelStudioClient],
    *,
    retrain: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Estimate:
    """Return what the next round would ask and cost, or the rest of the one under way.

    Parameters
    ----------
    options : mapping, optional
        The round's own ``budget`` and ``batch``; of a round under way, those it was begun with count where none are given.
    connect : callable
        Returns the Label Studio client; not called while a round is under way, whose tasks are read already.

    Raises
    ------
    CoralError
        If Label Studio cannot be read, or a setting is wrong.
    """
    active = store.active_round(project_id)
    project = store.project(project_id)
    if active is None or active.stage is Stage.SYNC:
        client = connect()
        project = refresh_project(store, client, project_id)
        sync_samples(store, client, settings_for(settings, project), project, lambda *_: None)
    current = active or _next_round(store, project, retrain=retrain)
    own = settings_of(settings, project, current).with_options(options or {})
    annotator = make_annotator(own, lazy_embed(own))
    step = Step(project, current, Lease("", 0), own)
    plan = _plan(RoundRunner(store, own, connect), step, annotator)
    return _priced(store, step, annotator, plan)


def _next_round(store: Store, project: Project, *, retrain: bool) -> Round:
    """Return the round that would begin; it is not stored."""
    last = next(iter(store.rounds(project.id)), None)
    number, revision = (last.number, last.revision) if last else (1, 0)
    if last is not None:
        number, revision = (number, revision + 1) if retrain else (number + 1, 0)
    return Round(0, project.id, number, revision, RoundStatus.PENDING, Stage.SYNC, project.config_hash)


def _plan(runner: RoundRunner, step: Step, annotator: Annotator) -> _Plan:
    todo, _ = runner._unanswered(step)
    bare = prompt_for(step.settings, step.project, ())
    if step.round.stage not in (Stage.SYNC, Stage.ANNOTATE):
        return _Plan((), bare, (), bare)
    first, demos = _demos(runner, step, annotator)
    asked = {sample.task_id for sample in first}
    rest = [sample for sample in todo if sample.task_id not in asked]
    return _Plan([s for s in todo if s.task_id in asked], bare, rest, prompt_for(step.settings, step.project, demos))


def _demos(runner: RoundRunner, step: Step, annotator: Annotator) -> tuple[Sequence[Sample], Sequence[Demo]]:
    """Return what would be asked before there are demonstrations, and the demonstrations, as far as they are known."""
    current, project, store = step.round, step.project, runner.store
    if current.demos or "demos_chosen" in current.progress or step.settings.n_demos == 0:
        return (), current.demos
    if project.active_round is None:
        if not annotator.is_llm:
            return (), ()
        chosen = runner._first_samples(step)
        longest = max(project.label_space.labels, key=len)
        return chosen, [Demo(sample.text, longest) for sample in chosen]
    if current.revision:
        return (), store.round(project.active_round).demos
    return (), choose_demos(store, step.settings, project)


def _priced(store: Store, step: Step, annotator: Annotator, plan: _Plan) -> Estimate:
    settings = step.settings
    prices = PriceTable.load(settings.prices)
    endpoint: Endpoint | None = getattr(annotator, "endpoint", None)
    found = Estimate(
        project=step.project.id,
        round=step.round.name,
        annotator=annotator.name,
        endpoint=None,
        tasks=len(store.samples(step.project.id)),
        asked=len(plan.first) + len(plan.rest),
        requests=0,
        prompt_tokens=0,
        completion_tokens=0,
        counted="no LLM is asked",
        batch=False,
        cost=0.0,
        live_cost=0.0,
        batch_cost=None,
        prices_of=prices.date,
        budget=settings.budget,
    )
    if endpoint is None:
        return replace(found, notes=(f"{annotator.name} is no LLM behind an endpoint: it costs nothing.",))
    past = past_spend(store, step.project.id, annotator.name)
    counter = TokenCounter(endpoint.model, past.characters, past.prompt_tokens)
    requests = prompt_tokens = 0
    for prompt, text in plan.questions():
        requests += 1
        prompt_tokens += counter.count(prompt.messages(text))
    completion_tokens = round(requests * _answer_tokens(step.project, endpoint, past))
    price = prices.find(endpoint.base_url, endpoint.model)
    live = price.cost(prompt_tokens, completion_tokens) if price is not None else None
    batched = price.cost(prompt_tokens, completion_tokens, batch=True) if price is not None else None
    spent = total(store.spending(step.project.id).get(step.round.id, ())) if step.round.id else Spend("")
    found = replace(
        found,
        endpoint=host_of(endpoint.base_url)[0],
        requests=requests,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        counted=counter.explained(),
        batch=settings.batch,
        cost=batched if settings.batch else live,
        live_cost=live,
        batch_cost=batched,
        spent=spent.cost,
    )
    return replace(found, notes=tuple(_notes(found, prices, endpoint, retries=past.requests == 0)))


def _answer_tokens(project: Project, endpoint: Endpoint, past: Spend) -> float:
    """Return how long an answer will be: as they were, else as the JSON of the longest label."""
    settled = past.requests - past.unsettled
    if settled > 0 and past.completion_tokens:
        return past.completion_tokens / settled
    longest = json.dumps({"label": max(project.label_space.labels, key=len)}, ensure_ascii=False)
    counter = TokenCounter(endpoint.model)
    return min(endpoint.max_tokens, counter.count([{"content": longest}]))


def _notes(found: Estimate, prices: PriceTable, endpoint: Endpoint, *, retries: bool) -> Iterator[str]:
    if found.cost is None:
        yield (
            f"The price of {endpoint.model!r} at {found.endpoint} is not known. "
            f"{prices.advice(endpoint.base_url, endpoint.model)}"
        )
    if retries:
        yield "Of this model no usage is known yet: a model that reasons before it answers takes many more tokens of output."
    if found.budget is not None and found.cost is not None and found.cost > found.budget - found.spent:
        yield f"The budget of ${found.budget:g} will not do: the round will pause when it is spent, and keep what is done."
