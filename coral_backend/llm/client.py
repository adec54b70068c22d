"""How is one request answered, whatever the endpoint does? With a completion, a failed item, or the end of the work."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from coral_backend.exceptions import EndpointError, SettingsError
from coral_backend.llm.parse import Completion, ReplyError, read_reply
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.retry import (
    LONGEST_PAUSE_S,
    SHORTEST_SECRET,
    Budget,
    Gate,
    Pace,
    Verdict,
    advice,
    is_about_the_text,
    judge,
    retry_after,
    scrub,
)
from coral_backend.llm.spend import Meter, Till

CONNECT_TIMEOUT_S = 10.0
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


@dataclass
class Shape:
    """Which optional parts of a request the endpoint accepts; settled by the first request that it does accept.

    An endpoint that accepts the JSON schema and ignores it does no harm: every answer is checked against the labels by us.
    """

    schema: bool = True
    temperature: bool = True
    tokens_name: str = "max_tokens"
    settled: bool = False

    def adapt(self, complaint: str) -> bool:
        """Rename or drop what `complaint` names, else drop the schema; False when there is nothing left to change."""
        complaint = complaint.lower()
        if "max_completion_tokens" in complaint and self.tokens_name == "max_tokens":
            self.tokens_name = "max_completion_tokens"
        elif "temperature" in complaint and self.temperature:
            self.temperature = False
        elif self.schema:
            self.schema = False
        else:
            return False
        return True

    def reset(self) -> None:
        """Forget what was tried: it was the text that the endpoint did not accept."""
        self.schema, self.temperature, self.tokens_name = True, True, "max_tokens"

    def parameters(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
        """Return the parameters of a request beside model and messages."""
        values: dict[str, Any] = {self.tokens_name: max_tokens}
        if self.temperature:
            values["temperature"] = 0
        if self.schema:
            values["response_format"] = prompt.response_format()
        return values


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


class Client:
    """The endpoint during one run, shared by all slots; make it with ``connected``.

    Attributes
    ----------
    replies : int
        Completions received.
    """

    def __init__(self, api: openai.AsyncOpenAI, endpoint: Endpoint, pace: Pace, shape: Shape, till: Till) -> None:
        self.endpoint = endpoint
        self._till = till
        self.replies = 0
        self._api, self._pace, self._shape = api, pace, shape
        self._gate = Gate(pace)
        self._refused_in_a_row = 0

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, endpoint: Endpoint, pace: Pace, shape: Shape, till: Till | None = None
    ) -> AsyncIterator[Client]:
        """Open the connections of a run; they are closed with the context. Requests are paid at `till`."""
        till = till or Meter.free().till(endpoint.model, endpoint.base_url, endpoint.model)
        timeout = httpx2.Timeout(endpoint.timeout_s, connect=min(CONNECT_TIMEOUT_S, endpoint.timeout_s))
        limits = httpx2.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
        # A redirect would send the texts to an address that nobody set.
        async with httpx2.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False) as http:
            api = openai.AsyncOpenAI(api_key=endpoint.key, base_url=endpoint.base_url, max_retries=0, http_client=http)
            yield cls(api, endpoint, pace, shape, till)

    async def complete(self, prompt: Prompt, messages: list[dict[str, str]], budget: Budget) -> Completion:
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
            await self._gate.passed()
            if budget.left <= 0:
                break
            asked, limited = 0.0, False
            try:
                return await self._send(prompt, messages, budget)
            except ReplyError as error:
                reason, malformed = self.safe(str(error)), malformed + 1
                if malformed >= MALFORMED_TRIES:
                    raise ItemFailedError(reason) from None
            except openai.APIStatusError as error:
                limited = error.status_code == 429
                reason, asked = self._refusal(error)
            except openai.APIConnectionError as error:
                reason = self._disconnection(error, budget)
            wait = max(asked, self._pace.backoff(attempt))
            budget.spend(0.0 if limited else wait - asked)
            await self._pace.sleep(wait)
        raise ItemFailedError(f"{reason}; gave up after {self.endpoint.timeout_s:g} s", unreachable=budget.unreachable)

    async def _send(self, prompt: Prompt, messages: list[dict[str, str]], budget: Budget) -> Completion:
        """Send one request; again in another shape while the endpoint does not accept the shape."""
        while True:
            try:
                parameters = self._shape.parameters(prompt, self.endpoint.max_tokens)
                async with self._till.paying(messages, parameters, _never_billed) as payment:
                    body = await self._post(prompt, messages, budget)
                    payment.settle(body)
            except openai.APIStatusError as error:
                if judge(error.status_code, error.response.text) is not Verdict.REQUEST:
                    raise
                self._reshape(error)
                continue
            completion = read_reply(body)
            self._shape.settled = True
            self._refused_in_a_row = 0
            self.replies += 1
            return completion

    async def _post(self, prompt: Prompt, messages: list[dict[str, str]], budget: Budget) -> bytes:
        """Return the body of one reply with a good status, within the item's deadline."""
        parameters = self._shape.parameters(prompt, self.endpoint.max_tokens)
        started = self._pace.clock()
        try:
            # The SDK's own timeout is for each read: a reply that drips would outlive it.
            async with asyncio.timeout(max(0.0, budget.left)):
                raw = await self._api.chat.completions.with_raw_response.create(
                    model=self.endpoint.model,
                    messages=messages,  # type: ignore[arg-type] # its TypedDicts say no more than these dicts
                    **parameters,
                )
        except TimeoutError:
            raise ItemFailedError(f"no answer in {self.endpoint.timeout_s:g} s") from None
        except openai.APIStatusError:
            budget.was_reached()
            raise
        finally:
            budget.spend(self._pace.clock() - started)
        budget.was_reached()
        return raw.http_response.content

    def _reshape(self, error: openai.APIStatusError) -> None:
        """Change the shape after a request was not accepted; raise when it is not the shape that is wrong."""
        body = error.response.text
        about_the_text = is_about_the_text(error.status_code, body) or self._shape.settled
        if not about_the_text and self._shape.adapt(body):
            return
        if not self._shape.settled:
            self._shape.reset()
        raise ItemFailedError(self._complaint(error), about_the_text=about_the_text) from None

    def _refusal(self, error: openai.APIStatusError) -> tuple[str, float]:
        """Return the reason for a refusal that may pass and the seconds it asks to wait; raise for one that will not."""
        complaint = self._complaint(error)
        if judge(error.status_code, error.response.text) is Verdict.STOP:
            raise EndpointError(f"{complaint}. {advice(error.status_code, self.endpoint.model)}") from None
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSALS_PER_SLOT * self.endpoint.concurrency:
            raise EndpointError(
                f"{complaint}; {self._refused_in_a_row} requests in a row were refused. Resume the round when it takes some."
            ) from None
        seconds = retry_after(error.response.headers, self._pace.wall()) or 0.0
        if seconds > LONGEST_PAUSE_S:
            raise EndpointError(f"{complaint}; it asks to wait {seconds:.0f} s. Resume the round after that.") from None
        self._gate.close_for(seconds)
        return complaint, seconds

    def _disconnection(self, error: openai.APIConnectionError, budget: Budget) -> str:
        """Return the reason for a connection that broke or never was; raise when the endpoint was never there."""
        cause = error.__cause__ or error
        detail = f"{type(cause).__name__} {self.safe(str(cause))}".strip()
        if not isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
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

    def _complaint(self, error: openai.APIStatusError) -> str:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        text = self.safe(said if isinstance(said, str) else error.response.text)
        return f"The LLM endpoint {self.endpoint.base_url} answered {error.status_code}" + (
            f" ({text})" if text else ""
        )


def _never_billed(error: BaseException) -> bool:
    """Say whether a request that ended so was refused, or reached nobody."""
    reached_nobody = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)
    return isinstance(error, openai.APIStatusError) or (isinstance(error, openai.APIConnectionError) and reached_nobody)
