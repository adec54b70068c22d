"""How sure was the model? Read off the log-probabilities of its answer's tokens; None where they are absent or made up.

Some endpoints take ``logprobs`` and answer with placeholders: all zero, all equal, or probabilities that sum to more than one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MOST_SUM = 1.02
"""The probabilities of the tokens in one place sum to no more than this, rounding allowed."""

LEAST_SPREAD = 1e-6
"""Log-probabilities that differ by less than this are the same."""

_VALUE = re.compile(r'"label"\s*:\s*"')
_CLOSES = "\"'`,.}\n"
_FIRST = re.compile(r'[^\s"\'`{]')


class Token(NamedTuple):
    """One token of an answer.

    Attributes
    ----------
    logprob : float
        Natural logarithm of the token's probability, as the endpoint gave it.
    others : tuple of (str, float)
        The likeliest tokens in its place with theirs, itself perhaps among them.
    """

    token: str
    logprob: float
    others: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Sureness:
    """What the log-probabilities say.

    Attributes
    ----------
    confidence : float
        Probability of the label among all labels, in [0, 1]; not calibrated.
    missing_mass : float
        Probability, in [0, 1], that the model gave to answers that are no label, or that the endpoint does not show.
    """

    confidence: float
    missing_mass: float


def tokens_of(said: Sequence[Mapping[str, Any]]) -> list[Token]:
    """Return the tokens that an endpoint described; none at all if one of them cannot be read."""
    tokens = [_token(entry) for entry in said]
    return [token for token in tokens if token is not None] if None not in tokens else []


def from_logprobs(tokens: Sequence[Token], answers: Mapping[str, str], label: str) -> Sureness | None:
    """Return how sure the model was of `label`.

    Token by token along the answer: what share of the probability on tokens that begin or go on with any label lies on those
    that begin or go on with `label`. With option codes that is one token, and exact; of labels that take several tokens the
    product is exact as far as the endpoint shows the alternatives.

    Parameters
    ----------
    tokens : sequence of Token
        The whole answer.
    answers : mapping of str to str
        What the model may write (labels or option codes) -> the label that it means.
    label : str
        The label that it was read as.

    Returns
    -------
    Sureness or None
        None without log-probabilities, with fake ones, or where the answer cannot be found in the tokens.
    """
    if not tokens or is_fake(tokens):
        return None
    text = "".join(token.token for token in tokens)
    start = _start(text)
    mine = {_written(answer) for answer, meant in answers.items() if meant == label}
    every = {_written(answer) for answer in answers}
    if start is None or not mine:
        return None
    confidence, missing, offset, found = 1.0, 0.0, 0, False
    for token in tokens:
        begin, offset = offset, offset + len(token.token)
        if offset <= start:
            continue
        written = text[start : max(start, begin)].casefold()
        if found and {answer for answer in every if _goes_on(answer, written)} <= mine:
            break
        head = text[begin:start] if begin < start else ""
        own, total = _masses(token, head, written, mine, every)
        if own <= 0.0 or not any(_goes_on(answer, text[start:offset].casefold()) for answer in mine):
            return None
        # Without its alternatives a token's probability is all that is known of the label.
        alone = not any(other != token.token for other, _ in token.others)
        confidence *= own if alone else own / total
        missing = max(missing, 1.0 - min(1.0, total))
        found = True
    return Sureness(min(1.0, confidence), max(0.0, missing)) if found else None


def is_fake(tokens: Sequence[Token]) -> bool:
    """Say whether log-probabilities cannot be true: not finite, positive, all zero, all equal, or summing to more than one."""
    chosen = [token.logprob for token in tokens]
    values = [*chosen, *(value for token in tokens for _, value in token.others)]
    if any(math.isnan(value) or value > LEAST_SPREAD for value in values):
        return True
    if max(values) - min(values) < LEAST_SPREAD and (len(values) > 1 or values[0] > -LEAST_SPREAD):
        return True
    if len(chosen) > 1 and max(chosen) - min(chosen) < LEAST_SPREAD and chosen[0] < -LEAST_SPREAD:
        return True
    return any(sum(math.exp(value) for value in _places(token).values()) > MOST_SUM for token in tokens)


def _token(entry: Mapping[str, Any]) -> Token | None:
    chance = _chance(entry)
    if chance is None:
        return None
    token, logprob = chance
    listed = entry.get("top_logprobs")
    others = map(_chance, listed) if isinstance(listed, list) else ()
    return Token(token, logprob, tuple(other for other in others if other is not None))


def _chance(entry: object) -> tuple[str, float] | None:
    """Return a token and its log-probability; None if they cannot be read."""
    if not isinstance(entry, dict):
        return None
    token, logprob = entry.get("token"), entry.get("logprob")
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    try:
        return token, float(logprob)
    except OverflowError:  # JSON has integers of any length
        return None


def _places(token: Token) -> dict[str, float]:
    """Return the log-probability of every token in this place, its own included."""
    return {**dict(token.others), token.token: token.logprob}


def _masses(token: Token, head: str, written: str, mine: set[str], every: set[str]) -> tuple[float, float]:
    """Return the probability in this place that goes on with one of `mine`, and with any answer."""
    own = total = 0.0
    for other, logprob in _places(token).items():
        if not other.startswith(head):
            continue
        begun = written + other[len(head) :].casefold()
        chance = math.exp(logprob)
        if any(_goes_on(answer, begun) for answer in every):
            total += chance
            own += chance if any(_goes_on(answer, begun) for answer in mine) else 0.0
    return own, total


def _goes_on(answer: str, begun: str) -> bool:
    """Say whether what was written so far can become `answer`, or already is it with what closes it."""
    return answer.startswith(begun) or (begun.startswith(answer) and begun[len(answer)] in _CLOSES)


def _start(text: str) -> int | None:
    """Return where the label begins: behind ``"label": "``, else at the first letter."""
    values = list(_VALUE.finditer(text))
    if values:
        return values[-1].end()
    first = _FIRST.search(text)
    return first.start() if first and "{" not in text else None


def _written(answer: str) -> str:
    """Return how an answer stands in JSON, in small letters."""
    return json.dumps(answer, ensure_ascii=False)[1:-1].casefold()
