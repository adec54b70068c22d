"""Does every annotation strategy decide, and does each of them ask whom it should?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from strategies.annotation import (
    ANNOTATION,
    SLM,
    AnnotationStrategy,
    Ask,
    Chain,
    Decision,
    Opinion,
    Sampled,
    Single,
    SmallFirst,
    Team,
    TwoCandidates,
    Vote,
)
from strategies.annotation.base import Maker
from strategies.annotation.chain import threshold

LABELS = ("positive", "negative", "neutral")
MAKERS = [pytest.param(maker, id=name) for name, maker in ANNOTATION]
SAMPLED: Maker = lambda team: Sampled(Chain(team), 3)  # noqa: E731
MAKERS.append(pytest.param(SAMPLED, id="sampled chain"))
SIZES = [1, 2, 4]


def slm(label: str, confidence: float | None = 0.8, rival: str | None = None) -> Opinion:
    return Opinion(label, confidence, SLM, rival=rival, asked=False)


def earlier(label: str, who: str = "llm:0") -> Opinion:
    return Opinion(label, None, who, asked=False)


def run(
    strategy: AnnotationStrategy,
    answer: Callable[[int, Ask], Opinion],
    known: Sequence[Sequence[Opinion]],
) -> tuple[list[Decision], list[list[Ask]]]:
    """Run the loop as the caller does, wave by wave, and return the decisions and what was asked about each sample."""
    opinions = [list(row) for row in known]
    asks: list[list[Ask]] = [[] for _ in known]
    decisions: dict[int, Decision] = {}
    for _ in range(100):
        strategy = strategy.fit(opinions)
        for i, heard in enumerate(opinions):
            if i in decisions:
                continue
            step = strategy(heard)
            if isinstance(step, Decision):
                decisions[i] = step
            else:
                asks[i].append(step)
        if len(decisions) == len(known):
            return [decisions[i] for i in range(len(known))], asks
        for i, asked in enumerate(asks):
            if i not in decisions:
                opinions[i].append(answer(i, asked[-1]))
    raise AssertionError("no decision after 100 waves")


# --- every strategy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("confidence", [None, 0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    "known", [[], [slm("positive")], [earlier("positive")], [earlier("positive"), slm("positive")]]
)
def test_agreeing_opinions_are_the_decision(
    maker: Maker, size: int, confidence: float | None, known: list[Opinion]
) -> None:
    strategy = maker(Team(size, 3, LABELS))
    decisions, _ = run(strategy, lambda _, ask: Opinion("positive", confidence, f"llm:{ask.annotator}"), [known] * 5)
    for decision in decisions:
        assert (decision.label, decision.reason) == ("positive", None)
        assert decision.confidence is None or 0.0 <= decision.confidence <= 1.0
        assert decision.decided_by


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", SIZES)
def test_abstentions_only_are_an_abstention_with_its_reason(maker: Maker, size: int) -> None:
    strategy = maker(Team(size, 3, LABELS))
    decisions, _ = run(strategy, lambda _, ask: Opinion(None, annotator="llm", reason="refused"), [[]] * 3)
    assert all(d.label is None and d.reason and d.decided_by for d in decisions)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_decided_without_an_opinion(maker: Maker, size: int) -> None:
    assert isinstance(maker(Team(size, 3, LABELS))([]), Ask)


@pytest.mark.parametrize("maker", MAKERS)
def test_one_sample_and_a_fit_on_nothing(maker: Maker) -> None:
    strategy = maker(Team(2, 3, LABELS)).fit([])
    decisions, _ = run(strategy, lambda *_: Opinion("neutral", 0.6, "llm"), [[]])
    assert decisions[0].label == "neutral"


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", SIZES)
def test_only_annotators_of_the_team_are_asked(maker: Maker, size: int) -> None:
    turn = {0: "positive", 1: "negative", 2: "neutral"}
    _, asks = run(
        maker(Team(size, 3, LABELS)),
        lambda i, ask: Opinion(turn[(i + ask.annotator) % 3], None, f"llm:{ask.annotator}"),
        [[slm(turn[i % 3])] for i in range(12)],
    )
    assert {ask.annotator for row in asks for ask in row} <= set(range(size))
    assert all(len(row) <= max(3, size) * 3 for row in asks)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Opinion("a", confidence)


@pytest.mark.parametrize(("size", "votes"), [(0, 3), (1, 0)])
def test_a_team_has_somebody_to_ask(size: int, votes: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Team(size, votes)


# --- single -------------------------------------------------------------------------------------------------------


def test_single_asks_once() -> None:
    single = Single(Team(3))
    assert single([slm("positive")]) == Ask(annotator=0, candidates=None)
    assert single([slm("positive"), Opinion("a", 0.3, "llm")]) == Decision("a", 0.3, "llm")


# --- vote ---------------------------------------------------------------------------------------------------------


def test_vote_asks_every_model_and_then_for_further_samples() -> None:
    heard: list[Opinion] = []
    asked = []
    while isinstance(step := Vote(Team(2, 3, LABELS))(heard), Ask):
        asked.append((step.annotator, step.draw))
        heard.append(Opinion("positive", None, f"llm:{step.annotator}"))
    assert asked == [(0, 0), (1, 0), (0, 1)]


def test_an_unfitted_vote_is_the_majority() -> None:
    heard = [Opinion("negative", None, "a"), Opinion("positive", None, "b"), Opinion("positive", None, "c")]
    decision = Vote(Team(3, 1, LABELS))(heard)
    assert isinstance(decision, Decision)
    assert (decision.label, decision.decided_by) == ("positive", "b+c")


def test_a_vote_follows_the_annotator_that_is_right_more_often() -> None:
    """One annotator always agrees with one of the other two, which guess: when all differ, its word counts."""
    truth = [LABELS[i % 3] for i in range(90)]

    def answer(i: int, ask: Ask) -> Opinion:
        wrong = LABELS[(i + 1) % 3]
        guesses = (i // 3 + ask.annotator) % 2 == 0
        return Opinion(truth[i] if ask.annotator == 0 or guesses else wrong, None, f"llm:{ask.annotator}")

    decisions, _ = run(Vote(Team(3, 1, LABELS)), answer, [[] for _ in truth])
    assert [d.label for d in decisions] == truth


# --- chain --------------------------------------------------------------------------------------------------------


def test_a_chain_forwards_the_least_certain_third_then_half() -> None:
    def answer(i: int, ask: Ask) -> Opinion:
        return Opinion("positive", 0.5 + i / 200, f"llm:{ask.annotator}")

    decisions, asks = run(Chain(Team(3, 1, LABELS)), answer, [[] for _ in range(90)])
    assert [sum(len(row) > link for row in asks) for link in range(3)] == [90, 30, 15]
    assert {i for i, row in enumerate(asks) if len(row) == 1} == set(range(30, 90)), "the surest stay with the first"
    assert {d.decided_by for d in decisions[:15]} == {"llm:2"}
    assert {d.decided_by for d in decisions[15:30]} == {"llm:1"}


def test_a_link_that_tells_nothing_apart_forwards_all_and_agreement_decides() -> None:
    def answer(i: int, ask: Ask) -> Opinion:
        differs = i < 5 and ask.annotator == 1
        return Opinion("negative" if differs else "positive", None, f"llm:{ask.annotator}")

    decisions, asks = run(Chain(Team(3, 1, LABELS)), answer, [[] for _ in range(30)])
    assert [len(row) for row in asks] == [3] * 5 + [2] * 25
    assert decisions[20].decided_by == "llm:1"


def test_a_chain_forwards_what_the_small_model_contradicts() -> None:
    known = [[slm("negative" if i < 10 else "positive", 0.9)] for i in range(30)]
    _, asks = run(Chain(Team(2, 1, LABELS)), lambda _, ask: Opinion("positive", None, f"llm:{ask.annotator}"), known)
    assert [len(row) for row in asks] == [2] * 10 + [1] * 20


def test_abstentions_go_on_beyond_the_share_and_fall_back() -> None:
    def answer(i: int, ask: Ask) -> Opinion:
        if i < 10 and (ask.annotator == 0 or i < 2):
            return Opinion(None, None, f"llm:{ask.annotator}", reason="refused")
        if 10 <= i < 12 and ask.annotator == 1:
            return Opinion(None, None, "llm:1", reason="cut")
        return Opinion("positive", 0.5 + i / 100, f"llm:{ask.annotator}")

    decisions, asks = run(Chain(Team(2, 1, LABELS)), answer, [[] for _ in range(40)])
    assert all(len(row) == 2 for row in asks[:20])
    assert decisions[0].reason == "refused"
    assert (decisions[5].label, decisions[5].decided_by) == ("positive", "llm:1")
    assert (decisions[10].label, decisions[10].decided_by) == ("positive", "llm:0")


def test_a_fitted_chain_decides_the_same_after_later_waves() -> None:
    """A round that is resumed in its second wave must find the thresholds of the first where they were."""
    first = [[Opinion("positive", 0.5 + i / 100, "llm:0")] for i in range(40)]
    later = [[*row, Opinion("negative", 0.9, "llm:1")] if i < 7 else row for i, row in enumerate(first)]
    chain = Chain(Team(3, 1, LABELS))
    assert [chain.fit(first)(row) for row in first] == [chain.fit(later)(row) for row in first]


@pytest.mark.parametrize(
    ("values", "below"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2),
        ([0.5, 0.5, 0.5, 0.5], 4),
        ([0.4, 0.9, 0.9, 0.9, 0.9, 0.9], 1),
        ([0.4, 0.4, 0.4, 0.9, 0.9, 0.9], 3),
        ([0.7], 1),
    ],
)
def test_equals_are_never_parted(values: list[float], below: int) -> None:
    limit = threshold(values, 1 / 3)
    assert sum(value < limit for value in values) == below


# --- small first --------------------------------------------------------------------------------------------------


def test_small_models_that_agree_decide() -> None:
    strategy = SmallFirst(Team(3, 1, LABELS))
    agreeing = [slm("positive"), Opinion("positive", None, "llm:0"), Opinion("positive", 0.7, "llm:1")]
    assert strategy(agreeing) == Decision("positive", 0.7, "slm+llm:0+llm:1")
    doubtful = [*agreeing[:2], Opinion("positive", 0.4, "llm:1")]
    assert strategy(doubtful) == Ask(2)


def test_small_models_that_differ_have_the_last_asked_at_once() -> None:
    strategy = SmallFirst(Team(3, 1, LABELS))
    heard = [slm("positive"), Opinion("negative", 0.9, "llm:0")]
    assert strategy(heard) == Ask(2)
    assert strategy([*heard, Opinion("neutral", 0.6, "llm:2")]) == Decision("neutral", 0.6, "llm:2")


def test_a_sure_small_model_saves_the_question() -> None:
    strategy = SmallFirst(Team(1, 1, LABELS))
    assert strategy([slm("positive", 0.95)]) == Decision("positive", 0.95, "slm")
    assert strategy([slm("positive", 0.8)]) == Ask(0)
    assert strategy([]) == Ask(0)


def test_where_the_last_abstains_the_small_ones_stand() -> None:
    heard = [slm("positive", 0.8), Opinion("negative", None, "llm:0"), Opinion(None, None, "llm:1", reason="refused")]
    decision = SmallFirst(Team(2, 1, LABELS))(heard)
    assert isinstance(decision, Decision)
    assert (decision.label, decision.decided_by) == ("positive", "slm")


# --- two candidates -----------------------------------------------------------------------------------------------


def test_two_candidates_are_put_to_the_last() -> None:
    strategy = TwoCandidates(Team(2, 1, LABELS))
    heard = [earlier("negative"), slm("positive", 0.9, "neutral")]
    assert strategy(heard) == Ask(1, candidates=("negative", "positive"))
    assert strategy([*heard, Opinion("positive", 0.8, "llm:1")]) == Decision("positive", 0.8, "llm:1")
    kept = strategy([*heard, Opinion(None, None, "llm:1", reason="refused")])
    assert kept == Decision("negative", None, "llm:0")


def test_what_both_share_is_not_asked_again_unless_the_loss_is_large() -> None:
    strategy = TwoCandidates(Team(2, 1, LABELS))
    assert strategy([earlier("positive"), slm("positive", 0.6, "neutral")]) == Decision("positive", None, "llm:0")
    large = strategy([earlier("positive"), slm("positive", 0.4, "neutral")])
    assert large == Ask(1, candidates=("positive", "neutral"))


def test_without_an_earlier_label_the_first_is_asked() -> None:
    strategy = TwoCandidates(Team(2, 1, LABELS))
    assert strategy([slm("positive")]) == Ask(0)
    assert strategy([slm("positive"), Opinion("neutral", None, "llm:0")]) == Ask(1, candidates=("neutral", "positive"))
    abstained = [slm("positive", 0.8, "neutral"), Opinion(None, None, "llm:0", reason="cut")]
    assert strategy(abstained) == Ask(1, candidates=("positive", "neutral"))


# --- sampled ------------------------------------------------------------------------------------------------------


def test_the_share_of_samples_that_agree_is_the_confidence() -> None:
    sampled = Sampled(Single(Team(1)), 4)
    heard: list[Opinion] = []
    for draw, label in enumerate(["positive", "negative", "positive", None]):
        assert sampled(heard) == Ask(0, draw=draw)
        heard.append(Opinion(label, None, "llm:0"))
    assert sampled(heard) == Decision("positive", 0.5, "llm:0")


def test_samples_that_all_abstain_are_an_abstention() -> None:
    decision = Sampled(Single(Team(1)), 2)([Opinion(None, None, "llm", reason="refused")] * 2)
    assert decision == Decision(None, None, "llm", reason="refused")


def test_there_is_at_least_one_sample() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        Sampled(Single(Team(1)), 0)
