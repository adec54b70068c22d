"""How are many texts labelled by an OpenAI-compatible endpoint, without losing one and without hammering it?

A fixed number of slots takes questions from a stream; each has its answer committed before it takes the next. An item that the
endpoint fails on is tried again until its deadline, then abstained from with the reason. An endpoint that fails on everything
ends the work with ``EndpointError``, so that a wrong address does not turn a whole corpus into abstentions.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from coral_backend.exceptions import SettingsError
from coral_backend.llm.base import OnAnswer, Question
from coral_backend.llm.bucket import Bucket, LocalBucket, Rates, RedisBucket, bucket_name, local_bucket
from coral_backend.llm.client import Client, Endpoint
from coral_backend.llm.desk import Desk
from coral_backend.llm.limiter import Limiter
from coral_backend.llm.replies import Keys, MemoryReplies, Replies
from coral_backend.llm.retry import Pace
from coral_backend.llm.shape import Known, Shape
from coral_backend.llm.spend import Meter, Till
from coral_backend.llm.stream import Stream
from coral_backend.llm.talk import Talk
from coral_backend.settings import Settings

OPENAI_URL = "https://api.openai.com/v1"
CHECK_EVERY_S = 0.5
"""How often ``check`` is called while all slots wait."""

TIDY_EVERY_S = 2.0
"""How often the store is tidied beside the work: every some 500 answers."""

PROBED_FOR_S = 7 * 24 * 3600.0
"""What an endpoint accepts is found out anew after a week: it may have learned something."""


class OpenAIAnnotator:
    """Ask a model at an OpenAI-compatible endpoint (OpenAI, vLLM, Ollama, llama.cpp).

    What the endpoint accepts (a JSON schema, ``temperature``, log-probabilities, the name of the token limit) is found out on
    the first items and remembered with the replies.

    Parameters
    ----------
    replies : Replies or None
        Where paid replies are kept; None for this object's memory.
    meter : Meter or None
        Counts what requests cost, and keeps them under a budget; None for no budget.
    rates : Rates
        What the endpoint allows in a minute.
    bucket : callable or None
        Makes the bucket of a run, which workers may share; None for one of this object's own.
    """

    is_llm = True

    def __init__(
        self,
        endpoint: Endpoint,
        pace: Pace | None = None,
        replies: Replies | None = None,
        *,
        meter: Meter | None = None,
        rates: Rates | None = None,
        bucket: Callable[[], Bucket] | None = None,
    ) -> None:
        self.name = f"openai:{endpoint.model}"
        self._endpoint = endpoint
        self._pace = pace or Pace()
        self._replies = replies if replies is not None else MemoryReplies()
        self.meter = meter or Meter.free()
        self._rates = rates or Rates()
        own = LocalBucket(self._rates, self._pace.clock)
        self._bucket = bucket or (lambda: own)
        self.keys = Keys(endpoint.base_url, endpoint.model, endpoint.max_tokens)
        self._known: Known | None = None

    @classmethod
    def from_settings(
        cls, settings: Settings, replies: Replies | None = None, meter: Meter | None = None
    ) -> OpenAIAnnotator:
        """Build it from the process's settings.

        Raises
        ------
        SettingsError
            If neither an address nor a key is set, or one of them cannot be right.
        """
        key = settings.openai_api_key.get_secret_value().strip() if settings.openai_api_key else ""
        if not key and not settings.openai_base_url:
            raise SettingsError("CORAL_ANNOTATOR is 'openai' and neither OPENAI_BASE_URL nor OPENAI_API_KEY is set.")
        endpoint = Endpoint(
            base_url=(settings.openai_base_url or OPENAI_URL).strip(),
            key=key or "none",  # local servers want no key
            model=settings.llm_model,
            concurrency=settings.llm_concurrency,
            timeout_s=settings.llm_timeout_s,
            max_tokens=settings.llm_max_tokens,
        )
        rates = Rates(settings.llm_rpm, settings.llm_tpm)
        pace = Pace(rng=random.Random(settings.seed))
        bucket = _shared_bucket(settings, endpoint, rates)
        return cls(endpoint, pace, replies, meter=meter, rates=rates, bucket=bucket)

    @property
    def endpoint(self) -> Endpoint:
        """Where the model is."""
        return self._endpoint

    @property
    def is_settled(self) -> bool:
        """Whether it is known what the endpoint accepts, so that ``body`` is right."""
        return self._what_is_known().settled

    @property
    def shape(self) -> Shape:
        """What the endpoint accepts, as far as it is known."""
        return self._what_is_known().shape

    def body(self, question: Question, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Return the body of a request as this endpoint takes it."""
        parameters = self.shape.parameters(question, self._endpoint.max_tokens)
        return {"model": self._endpoint.model, "messages": messages, **parameters}

    def till(self) -> Till:
        """Return where its requests are paid; raises ``BudgetError`` if there is a budget and no price."""
        return self.meter.till(self.name, self._endpoint.base_url, self._endpoint.model)

    def annotate(self, questions: Iterable[Question], on_answer: OnAnswer, check: Callable[[], None]) -> None:
        """Answer `questions`; see ``Annotator``. Equal requests are sent once, and the first sample carries the cost."""
        desk = Desk(self.name, self._endpoint, self._replies, on_answer, check, meter=self.meter)
        try:
            _to_the_end(self._work(questions, desk))
        finally:  # what brought no answer was paid all the same
            self.meter.tell()

    async def _work(self, questions: Iterable[Question], desk: Desk) -> None:
        """Label everything; cancel all slots when one of them, or ``check``, raises."""
        till, known = self.till(), self._what_is_known()
        limiter = Limiter(self._bucket(), self._pace, limited=self._rates.limited)
        async with Client.connected(
            self._endpoint, pace=self._pace, limiter=limiter, known=known, remember=self._remember, till=till
        ) as client:
            talk = Talk(client, desk, self.keys, self._pace)
            stream = Stream(questions, self.keys, desk, talk.read)
            asking = self._first_then_all(talk, known, stream)
            others = [_keep_checking(desk.check), _keep_tidy(self._replies)]
            await _together([asking, *others], until=asyncio.FIRST_COMPLETED)
            desk.finish(lived=client.replies > 0)

    async def _first_then_all(self, talk: Talk, known: Known, stream: Stream) -> None:
        """Ask for one item at a time until the shape of a request is settled, then fill the slots."""
        while not known.settled and (item := await stream.next()) is not None:
            await talk.about(item, stream)
        working = [_slot(talk, stream) for _ in range(self._endpoint.concurrency)]
        await _together(working, until=asyncio.FIRST_EXCEPTION)

    def _what_is_known(self) -> Known:
        if self._known is None:
            since = self._pace.wall() - PROBED_FOR_S
            accepts = self._replies.accepts(self._endpoint.base_url, self._endpoint.model, since=since)
            self._known = Known(Shape.from_json(accepts) if accepts else None)
        return self._known

    def _remember(self, shape: Shape) -> None:
        self._replies.put_accepts(self._endpoint.base_url, self._endpoint.model, shape.to_json())


