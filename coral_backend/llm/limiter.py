"""Who may send now? Slots ask for a start; how many are in flight at once follows what the endpoint bears.

Starts come from a ``Bucket`` that all workers share. The number in flight is halved when the endpoint refuses for being asked
too much, and grows by one for each window of replies without a refusal (additive increase, multiplicative decrease).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from coral_backend.llm.bucket import Bucket
from coral_backend.llm.retry import Pace

LOOK_S = 0.5
"""Without a limit of our own, the shared bucket is asked so often whether the endpoint told somebody to wait."""

BREATH_S = 0.05
"""The bucket is not asked more often: the starts of half a second are known."""

FIRST_CHARS_PER_TOKEN = 3.0
SMOOTHING = 0.05
"""Weight of the newest reply in the estimate of tokens."""


class Limiter:
    """The starts of one run; make it with ``running``.

    Parameters
    ----------
    limited : bool
        Whether the bucket has a limit; without one it is only asked now and then, whether it is closed.
    """

    def __init__(self, bucket: Bucket, pace: Pace, *, limited: bool) -> None:
        self._bucket, self._pace, self._limited = bucket, pace, limited
        self._waiting: deque[tuple[int, asyncio.Future[float]]] = deque()
        self._asked = asyncio.Event()
        self._look_at = self._closed_until = -float("inf")
        self._used_more = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Limiter]:
        """Hand out starts while the context lasts."""
        pump = asyncio.ensure_future(self._pump())
        try:
            yield self
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await self._bucket.close()

    async def start(self, tokens: int) -> None:
        """Return when a request of about so many `tokens` may be sent."""
        while True:
            if self._limited or self._pace.clock() >= self._look_at:
                wait = await self._reserved(tokens)
                if wait > 0:
                    await self._pace.sleep(wait)
            closed = self._closed_until - self._pace.clock()
            if closed <= 0:
                return
            await self._pace.sleep(closed)

    def settle(self, reserved: int, used: int) -> None:
        """Correct what was reserved by what the endpoint counted; told to the bucket with the next request for starts."""
        self._used_more += used - reserved

    async def close_for(self, seconds: float) -> None:
        """Hold back everybody who shares the bucket: the endpoint asked to wait."""
        if seconds > 0:
            self._closed_until = max(self._closed_until, self._pace.clock() + seconds)
            await self._bucket.close_for(seconds)

    async def _reserved(self, tokens: int) -> float:
        self._look_at = self._pace.clock() + LOOK_S
        place: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, place))
        self._asked.set()
        return await place

    async def _pump(self) -> None:
        """Ask the bucket for all who wait, in one request."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self._waiting:
                try:
                    await self._hand_out()
                except Exception as error:  # noqa: BLE001 - whoever waits would wait forever
                    self._give_up(error)

    async def _hand_out(self) -> None:
        while self._waiting and self._waiting[0][1].done():  # cancelled meanwhile
            self._waiting.popleft()
        asking = [cost for cost, place in self._waiting if not place.done()]
        used_more, self._used_more = self._used_more, 0
        if not asking:
            return
        starts = await self._bucket.take(asking, used_more)
        for wait in starts.waits:
            self._next_place(wait)
        if len(starts.waits) < len(asking):
            if not self._limited:  # closed, which holds for those too who did not ask
                self._closed_until = max(self._closed_until, self._pace.clock() + starts.again_s)
            await self._pace.sleep(max(starts.again_s, BREATH_S))

    def _give_up(self, error: Exception) -> None:
        while self._waiting:
            _, place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    def _next_place(self, wait: float) -> None:
        while self._waiting:
            _, place = self._waiting.popleft()
            if not place.done():
                place.set_result(wait)
                return


class Window:
    """How many requests are in flight, and how many may be; ``async with window`` waits for room.

    Attributes
    ----------
    size : float
        Between 1 and `most`; whole requests count.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.most, self.size = most, float(most)
        self._clock = clock
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._halved_at = -float("inf")

    async def __aenter__(self) -> None:
        while self._in_flight >= int(self.size):
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            await place
        self._in_flight += 1

    async def __aexit__(self, *_: object) -> None:
        self._in_flight -= 1
        self._wake()

    def refused(self, sent_at: float) -> None:
        """Halve the window, once for all requests that were on their way together."""
        if sent_at >= self._halved_at:
            self.size = max(1.0, self.size / 2)
            self._halved_at = self._clock()

    def went_well(self) -> None:
        """Grow, by one for each window of replies."""
        if self.size < self.most:
            self.size = min(float(self.most), self.size + 1 / self.size)
            self._wake()

    def _wake(self) -> None:
        room = int(self.size) - self._in_flight
        while room > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                room -= 1


class Estimate:
    """How many tokens will a request take? As many for its length as those before it, once there are some."""

    def __init__(self, max_tokens: int) -> None:
        self._per_char = 1 / FIRST_CHARS_PER_TOKEN
        self._answer = float(max_tokens)
        self._seen = False

    def tokens(self, chars: int) -> int:
        """Return the estimate for a request of `chars` characters, its answer included."""
        return max(1, round(chars * self._per_char + self._answer))

    def learn(self, chars: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Take the endpoint's own count of a request into account; one without a count teaches nothing."""
        if prompt_tokens <= 0 or chars <= 0:
            return
        weight = SMOOTHING if self._seen else 1.0
        self._seen = True
        self._per_char += weight * (prompt_tokens / chars - self._per_char)
        self._answer += weight * (completion_tokens - self._answer)
