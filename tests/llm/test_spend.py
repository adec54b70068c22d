"""Does the cap hold, with many requests in flight and endpoints that fail, over real HTTP?"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_backend.exceptions import BudgetError
from coral_backend.llm.base import asked
from coral_backend.llm.client import Endpoint
from coral_backend.llm.openai import OpenAIAnnotator
from coral_backend.llm.prices import PriceTable
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.retry import Pace
from coral_backend.llm.spend import Meter, Usage, total, usage_of
from coral_backend.types import Answer, LabelSpace, Sample, Spend
from strategies.tasks import load
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, completion, html, label, reset, status

SPACE = LabelSpace("Choices", "sentiment", "text", "text", ("positive", "negative"))
PROMPT = Prompt.build(load("sentiment"), SPACE, [])
USAGE = {
    "prompt_tokens": 400,
    "completion_tokens": 6,
    "total_tokens": 406,
    "prompt_tokens_details": {"cached_tokens": 100},
}
COST = (300 * 10 + 100 * 1 + 6 * 50) / 1e6
"""Of one request with `USAGE` at the prices below."""


@pytest.fixture
def prices(tmp_path: Path) -> PriceTable:
    file = tmp_path / "prices.yaml"
    file.write_text('endpoints: {"*": {models: {scripted: {input: 10, cached: 1, output: 50}}}}', encoding="utf-8")
    return PriceTable.load(file)


@pytest.fixture
def server() -> Iterator[ScriptedOpenAI]:
    with ScriptedOpenAI(lambda call: label("positive", usage=USAGE, delay_s=0.01)) as made:
        yield made


def annotator(server: ScriptedOpenAI, meter: Meter, *, model: str = "scripted", slots: int = 8) -> OpenAIAnnotator:
    endpoint = Endpoint(server.base_url, key="test-key", model=model, concurrency=slots, timeout_s=5.0)
    return OpenAIAnnotator(endpoint, Pace(rng=random.Random(0)), meter=meter)


def run(who: OpenAIAnnotator, count: int) -> dict[int, Answer]:
    """Ask about so many texts; what was handed over before an error is in ``run.answers``."""
    answers: dict[int, Answer] = {}
    run.answers = answers  # type: ignore[attr-defined]
    questions = asked((Sample(i, f"a fine film, number {i:03d}") for i in range(count)), PROMPT)
    who.annotate(questions, lambda sample, answer: answers.update({sample.task_id: answer}), lambda: None)
    return answers


class Book:
    """Where a meter's spending is recorded."""

    def __init__(self) -> None:
        self.kept: dict[str, Spend] = {}

    def __call__(self, spent: list[Spend]) -> None:
        for one in spent:
            self.kept[one.annotator] = self.kept[one.annotator].plus(one) if one.annotator in self.kept else one


def metered(prices: PriceTable, budget: float | None = None, spent: float = 0.0) -> Meter:
    return Meter(prices, budget, spent, record=Book())


def told(meter: Meter) -> list[Spend]:
    """Return what was recorded, each thing once."""
    book = meter.record
    assert isinstance(book, Book)
    found, book.kept = list(book.kept.values()), {}
    return found


def test_what_was_taken_is_counted_by_the_endpoints_own_usage(server: ScriptedOpenAI, prices: PriceTable) -> None:
    meter = metered(prices)
    run(annotator(server, meter), 20)
    (spent,) = told(meter)
    assert (spent.annotator, spent.batch, spent.requests) == ("openai:scripted", False, 20)
    assert (spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens) == (8_000, 2_000, 120)
    assert spent.cost == pytest.approx(20 * COST)
    sent = sum(len(m["content"]) for call in server.history for m in call.messages)
    assert spent.characters == sent
    assert told(meter) == [], "told once"


@pytest.mark.parametrize("slots", [1, 8, 64])
def test_the_cap_holds_with_many_in_flight_and_no_answer_is_lost(
    server: ScriptedOpenAI, prices: PriceTable, slots: int
) -> None:
    meter = metered(prices, budget=0.2)
    with pytest.raises(BudgetError, match=r"of the budget of \$0.2 are spent, and the next request may cost up to"):
        run(annotator(server, meter, slots=slots), 500)
    answers = run.answers  # type: ignore[attr-defined]
    assert meter.spent <= 0.2
    assert len(server.history) == len(answers), "what was in flight when the cap came was waited for"
    assert meter.spent == pytest.approx(len(answers) * COST)
    most = 0.2 - meter.spent
    assert most < 0.03, "and the budget is used up to the most that one more request could cost"


