"""Does every annotation strategy decide, and does ``single`` pass its answer on?"""

from __future__ import annotations

import pytest

from strategies.annotation import ANNOTATION, AnnotationStrategy, Ask, Decision, Opinion

STRATEGIES = [pytest.param(strategy, id=name) for name, strategy in ANNOTATION]


def decide(strategy: AnnotationStrategy, opinion: Opinion) -> Decision:
    """Answer every question with `opinion` until the strategy decides."""
    opinions: list[Opinion] = []
    for _ in range(100):
        step = strategy(opinions)
        if isinstance(step, Decision):
            return step
        opinions.append(opinion)
    raise AssertionError("no decision after 100 opinions")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("confidence", [None, 0.0, 0.7, 1.0])
def test_agreeing_opinions_are_the_decision(strategy: AnnotationStrategy, confidence: float | None) -> None:
    decision = decide(strategy, Opinion("positive", confidence, "llm"))
    assert (decision.label, decision.reason) == ("positive", None)
    assert decision.confidence is None or 0.0 <= decision.confidence <= 1.0
    assert "llm" in decision.decided_by


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_abstentions_only_are_an_abstention_with_its_reason(strategy: AnnotationStrategy) -> None:
    decision = decide(strategy, Opinion(None, annotator="llm", reason="refused"))
    assert decision.label is None
    assert decision.reason


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_decided_without_an_opinion(strategy: AnnotationStrategy) -> None:
    assert isinstance(strategy([]), Ask)


def test_single_asks_once() -> None:
    single = ANNOTATION.get("single")
    assert single([]) == Ask(annotator=0, candidates=None)
    assert single([Opinion("a", 0.3, "llm")]) == Decision("a", 0.3, "llm")


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Opinion("a", confidence)
