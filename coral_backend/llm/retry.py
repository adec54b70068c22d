"""What does a failed request mean: try again, change the request, give this item up, or stop the round?"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum

from coral_backend.llm.parse import plain

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 20.0
LONGEST_PAUSE_S = 300.0
"""A longer Retry-After is not slept through: the round pauses, and people see why."""

SHORTEST_SECRET = 6
"""A shorter key is a placeholder such as ``none``; to blank it out would spoil other words."""

_QUOTA = (
    "insufficient_quota",
    "billing_hard_limit",
    "billing_not_active",
    "insufficient balance",
    "exceeded your current quota",
)
_TEXT_ONLY = (
    "context_length",
    "context length",
    "context size",
    "too long",
    "content_filter",
    "content_policy",
    "content management",
)
_KEYLIKE = re.compile(r"\bsk-[\w.*~-]{6,}|\bbearer\s+\S{6,}", re.IGNORECASE)


class Verdict(Enum):
    """What to do after a status that is not 200."""

    RETRY = "retry"
    REQUEST = "request"
    """This request is not accepted: another shape of it may be, another text may be."""
    STOP = "stop"


def is_about_the_text(status: int, body: str) -> bool:
    """Say whether a request that was not accepted says something about its text only: too long, or filtered."""
    return status == 413 or any(word in body.lower() for word in _TEXT_ONLY)


def judge(status: int, body: str) -> Verdict:
    """Say what a refusal with this HTTP `status` and `body` calls for."""
    if status in {402, 429} and any(word in body.lower() for word in _QUOTA):
        return Verdict.STOP
    if status in {408, 409, 425, 429} or status >= 500:
        return Verdict.RETRY
    if status in {400, 413, 422}:
        return Verdict.REQUEST
    return Verdict.STOP


def advice(status: int, model: str) -> str:
    """Return what a person can do about a refusal that stops the round."""
    if status in {401, 403}:
        return "Check OPENAI_API_KEY."
    if status == 404:
        return f"Check OPENAI_BASE_URL (it usually ends in /v1) and CORAL_LLM_MODEL ({model!r})."
    if status in {402, 429}:
        return "The account has no quota left: raise it, then resume the round."
    if 300 <= status < 400:
        return "It redirects, which CORAL does not follow with texts and key: set OPENAI_BASE_URL to where it points."
    return "Check OPENAI_BASE_URL."


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a reply asks to wait, from ``Retry-After-Ms`` or ``Retry-After`` (seconds or an HTTP date).

    None when it does not ask, or asks for what is no time. `now` is the Unix time.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            seconds = _until(value, now)
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def scrub(text: str, key: str) -> str:
    """Return one short line of `text` without the API key or what looks like one: endpoints like to quote it."""
    line = plain(text)
    if len(key) >= SHORTEST_SECRET:
        line = line.replace(key, "[key]")
    return _KEYLIKE.sub("[key]", line)[:300]


@dataclass
class Pace:
    """Time and chance, as an argument.

    Attributes
    ----------
    clock : callable
        Monotonic seconds.
    wall : callable
        Unix time, for dates in Retry-After.
    """

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)

    def backoff(self, attempt: int) -> float:
        """Return the wait before attempt 1, 2, ...: full jitter, so that many slots do not come back at once."""
        return self.rng.uniform(0.0, min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempt, 16)))


@dataclass
class Budget:
    """The time that one item has, and what became of its attempts.

    Attributes
    ----------
    left : float
        Seconds left for requests and for our own waits between them.
    connects_failed : int
        Attempts that found nobody, since the last that reached somebody.
    reached : bool
        Whether any attempt reached the endpoint.
    """

    left: float
    connects_failed: int = 0
    reached: bool = False

    def spend(self, seconds: float) -> None:
        """Take `seconds` off."""
        self.left -= seconds

    def was_reached(self) -> None:
        """Note that somebody was there."""
        self.reached, self.connects_failed = True, 0

    @property
    def unreachable(self) -> bool:
        """Whether no attempt reached the endpoint."""
        return not self.reached and self.connects_failed > 0


def _until(date: str, now: float) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return math.nan
