"""What will the next round ask, and what will it cost? Label Studio is read, as at the start of a round; no LLM is asked.

Which samples would be asked, in which words, and by which strategy, is the round's own logic; a request that was answered before
costs nothing. Not known before are the labels of the first demonstrations (the longest is taken for them), which answers will
have to be asked for twice (none is assumed), and, where a strategy asks on from what was said, what will be said: annotators
are assumed that are right in four of five answers and say anything between half and wholly sure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from coral_backend.annotate import Annotation
from coral_backend.costs import past_spend
from coral_backend.labels import MULTIPLE, SPANS, Span, write_set, write_spans
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.llm.base import Question, abstained
from coral_backend.llm.forms import FORMS
from coral_backend.llm.prices import PriceTable, host_of
from coral_backend.llm.spend import total
from coral_backend.llm.tokens import TokenCounter
from coral_backend.questions import Questions
from coral_backend.rounds import Part, RoundRunner, Step, choose_demos, settings_of
from coral_backend.settings import Settings
from coral_backend.store import Lease, Store
from coral_backend.sync import refresh_project, sync_samples
from coral_backend.types import Demo, LabelSpace, Project, Round, RoundStatus, Sample, Spend, Stage
from strategies.annotation import Ask, Opinion

if TYPE_CHECKING:  # what is behind it takes a while to import
    from coral_backend.llm.client import Endpoint
    from coral_backend.llm.openai import OpenAIAnnotator

__all__ = ["Estimate", "Link", "estimate"]

RIGHT = 0.8
"""The share of answers that are assumed to be right, where a strategy asks on from them."""

USUAL_SET = 3
"""Labels that an answer with a set of them is assumed to name."""

SPAN_EVERY, SPAN_LENGTH = 60, 12
"""Characters of a text for each span that an answer is assumed to have, and of such a span."""

USUAL_TEXT = 240
"""Characters of a text whose spans a first answer is assumed to list."""

MOST_WAVES = 50
GROUP = 5_000
"""Questions whose replies are looked up at a time."""

_Put: TypeAlias = tuple[Project, int, Question]
"""A question, with the annotator's place and the project as its control has it."""


