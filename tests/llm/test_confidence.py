"""Is a confidence what the log-probabilities say, and is it None where they say nothing?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from coral_backend.llm.confidence import Token, from_logprobs, is_fake, tokens_of

ln = math.log
CODES = {"A": "positive", "B": "negative", "C": "neutral"}
LABELS = {"positive": "positive", "negative": "negative"}


def token(text: str, p: float, others: Mapping[str, float] | None = None) -> Token:
    """Return a token with probability `p` and alternatives with theirs."""
    return Token(text, ln(p), tuple((other, ln(q)) for other, q in (others or {}).items()))


SURE = [token('{"', 0.999), token("label", 0.99), token('":"', 0.998)]
END = [token('"}', 0.97)]


def test_an_option_code_is_its_probability_among_all_codes() -> None:
    tokens = [*SURE, token("A", 0.6, {"A": 0.6, "B": 0.2, "C": 0.1, "Z": 0.05}), *END]
    found = from_logprobs(tokens, CODES, "positive")
    assert found is not None
    assert found.confidence == pytest.approx(0.6 / 0.9)
    assert found.missing_mass == pytest.approx(0.1)


def test_a_bare_letter_is_read_too() -> None:
    found = from_logprobs([token("B", 0.6, {"B": 0.6, "A": 0.4})], CODES, "negative")
    assert found is not None
    assert found.confidence == pytest.approx(0.6)
    assert found.missing_mass == pytest.approx(0.0)


def test_the_quote_may_be_a_part_of_the_token() -> None:
    tokens = [token('{"', 0.9), token("label", 0.8), token('":', 0.9), token('"A', 0.7, {'"B': 0.1, " A": 0.1}), *END]
    found = from_logprobs(tokens, CODES, "positive")
    assert found is not None
    assert found.confidence == pytest.approx(0.7 / 0.8)
    assert found.missing_mass == pytest.approx(0.2)


def test_a_label_of_several_tokens_is_followed_until_no_other_can_be_meant() -> None:
    labels = {label: label for label in ("very good", "very bad", "poor")}
    tokens = [
        *SURE,
        token("very", 0.8, {"very": 0.8, "poor": 0.2}),
        token(" ba", 0.6, {" ba": 0.6, " good": 0.3, " nice": 0.1}),
        token("d", 0.5, {"d": 0.5, "th": 0.5}),
        *END,
    ]
    found = from_logprobs(tokens, labels, "very bad")
    assert found is not None
    assert found.confidence == pytest.approx(0.8 * 0.6 / 0.9)
    assert found.missing_mass == pytest.approx(0.1)


def test_a_label_that_begins_another_is_told_from_it() -> None:
    labels = {label: label for label in ("not", "not toxic")}
    tokens = [*SURE, token("not", 0.9, {"no": 0.1}), token('"}', 0.7, {" toxic": 0.3})]
    found = from_logprobs(tokens, labels, "not")
    assert found is not None
    assert found.confidence == pytest.approx(0.7)


def test_without_alternatives_the_token_is_all_that_is_known() -> None:
    found = from_logprobs([*SURE, token("positive", 0.8), *END], LABELS, "positive")
    assert found is not None
    assert found.confidence == pytest.approx(0.8)
    assert found.missing_mass == pytest.approx(0.2)


def test_quotes_in_a_label_stand_escaped_in_the_answer() -> None:
    labels = {'so "so"': 'so "so"', "bad": "bad"}
    tokens = [*SURE, token("so", 0.75, {"bad": 0.25}), token(' \\"so\\"', 0.9, {" what": 0.1}), *END]
    found = from_logprobs(tokens, labels, 'so "so"')
    assert found is not None
    assert found.confidence == pytest.approx(0.75)


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param([], id="none"),
        pytest.param([Token("A", 0.0, (("A", 0.0), ("B", 0.0)))], id="all zero"),
        pytest.param([Token("A", 0.0)], id="one zero"),
        pytest.param([Token("A", -0.1, (("B", -0.1), ("C", -0.1)))], id="all equal"),
        pytest.param([Token(t, -0.5, (("x", -1.0),)) for t in ('{"label":"', "A", '"}')], id="no spread"),
        pytest.param([Token("A", -0.1, (("B", -0.2),))], id="more than one"),
        pytest.param([Token("A", 0.7, (("B", -2.0),))], id="positive"),
        pytest.param([Token("A", math.nan, (("B", -2.0),))], id="not a number"),
        pytest.param([token("A", 0.5, {"B": 0.1}), Token("!", math.inf)], id="infinite"),
    ],
)
def test_what_cannot_be_true_is_no_confidence(tokens: list[Token]) -> None:
    assert from_logprobs(tokens, CODES, "positive") is None
    assert not tokens or is_fake(tokens)


def test_an_answer_that_is_not_in_the_tokens_is_no_confidence() -> None:
    tokens = [token('{"answer": ', 0.9), token("1}", 0.5, {"2": 0.4})]
    assert from_logprobs(tokens, CODES, "positive") is None
    assert from_logprobs([token("maybe", 0.6, {"A": 0.2})], CODES, "positive") is None


def test_a_token_that_cannot_come_is_fine() -> None:
    """JSON has no infinity; some endpoints send -9999, and Python reads -Infinity."""
    tokens = [Token("A", ln(0.9), (("B", -9999.0), ("C", -math.inf)))]
    found = from_logprobs(tokens, CODES, "positive")
    assert found is not None
    assert found.confidence == pytest.approx(1.0)


def test_tokens_are_read_as_the_endpoint_wrote_them() -> None:
    good = {"token": "A", "logprob": -0.5, "bytes": [65], "top_logprobs": [{"token": "B", "logprob": -1}]}
    assert tokens_of([good]) == [Token("A", -0.5, (("B", -1.0),))]
    for bad in (
        {"token": "A"},
        {"token": 1, "logprob": -1},
        {"token": "A", "logprob": None},
        {"logprob": True},
        {"token": "A", "logprob": -(10**400)},
    ):
        assert tokens_of([good, bad]) == []
