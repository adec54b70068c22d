"""How is one request answered, whatever the endpoint does? With a completion, a failed item, or the end of the work."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlsplit

from coral_backend.exceptions import EndpointError, SettingsError
from coral_backend.llm.base import Question
from coral_backend.llm.limiter import Estimate, Limiter, Window
from coral_backend.llm.parse import Completion, ReplyError, json_of, read_reply
from coral_backend.llm.retry import (
    LONGEST_PAUSE_S,
    SHORTEST_SECRET,
    Budget,
    Pace,
    Verdict,
    advice,
    is_about_the_text,
    judge,
    retry_after,
    scrub,
)
from coral_backend.llm.shape import Known, Shape
from coral_backend.llm.spend import Till
from coral_backend.llm.transport import BrokenError, Response, Transport

Messages: TypeAlias = list[dict[str, str]]
Remember: TypeAlias = Callable[[Shape], None]

FIRST_CONNECTS = 4
"""An endpoint that never answered in this run is unreachable after so many attempts for one item."""

MALFORMED_TRIES = 2
"""So often a reply that is no completion (and was perhaps paid for) is asked for."""

REFUSALS_PER_SLOT = 16
"""After so many refusals (429, 5xx) per slot without one reply in between, about two minutes, the work ends."""


@dataclass(frozen=True)
class Endpoint:
    """Where the model is and how it is asked.

    Attributes
    ----------
    concurrency : int
        Most requests in flight at once.
    timeout_s : float
        Deadline of one item in seconds, retries included; waits that the endpoint asked for are not counted.
    max_tokens : int
        Longest answer, in tokens.

    Raises
    ------
    SettingsError
        If the address or the key cannot be right.
    """

    base_url: str
    key: str = field(repr=False)
    model: str
    concurrency: int = 8
    timeout_s: float = 60.0
    max_tokens: int = 64

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise SettingsError(
                "OPENAI_BASE_URL is no http(s) address; write one like http://127.0.0.1:8000/v1."
            ) from None
        if parts.username or parts.password or parts.query or parts.fragment:
            raise SettingsError(
                "OPENAI_BASE_URL holds a user, a password or a query; the key belongs in OPENAI_API_KEY."
            )
        if not self.key or not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise SettingsError("OPENAI_API_KEY holds a blank, a line break or a sign outside ASCII; copy it again.")

    @property
    def has_secret(self) -> bool:
        """Whether the key is more than a placeholder."""
        return len(self.key) >= SHORTEST_SECRET


class ItemFailedError(Exception):
    """The endpoint gave no completion for this item; the text is the reason, safe to show.

    Attributes
    ----------
    unreachable : bool
        No attempt found the endpoint during the item's whole time.
    about_the_text : bool
        The endpoint is well and does not take this text.
    """

    def __init__(self, reason: str, *, unreachable: bool = False, about_the_text: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        self.about_the_text = about_the_text


@dataclass(frozen=True)
class Paid:
    """One completion and what it was read from.

    Attributes
    ----------
    body : str
        The reply as it came, without the key.
    """

    completion: Completion
    body: str
    seconds: float


class Client:
    """The endpoint during one run, shared by all slots; make it with ``connected``.

    Attributes
    ----------
    replies : int
        Completions received.
    requests : int
        Requests sent.
    """

    def __init__(
        self,
        transport: Transport,
        endpoint: Endpoint,
        *,
        pace: Pace,
        limiter: Limiter,
        known: Known,
        remember: Remember,
        till: Till,
    ) -> None:
        self.endpoint = endpoint
        self.replies = self.requests = 0
        self._transport, self._pace, self._limiter = transport, pace, limiter
        self._known, self._remember, self._till = known, remember, till
        self._window = Window(endpoint.concurrency, pace.clock)
        self._estimate = Estimate(endpoint.max_tokens)
        self._refused_in_a_row = 0

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, endpoint: Endpoint, *, pace: Pace, limiter: Limiter, known: Known, remember: Remember, till: Till
    ) -> AsyncIterator[Client]:
        """Open the connections of a run; they are closed with the context. Requests are paid at `till`."""
        async with (
            Transport.connected(endpoint.base_url, endpoint.key, endpoint.concurrency) as transport,
            limiter.running(),
        ):
            yield cls(transport, endpoint, pace=pace, limiter=limiter, known=known, remember=remember, till=till)

    async def complete(self, question: Question, messages: Messages, budget: Budget) -> Paid:
        """Send one request until a completion comes, or the item's time is up.

        Raises
        ------
        ItemFailedError
            When there is no completion for this item.
        EndpointError
            When there will be none for any.
        """
        reason, malformed = "no answer", 0
        for attempt in itertools.count():
            asked, limited = 0.0, False
            try:
                async with self._window:
                    return await self._send(question, messages, budget, reason)
            except ReplyError as error:
                reason, malformed = self.safe(str(error)), malformed + 1
                if malformed >= MALFORMED_TRIES:
                    raise ItemFailedError(reason) from None
            except _RefusedError as refusal:
                limited = refusal.response.status == 429
                reason, asked = await self._refusal(refusal)
            except BrokenError as error:
                reason = self._disconnection(error, budget)
            wait = max(asked, self._pace.backoff(attempt))
            budget.spend(0.0 if limited else wait - asked)
            await self._pace.sleep(wait)
        raise AssertionError("the loop ends by return or raise")

    async def _send(self, question: Question, messages: Messages, budget: Budget, reason: str) -> Paid:
        """Send one request; again in another shape while the endpoint does not accept the shape."""
        chars = sum(len(message["content"]) for message in messages)
        while True:
            reserved = self._estimate.tokens(chars)
            await self._limiter.start(reserved)
            if budget.left <= 0:
                raise ItemFailedError(
                    f"{reason}; gave up after {self.endpoint.timeout_s:g} s", unreachable=budget.unreachable
                )
            shape = self._known.shape
            sent_at = self._pace.clock()
            parameters = shape.parameters(question, self.endpoint.max_tokens)
            body = json.dumps({"model": self.endpoint.model, "messages": messages, **parameters}).encode()
            async with self._till.paying(messages, parameters, _never_sent) as payment:
                response = await self._post(body, budget)
                data = json_of(response.body)
                payment.settle(response.status, data)
            if response.status == 200:
                break
            if judge(response.status, response.text) is not Verdict.REQUEST:
                raise _RefusedError(response, sent_at)
            self._reshape(response, shape, question)
        completion = read_reply(response.body, data)
        self._window.went_well()
        self._refused_in_a_row = 0
        self.replies += 1
        self._estimate.learn(chars, completion.prompt_tokens, completion.completion_tokens)
        if used := completion.prompt_tokens + completion.completion_tokens:
            self._limiter.settle(reserved, used)
        if self._known.accepted(shape, question):
            self._remember(shape)
        return Paid(completion, self.unsecret(response.text), self._pace.clock() - sent_at)

    async def _post(self, body: bytes, budget: Budget) -> Response:
        """Return the response to one request, within the item's deadline."""
        started = self._pace.clock()
        self.requests += 1
        try:
            # The deadline is for the whole: a reply that drips would outlive one for each read.
            async with asyncio.timeout(max(0.0, budget.left)):
                response = await self._transport.post(body)
        except TimeoutError:
            raise ItemFailedError(f"no answer in {self.endpoint.timeout_s:g} s") from None
        finally:
            budget.spend(self._pace.clock() - started)
        budget.was_reached()
        return response

    def _reshape(self, response: Response, sent: Shape, question: Question) -> None:
        """Change the shape after a request was not accepted; raise when it is not the shape that is wrong."""
        if is_about_the_text(response.status, response.text):
            raise ItemFailedError(self._complaint(response), about_the_text=True)
        confirmed = self._known.confirmed
        if not self._known.refused(sent, response.text, question):
            raise ItemFailedError(self._complaint(response), about_the_text=confirmed)

    async def _refusal(self, refusal: _RefusedError) -> tuple[str, float]:
        """Return the reason for a refusal that may pass and the seconds it asks to wait; raise for one that will not."""
        response = refusal.response
        complaint = self._complaint(response)
        if judge(response.status, response.text) is Verdict.STOP:
            raise EndpointError(f"{complaint}. {advice(response.status, self.endpoint.model)}") from None
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSALS_PER_SLOT * self.endpoint.concurrency:
            raise EndpointError(
                f"{complaint}; {self._refused_in_a_row} requests in a row were refused. Resume the round when it takes some."
            ) from None
        if response.status == 429:
            self._window.refused(refusal.sent_at)
        seconds = retry_after(response.headers, self._pace.wall()) or 0.0
        if seconds > LONGEST_PAUSE_S:
            raise EndpointError(f"{complaint}; it asks to wait {seconds:.0f} s. Resume the round after that.") from None
        await self._limiter.close_for(seconds)
        return complaint, seconds

    def _disconnection(self, error: BrokenError, budget: Budget) -> str:
        """Return the reason for a connection that broke or never was; raise when the endpoint was never there."""
        detail = self.safe(str(error))
        if error.found:
            budget.was_reached()
            return f"the connection broke ({detail})"
        budget.connects_failed += 1
        if not self.replies and budget.unreachable and budget.connects_failed >= FIRST_CONNECTS:
            raise self.unreachable(detail) from None
        return f"no connection ({detail})"

    def unreachable(self, detail: str) -> EndpointError:
        """Return the error for an endpoint that is not there."""
        return EndpointError(
            f"The LLM endpoint {self.endpoint.base_url} cannot be reached ({detail}). Start it or correct OPENAI_BASE_URL, "
            "then resume the round."
        )

    def safe(self, text: str) -> str:
        """Return `text` as one short line without the key."""
        return scrub(text, self.endpoint.key)

    def unsecret(self, text: str) -> str:
        """Return `text` without the key."""
        return text.replace(self.endpoint.key, "[key]") if self.endpoint.has_secret else text

    def _complaint(self, response: Response) -> str:
        text = self.safe(_said(response))
        return f"The LLM endpoint {self.endpoint.base_url} answered {response.status}" + (f" ({text})" if text else "")


class _RefusedError(Exception):
    """A response with a status that is neither 200 nor about the request."""

    def __init__(self, response: Response, sent_at: float) -> None:
        super().__init__(response.status)
        self.response, self.sent_at = response, sent_at


def _never_sent(error: BaseException) -> bool:
    """Say whether a request that ended so reached nobody."""
    return isinstance(error, BrokenError) and not error.found


def _said(response: Response) -> str:
    """Return the message of an error in OpenAI's form, else the whole body."""
    try:
        data = json.loads(response.body)
    except (ValueError, RecursionError):
        return response.text
    error = data.get("error", data) if isinstance(data, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return said if isinstance(said, str) else response.text
