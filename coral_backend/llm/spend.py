"""May this request be paid for, and what did it cost? A hard cap that counts the requests in flight.

Before each request the most that it can cost is reserved: a token of each byte it sends, and the longest answer it allows. Its
reply settles the reservation with the endpoint's own ``usage``. Where the next reservation would pass the cap, the slot waits for
those in flight; when none is left and it still does not fit, the round pauses.

A round has one worker (its lease), so a reservation in this process together with what the store has of the round is enough; no
other process spends on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from coral_backend.exceptions import BudgetError
from coral_backend.llm.prices import Price, PriceTable, host_of
from coral_backend.llm.tokens import Messages, at_most
from coral_backend.types import Spend

__all__ = ["Meter", "Payment", "Till", "Usage", "characters_of", "total", "usage_of"]

HAIR = 1e-9
"""USD; sums of floats differ by less."""


@dataclass(frozen=True)
class Usage:
    """What the endpoint says that a request took, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


def usage_of(reply: object) -> Usage | None:
    """Return the usage in a parsed completion; None when it has none that can be read."""
    usage = reply.get("usage") if isinstance(reply, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or completion is None or not prompt + completion:
        return None
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    return Usage(prompt, completion, min(cached or 0, prompt))


class Meter:
    """What a round has spent, what is in flight, and the cap on both.

    Parameters
    ----------
    prices : PriceTable
        Where prices are looked up.
    budget : float or None
        The cap in USD; None for none.
    spent : float
        What the round has spent before, in USD, reservations of open batches included.
    record : callable, optional
        Keeps what was spent, beside the answer that it brought.
    resume : str
        How a person goes on when the budget is spent.
    """

    def __init__(
        self,
        prices: PriceTable,
        budget: float | None = None,
        spent: float = 0.0,
        *,
        record: Callable[[list[Spend]], None] = lambda _: None,
        resume: str = "",
    ) -> None:
        self.record = record
        self.prices, self.budget = prices, budget
        self._spent, self._resume = spent, resume
        self._reserved = 0.0
        self._in_flight = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._untold: dict[tuple[str, bool], Spend] = {}

    @classmethod
    def free(cls) -> Meter:
        """Return one without a cap."""
        return cls(PriceTable("", ()))

    @property
    def spent(self) -> float:
        """USD, without what is in flight."""
        return self._spent

    @property
    def left(self) -> float | None:
        """USD that can still be reserved; None without a cap."""
        return None if self.budget is None else self.budget - self._spent - self._reserved

    def till(self, annotator: str, base_url: str, model: str) -> Till:
        """Return the till of one model at one endpoint.

        Raises
        ------
        BudgetError
            If there is a cap and the price of the model is not known.
        """
        price = self.prices.find(base_url, model)
        if self.budget is not None and price is None:
            raise BudgetError(
                f"The budget is ${self.budget:g} and the price of {model!r} at {host_of(base_url)[0]} is not known, so the "
                f"budget cannot be kept. {self.prices.advice(base_url, model)} Or go on without a budget."
            )
        return Till(self, annotator, price)

    @contextmanager
    def telling(self) -> Iterator[list[Spend]]:
        """Give what was spent since the last time, for the store; kept for the next time if the store does not take it."""
        told, self._untold = self._untold, {}
        try:
            yield list(told.values())
        except BaseException:
            for spent in told.values():
                self._keep(spent)
            raise

    def tell(self) -> None:
        """Have what was spent since the last time recorded."""
        with self.telling() as spent:
            if spent:
                self.record(spent)

    def note(self, spent: Spend) -> None:
        """Count what was spent."""
        self._spent += spent.cost
        self._keep(spent)

    def _keep(self, spent: Spend) -> None:
        key = (spent.annotator, spent.batch)
        self._untold[key] = self._untold[key].plus(spent) if key in self._untold else spent

    async def reserve(self, most: float) -> None:
        """Set `most` USD aside as soon as it fits under the cap.

        Raises
        ------
        BudgetError
            When it does not fit although nothing is in flight.
        """
        while not self.fits(most):
            if not self._in_flight:
                raise self.exhausted(most)
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        self._reserved += most
        self._in_flight += 1

    def release(self, most: float) -> None:
        """Give a reservation back."""
        self._reserved = max(0.0, self._reserved - most)
        self._in_flight -= 1
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def set_aside(self, most: float) -> None:
        """Count as spent what a batch that was handed in may cost."""
        self._spent += most

    def fits(self, most: float) -> bool:
        """Say whether `most` USD more could be spent."""
        return self.left is None or most <= self.left + HAIR

    def exhausted(self, most: float) -> BudgetError:
        """Return the error that pauses a round."""
        next_one = f"the next request may cost up to ${most:.4f}"
        found = f"${self._spent:.4f} of the budget of ${self.budget:g} are spent, and {next_one}, which could pass it."
        return BudgetError(f"{found} What is done is kept. {self._resume}".strip())


class Payment:
    """One request on its way; ``settle`` it with the reply, or say that it was refused."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.refused = False

    def settle(self, status: int, reply: object) -> None:
        """Read what the request took from its parsed reply; one that was refused took nothing."""
        self.refused = status != 200
        self.usage = usage_of(reply)


@dataclass(frozen=True)
class Till:
    """Where the requests to one model are paid.

    Attributes
    ----------
    price : Price or None
        None when it is not known: tokens are counted, the cost is not.
    """

    meter: Meter
    annotator: str
    price: Price | None

    @asynccontextmanager
    async def paying(
        self, messages: Messages, parameters: Mapping[str, Any], never_sent: Callable[[BaseException], bool]
    ) -> AsyncIterator[Payment]:
        """Reserve the most that a request can cost, and count what it did cost.

        A request that was refused, or that never reached the endpoint, costs nothing. One that was cut or given up is counted
        with the most: the endpoint may have answered it.

        Raises
        ------
        BudgetError
            See ``Meter.reserve``.
        """
        tokens = at_most(messages, parameters), _longest(parameters)
        most = self.price.cost(*tokens) if self.price is not None else 0.0
        await self.meter.reserve(most)
        payment = Payment()
        try:
            yield payment
        except BaseException as error:
            payment.refused = payment.refused or never_sent(error)
            raise
        finally:
            self.meter.release(most)
            if not payment.refused:
                self.meter.note(self.spend(payment.usage, characters_of(messages), unsettled=Usage(*tokens)))

    def spend(
        self, usage: Usage | None, characters: int, *, unsettled: Usage | None = None, batch: bool = False
    ) -> Spend:
        """Return what one request with so many characters took; `unsettled` counts for its cost where it has no usage."""
        counted = usage or unsettled or Usage(0, 0)
        cost = 0.0
        if self.price is not None:
            cost = self.price.cost(
                counted.prompt_tokens, counted.completion_tokens, cached=counted.cached_tokens, batch=batch
            )
        return Spend(
            self.annotator,
            batch,
            requests=1,
            unsettled=int(usage is None),
            characters=characters if usage is not None and usage.prompt_tokens else 0,
            prompt_tokens=usage.prompt_tokens if usage is not None else 0,
            cached_tokens=usage.cached_tokens if usage is not None else 0,
            completion_tokens=usage.completion_tokens if usage is not None else 0,
            cost=cost,
            unpriced=int(self.price is None),
        )


def characters_of(messages: Messages) -> int:
    """Return the characters of a request's messages."""
    return sum(len(message["content"]) for message in messages)


def _longest(parameters: Mapping[str, Any]) -> int:
    """Return the longest answer that a request allows, in tokens."""
    return int(parameters.get("max_tokens") or parameters.get("max_completion_tokens") or 0)


def _count(value: object) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if good else None  # type: ignore[return-value] # mypy does not follow `good`


def total(spent: Sequence[Spend]) -> Spend:
    """Return the sum of all; nobody's name where several were asked."""
    names = {one.annotator for one in spent}
    summed = Spend(names.pop() if len(names) == 1 else "", batch=bool(spent) and all(one.batch for one in spent))
    for one in spent:
        summed = summed.plus(one)
    return summed