def _shared_bucket(settings: Settings, endpoint: Endpoint, rates: Rates) -> Callable[[], Bucket]:
    """Return a maker of the bucket that all workers with these settings share: in Redis, else in this process."""
    name = bucket_name(endpoint.base_url, endpoint.key, endpoint.model)
    local, url = local_bucket(name, rates), settings.known_redis_url

    def made() -> Bucket:
        try:
            return RedisBucket(url, name, rates, local) if url else local
        except ValueError:  # its text may repeat the address, which may hold a password
            raise SettingsError("REDIS_URL is no address of Redis, so that the rate limit cannot be shared.") from None

    return made


async def _slot(talk: Talk, stream: Stream) -> None:
    while (item := await stream.next()) is not None:
        await talk.about(item, stream)


async def _keep_checking(check: Callable[[], None]) -> None:
    while True:
        check()
        await asyncio.sleep(CHECK_EVERY_S)


async def _keep_tidy(replies: Replies) -> None:
    while True:
        await asyncio.sleep(TIDY_EVERY_S)
        await asyncio.to_thread(replies.tidy)


async def _together(coroutines: Sequence[Coroutine[Any, Any, None]], *, until: str) -> None:
    """Run until the condition of ``asyncio.wait``, or until one raises; then cancel the others and wait for them."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=until)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` in an event loop of its own; beside the caller's loop where there is one, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