def test_spending_goes_on_where_it_stood(server: ScriptedOpenAI, prices: PriceTable) -> None:
    with pytest.raises(BudgetError):
        run(annotator(server, metered(prices, budget=0.2, spent=0.19)), 5)
    assert server.history == []


def test_a_price_that_is_not_known_is_refused_before_any_request(server: ScriptedOpenAI, prices: PriceTable) -> None:
    with pytest.raises(BudgetError, match=r"price of 'unheard-of' .* is not known.*output: 0\.60"):
        run(annotator(server, metered(prices, budget=5.0), model="unheard-of"), 3)
    assert server.history == []
    meter = metered(prices)
    assert len(run(annotator(server, meter, model="unheard-of"), 3)) == 3
    (spent,) = told(meter)
    assert (spent.unpriced, spent.known_cost, spent.prompt_tokens) == (3, None, 1_200)


def test_refused_requests_cost_nothing_and_cut_ones_the_most(server: ScriptedOpenAI, prices: PriceTable) -> None:
    meter = metered(prices)
    server.script += [label("positive", usage=USAGE), status(429, {"Retry-After": "0"}), status(500), reset(), html()]
    assert all(answer.label for answer in run(annotator(server, meter, slots=1), 3).values())
    (spent,) = told(meter)
    assert (spent.requests, spent.unsettled) == (3 + 2, 2), "the reset one and the page may have been paid"
    assert spent.cost > 5 * COST
    assert spent.prompt_tokens == 3 * 400


def test_a_repair_is_counted_too(server: ScriptedOpenAI, prices: PriceTable) -> None:
    meter = metered(prices)
    server.script += [completion("perhaps", usage=USAGE)]
    run(annotator(server, meter), 1)
    assert total(told(meter)).requests == 2


def test_an_endpoint_that_tells_no_usage_is_counted_with_the_most(prices: PriceTable) -> None:
    with ScriptedOpenAI(lambda call: label("positive", usage={})) as silent:
        meter = metered(prices, budget=0.05)
        with pytest.raises(BudgetError):
            run(annotator(silent, meter), 50)
        assert total(told(meter)).unsettled == len(silent.history) < 50
        assert meter.spent <= 0.05


def test_a_round_stopped_by_hand_counts_what_was_in_flight(prices: PriceTable) -> None:
    arrived = threading.Event()

    def slow(call: Call) -> Reply:
        if call.number:
            arrived.set()
        return label("positive", usage=USAGE, delay_s=5.0 if call.number else 0.0)

    def stop() -> None:
        if arrived.is_set():
            raise KeyboardInterrupt

    meter = metered(prices)
    with ScriptedOpenAI(slow) as server:
        who = annotator(server, meter, slots=1)
        questions = asked((Sample(i, f"film {i}") for i in range(3)), PROMPT)
        with pytest.raises(KeyboardInterrupt):
            who.annotate(questions, lambda *_: None, stop)
    spent = total(told(meter))
    assert (spent.requests, spent.unsettled) == (2, 1)


def test_what_the_store_did_not_take_is_told_again(prices: PriceTable) -> None:
    meter = metered(prices)
    meter.note(Spend("a", requests=1, cost=0.5))
    with pytest.raises(OSError, match="full"), meter.telling():
        raise OSError("full")
    meter.note(Spend("a", requests=1, cost=0.25))
    meter.tell()
    assert told(meter) == [Spend("a", requests=2, cost=0.75)]


@pytest.mark.parametrize(
    ("reply", "usage"),
    [
        ({"usage": USAGE}, Usage(400, 6, 100)),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 0}}, Usage(5, 0)),
        (
            {"usage": {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}},
            Usage(5, 1, 5),
        ),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, None),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 1}}, None),
        ({"usage": {"prompt_tokens": True, "completion_tokens": 1}}, None),
        ({"usage": "much"}, None),
        ({}, None),
        ([], None),
    ],
)
def test_usage_is_believed_only_where_it_can_be(reply: object, usage: Usage | None) -> None:
    assert usage_of(reply) == usage
