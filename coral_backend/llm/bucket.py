"""When may the next request start? One answer for all workers that use the same endpoint, key and model.

Requests and tokens are each spaced evenly (the generic cell rate algorithm, ITU-T I.371 A): every request gets the time at
which it may start, and moves that of the next. So no minute, wherever one begins to count it, sees more than the limit, and
nothing waits in the first half of a minute for what was spent in a burst. The state lives in Redis under Redis's own clock,
so that workers' clocks do not matter; without a Redis it lives in this process.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

FILL = 0.985
"""So much of the limit is used: between a start and its arrival at the endpoint lies time, of which no two are the same."""

LAG_S = 0.2
"""Starts that nobody was ready for can be made up for, so far back: a worker was busy for a moment."""

AHEAD_S = 0.5
"""Starts are given out so far ahead: what is given out cannot be taken back when the endpoint says to wait."""

KEPT_S = 900
"""Redis forgets a bucket that nobody used for so long."""

ANSWER_S = 2.0
AWAY_S = 10.0
"""A Redis that did not answer is asked again after so long; until then nobody waits for it."""


@dataclass(frozen=True)
class Rates:
    """What an endpoint allows in a minute; None is no limit."""

    requests: float | None = None
    tokens: float | None = None

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.requests is not None or self.tokens is not None

    def seconds_each(self) -> tuple[float, float]:
        """Return the seconds that a request and a token take up; 0 where there is no limit."""
        return _seconds(self.requests), _seconds(self.tokens)


def _seconds(rate: float | None) -> float:
    return 60.0 / (FILL * rate) if rate else 0.0


@dataclass(frozen=True)
class Starts:
    """The answer to ``take``.

    Attributes
    ----------
    waits : list of float
        Seconds until each of the first requests may start.
    again_s : float
        When there are fewer than were asked for: seconds after which to ask for the rest.
    """

    waits: list[float]
    again_s: float = 0.0


class Bucket(Protocol):
    """Gives out starts."""

    async def take(self, costs: Sequence[int], used_more: int) -> Starts:
        """Reserve a start for each of `costs` (tokens of a request), as far as they lie within ``AHEAD_S``.

        `used_more` tokens were used beyond what was reserved earlier; negative when it was less.
        """
        ...

    async def close_for(self, seconds: float) -> None:
        """Let nobody start for at least `seconds`: the endpoint asked for it."""
        ...

    async def close(self) -> None:
        """Give the connection back."""
        ...


class LocalBucket:
    """A bucket of this process.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        self._request_s, self._token_s = rates.seconds_each()
        self._clock = clock
        self._request_at = self._token_at = self._open_at = -math.inf

    async def take(self, costs: Sequence[int], used_more: int) -> Starts:
        """See ``Bucket``."""
        now = self._clock()
        self._token_at += used_more * self._token_s
        waits: list[float] = []
        for cost in costs:
            at = max(self._request_at, self._token_at, self._open_at, now - LAG_S)
            if at > now + AHEAD_S:
                return Starts(waits, at - now - AHEAD_S)
            waits.append(max(0.0, at - now))
            self._request_at = at + self._request_s
            self._token_at = max(self._token_at, max(at, now) - LAG_S) + cost * self._token_s
        return Starts(waits)

    async def close_for(self, seconds: float) -> None:
        """See ``Bucket``."""
        self._open_at = max(self._open_at, self._clock() + seconds)

    async def close(self) -> None:
        """Nothing is open."""


_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local h = redis.call('HMGET', KEYS[1], 'request', 'token', 'open')
local request, token, open = tonumber(h[1]) or 0, tonumber(h[2]) or 0, tonumber(h[3]) or 0
local request_us, token_us = tonumber(ARGV[1]), tonumber(ARGV[2])
local lag, ahead, kept = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
token = token + tonumber(ARGV[6]) * token_us
local answer = {0}
for i = 7, #ARGV do
  local at = math.max(request, token, open, now - lag)
  if at > now + ahead then
    answer[1] = math.ceil(at - now - ahead)
    break
  end
  answer[#answer + 1] = math.ceil(math.max(0, at - now))
  request = at + request_us
  token = math.max(token, math.max(at, now) - lag) + ARGV[i] * token_us
end
redis.call('HSET', KEYS[1], 'request', string.format('%.0f', request), 'token', string.format('%.0f', token))
redis.call('PEXPIRE', KEYS[1], math.ceil(math.max(kept, (math.max(request, token, open) - now) / 1000 + kept)))
return answer
"""

_CLOSE = """
local t = redis.call('TIME')
local open = t[1] * 1000000 + t[2] + tonumber(ARGV[1])
if open > (tonumber(redis.call('HGET', KEYS[1], 'open')) or 0) then
  redis.call('HSET', KEYS[1], 'open', string.format('%.0f', open))
end
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1]) / 1000 + tonumber(ARGV[2])))
"""


class RedisBucket:
    """A bucket that all workers share. While Redis does not answer, each keeps to the limit by itself.

    Parameters
    ----------
    url : str
        Of Redis.
    name : str
        The bucket's, see ``bucket_name``.
    local : LocalBucket
        Takes over while Redis is away.
    """

    def __init__(self, url: str, name: str, rates: Rates, local: LocalBucket) -> None:
        # One attempt: while it is repeated no request starts, and the local bucket can answer.
        once = Retry(NoBackoff(), 0)
        self._redis = redis.asyncio.Redis.from_url(
            url, socket_connect_timeout=ANSWER_S, socket_timeout=ANSWER_S, retry=once
        )
        self._take, self._close = self._redis.register_script(_TAKE), self._redis.register_script(_CLOSE)
        self._name, self._local = name, local
        micro = [round(seconds * 1e6, 3) for seconds in rates.seconds_each()]
        self._fixed = [*micro, int(LAG_S * 1e6), int(AHEAD_S * 1e6), KEPT_S * 1000]
        self._level = logging.WARNING if rates.limited else logging.DEBUG
        self._away_until = -math.inf

    async def take(self, costs: Sequence[int], used_more: int) -> Starts:
        """See ``Bucket``."""
        if time.monotonic() >= self._away_until:
            try:
                again, *waits = await self._take(keys=[self._name], args=[*self._fixed, used_more, *costs])
                return Starts([wait / 1e6 for wait in waits], again / 1e6)
            except (RedisError, OSError) as error:
                self._away(error)
        return await self._local.take(costs, used_more)

    async def close_for(self, seconds: float) -> None:
        """See ``Bucket``."""
        await self._local.close_for(seconds)
        try:
            await self._close(keys=[self._name], args=[math.ceil(seconds * 1e6), KEPT_S * 1000])
        except (RedisError, OSError) as error:
            self._away(error)

    async def close(self) -> None:
        """See ``Bucket``."""
        await self._redis.aclose()

    def _away(self, error: Exception) -> None:
        self._away_until = time.monotonic() + AWAY_S
        logger.log(
            self._level, "The rate limit is not shared with other workers now: Redis (%s).", type(error).__name__
        )


def bucket_name(base_url: str, key: str, model: str) -> str:
    """Return the name of the bucket of an endpoint, key and model; nobody can read the key out of it."""
    digest = hashlib.sha256(f"{base_url}\x00{key}\x00{model}".encode()).hexdigest()
    return f"coral:llm:{digest[:40]}"


_local: dict[tuple[str, Rates], LocalBucket] = {}


def local_bucket(name: str, rates: Rates) -> LocalBucket:
    """Return this process's bucket of that name; annotators that ask the same endpoint share it."""
    return _local.setdefault((name, rates), LocalBucket(rates))