@dataclass(frozen=True)
class Link:
    """What one annotator would be asked; the costs are in USD, None when its price is not known."""

    annotator: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    live_cost: float | None
    batch_cost: float | None


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
        Requests for that: equal ones are sent once, empty texts and what was answered before never.
    counted : str
        Where the number of tokens comes from.
    cost : float or None
        USD in the way that the round would ask (`batch`); None when a price is not known.
    live_cost, batch_cost : float or None
        The same live, and through the Batch API.
    budget, spent : float or None
        The round's cap and what it has spent, in USD.
    links : tuple of Link
        The same by annotator.
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
    links: tuple[Link, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


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
        project = refresh_project(store, client, project_id, controls=settings.controls)
        own = settings_of(settings, project, active or _next_round(store, project, retrain=retrain))
        sync_samples(store, client, own, project, lambda *_: None)
    current = active or _next_round(store, project, retrain=retrain)
    own = settings_of(settings, project, current).with_options(options or {})
    step = Step(project, current, Lease("", 0), own)
    runner = RoundRunner(store, own, connect)
    # The meter of a round would refuse a budget without a price; a dry run says so instead.
    parts = runner.drafts(replace(step, settings=own.model_copy(update={"budget": None})))
    return _priced(step, parts, *_plan(step, parts))


def _next_round(store: Store, project: Project, *, retrain: bool) -> Round:
    """Return the round that would begin; it is not stored."""
    counts = (one for one in store.rounds(project.id) if not (retrain and one.set_aside))
    last = next(counts, None)
    number, revision = (last.number, last.revision) if last else (1, 0)
    if last is not None:
        number, revision = (number, revision + 1) if retrain else (number + 1, 0)
    return Round(0, project.id, number, revision, RoundStatus.PENDING, Stage.SYNC, project.config_hash)


def _plan(step: Step, parts: Sequence[Part]) -> tuple[int, Iterator[_Put]]:
    """Return about how many samples is asked, and the questions about all controls with the annotator that each goes to."""
    if step.round.stage not in (Stage.SYNC, Stage.ANNOTATE):
        return 0, iter(())
    plans = [(part, *_plan_of(part.runner, part.step, part.annotation)) for part in parts]
    asked = {sample.task_id for _, todo, _ in plans for sample in todo}
    return len(asked), ((part.step.project, *one) for part, _, put in plans for one in put)


def _plan_of(
    runner: RoundRunner, step: Step, annotation: Annotation
) -> tuple[Sequence[Sample], Iterator[tuple[int, Question]]]:
    todo, _, _ = runner.unanswered(step).count()
    first, demos = _demos(runner, step, annotation)
    early = {sample.task_id for sample in first}
    first = [sample for sample in todo if sample.task_id in early]
    rest = [sample for sample in todo if sample.task_id not in early]
    last = len(annotation.annotators) - 1
    asked_first = [(sample, Ask(last)) for sample in first]
    questions = annotation.questions.with_demos(demos)

    def put() -> Iterator[tuple[int, Question]]:
        yield from _questions(annotation.questions.zero_shot(), asked_first)
        for wave in _waves(annotation, rest, step.settings.seed):
            yield from _questions(questions, wave)

    return todo, put()


def _questions(questions: Questions, asks: Sequence[tuple[Sample, Ask]]) -> Iterator[tuple[int, Question]]:
    return zip((ask.annotator for _, ask in asks), questions.about(asks), strict=True)


def _demos(runner: RoundRunner, step: Step, annotation: Annotation) -> tuple[Sequence[Sample], Sequence[Demo]]:
    """Return what would be asked before there are demonstrations, and the demonstrations, as far as they are known."""
    current, project, store = step.round, step.project, runner.store
    if current.demos or "demos_chosen" in current.progress or step.settings.n_demos == 0:
        return (), current.demos
    if project.active_round is None:
        if not annotation.annotators[0].is_llm:
            return (), ()
        chosen = runner.first_samples(step)
        return chosen, [Demo(sample.text, _said(project.label_space, sample.text)) for sample in chosen]
    if current.revision:
        return (), store.round(project.active_round).demos
    return (), choose_demos(store, step.settings, project)


def _waves(annotation: Annotation, samples: Sequence[Sample], seed: int) -> Iterator[list[tuple[Sample, Ask]]]:
    """Yield what the strategy asks, wave after wave, of annotators that are right in `RIGHT` of their answers."""
    rng, labels = np.random.default_rng(seed), annotation.project.label_space.labels
    opinions = annotation.opinions_on(samples)
    right = {sample.task_id: labels[int(rng.integers(len(labels)))] for sample in samples}
    left = list(samples)
    for _ in range(MOST_WAVES):
        strategy = annotation.strategy
        if strategy.waits:
            strategy = strategy.fit(list(opinions.values()))
        steps = [(sample, strategy(opinions[sample.task_id])) for sample in left]
        asks = [(sample, step) for sample, step in steps if isinstance(step, Ask)]
        if not asks:
            return
        yield asks
        for sample, ask in asks:
            said = right[sample.task_id] if rng.random() < RIGHT else labels[int(rng.integers(len(labels)))]
            name = annotation.annotators[ask.annotator].name
            opinions[sample.task_id].append(Opinion(said, float(rng.uniform(0.5, 1.0)), name))
        left = [sample for sample, _ in asks]


@dataclass
class _Tally:
    """What one annotator would be asked, as it is counted."""

    annotator: OpenAIAnnotator
    counter: TokenCounter
    past: Spend
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: float = 0.0


def _priced(step: Step, parts: Sequence[Part], asked: int, questions: Iterable[_Put]) -> Estimate:
    annotation = max(
        (part.annotation for part in parts), key=lambda one: len(one.annotators)
    )  # the others ask its first
    store, settings = annotation.store, step.settings
    prices = PriceTable.load(settings.prices)
    names = list(dict.fromkeys(annotator.name for annotator in annotation.annotators))
    found = Estimate(
        project=step.project.id,
        round=step.round.name,
        annotator=", ".join(names),
        endpoint=None,
        tasks=len(store.samples(step.project.id)),
        asked=asked,
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
    if not annotation.annotators[0].is_llm:
        return replace(found, notes=(f"{names[0]} is no LLM behind an endpoint: it costs nothing.",))
    tallies = _counted(annotation, questions)
    links = tuple(_link(tally, prices) for tally in tallies)
    endpoint = tallies[0].annotator.endpoint
    live, batched = _sum(link.live_cost for link in links), _sum(link.batch_cost for link in links)
    batch = settings.batch and step.round.revision == 0
    spent = total(store.ledger.spending(step.project.id).get(step.round.id, ())) if step.round.id else Spend("")
    found = replace(
        found,
        endpoint=host_of(endpoint.base_url)[0],
        requests=sum(link.requests for link in links),
        prompt_tokens=sum(link.prompt_tokens for link in links),
        completion_tokens=sum(link.completion_tokens for link in links),
        counted="; ".join(dict.fromkeys(tally.counter.explained() for tally in tallies)),
        batch=batch,
        cost=batched if batch else live,
        live_cost=live,
        batch_cost=batched,
        spent=spent.cost,
        links=links,
    )
    guessed = any(part.annotation.strategy.waits for part in parts)
    return replace(found, notes=tuple(_notes(found, prices, tallies, guessed=guessed)))


def _counted(annotation: Annotation, questions: Iterable[_Put]) -> list[_Tally]:
    """Count what each annotator would be asked, without what was asked before."""
    tallies = [_tally(annotation, cast("OpenAIAnnotator", one)) for one in annotation.annotators]
    seen: set[str] = set()
    waiting: dict[str, tuple[Project, _Tally, Question]] = {}

    def count() -> None:
        for key in waiting.keys() - annotation.store.replies.find(waiting.keys()).keys():
            project, tally, question = waiting[key]
            tally.requests += 1
            tally.prompt_tokens += tally.counter.count(question.prompt.messages(question.sample.text))
            tally.answer_tokens += _answer_tokens(project, tally.annotator.endpoint, tally.past)
        waiting.clear()

    for project, place, question in questions:
        if abstained(question.sample, "") is not None:
            continue
        tally = tallies[place]
        key = tally.annotator.keys.of(question, question.prompt.messages(question.sample.text))
        if key not in seen:
            seen.add(key)
            waiting[key] = (project, tally, question)
            if len(waiting) >= GROUP:
                count()
    count()
    return tallies


def _tally(annotation: Annotation, annotator: OpenAIAnnotator) -> _Tally:
    past = past_spend(annotation.store, annotation.project.id, annotator.name)
    return _Tally(annotator, TokenCounter(annotator.endpoint.model, past.characters, past.prompt_tokens), past)


def _link(tally: _Tally, prices: PriceTable) -> Link:
    endpoint = tally.annotator.endpoint
    tokens = tally.prompt_tokens, round(tally.answer_tokens)
    price = prices.find(endpoint.base_url, endpoint.model)
    live, batched = (None, None) if price is None else (price.cost(*tokens), price.cost(*tokens, batch=True))
    return Link(tally.annotator.name, tally.requests, *tokens, live, batched)


def _sum(costs: Iterable[float | None]) -> float | None:
    known = list(costs)
    return None if None in known else sum(cast("list[float]", known))


def _answer_tokens(project: Project, endpoint: Endpoint, past: Spend) -> float:
    """Return how long an answer will be: as they were, else as the JSON of the longest label."""
    settled = past.requests - past.unsettled
    if settled > 0 and past.completion_tokens:
        return past.completion_tokens / settled
    space = project.label_space
    text = "x" * USUAL_TEXT if space.kind == SPANS else ""
    said = FORMS[space.kind].example(Demo(text, _said(space, text)))
    longest = json.dumps({key: value for key, value in said.items() if key != "content"}, ensure_ascii=False)
    return min(endpoint.max_tokens, TokenCounter(endpoint.model).count([{"content": longest}]))


def _said(space: LabelSpace, text: str) -> str:
    """Return the longest that is likely to be said of a text.

    That is the longest label, a set of the ``USUAL_SET`` longest, or a span with the longest in every ``SPAN_EVERY`` characters.
    """
    by_length = sorted(space.labels, key=len, reverse=True)
    if space.kind == MULTIPLE:
        return write_set(by_length[:USUAL_SET], space.labels)
    if space.kind == SPANS:
        places = range(0, len(text) - SPAN_LENGTH + 1, SPAN_EVERY)
        return write_spans([Span(at, at + SPAN_LENGTH, by_length[0]) for at in places])
    return by_length[0]


def _notes(found: Estimate, prices: PriceTable, tallies: Sequence[_Tally], *, guessed: bool) -> Iterator[str]:
    for link, tally in zip(found.links, tallies, strict=True):
        endpoint = tally.annotator.endpoint
        if link.live_cost is None:
            advice = prices.advice(endpoint.base_url, endpoint.model)
            yield f"The price of {endpoint.model!r} at {found.endpoint} is not known. {advice}"
        if tally.past.requests == 0:
            yield (
                f"Of {endpoint.model} no usage is known yet: a model that reasons before it answers takes many more tokens "
                "of output."
            )
    if guessed:
        yield (
            f"The strategy asks on from what was said; annotators are assumed that are right in {RIGHT:.0%} of their answers."
        )
    if found.budget is not None and found.cost is not None and found.cost > found.budget - found.spent:
        yield f"The budget of ${found.budget:g} will not do: the round will pause when it is spent, and keep what is done."
