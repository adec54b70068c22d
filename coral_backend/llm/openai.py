"""How are many texts labelled by an OpenAI-compatible endpoint, without losing one and without hammering it?

A fixed number of slots takes texts from one queue; each hands its answer over before it takes the next. An item that the
endpoint fails on is tried again until its deadline, then abstained from with the reason. An endpoint that fails on everything
ends the work with ``EndpointError``, so that a wrong address does not turn a whole corpus into abstentions.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coral_backend.exceptions import EndpointError, SettingsError
from coral_backend.llm.base import OnAnswer, Question, abstained
from coral_backend.llm.client import Client, Endpoint, ItemFailedError, Shape
from coral_backend.llm.parse import CUT, MAX_RAW_CHARS, Completion, read_label
from coral_backend.llm.prompt import Prompt, clean
from coral_backend.llm.retry import Budget, Pace
from coral_backend.llm.spend import Meter
from coral_backend.settings import Settings
from coral_backend.types import Answer, Sample

OPENAI_URL = "https://api.openai.com/v1"
CHECK_EVERY_S = 0.5
"""How often ``check`` is called while all slots wait."""

FEW = 3
"""So many failed texts, and not one completion in the run, are the endpoint's fault; fewer may be the texts'."""


@dataclass(frozen=True)
class Item:
    """One thing to ask: a text in a prompt, and the samples that have it."""

    text: str
    prompt: Prompt
    samples: list[Sample]


class OpenAIAnnotator:
    """Ask a model at an OpenAI-compatible endpoint (OpenAI, vLLM, Ollama, llama.cpp).

    What the endpoint accepts (a JSON schema, ``temperature``, the name of the token limit) is found out on the first items and
    kept for the life of the object.
    """

    is_llm = True

    def __init__(self, endpoint: Endpoint, pace: Pace | None = None, meter: Meter | None = None) -> None:
        self.name = f"openai:{endpoint.model}"
        self._endpoint = endpoint
        self.meter = meter or Meter.free()
        self._pace = pace or Pace()
        self._shape = Shape()

    @classmethod
    def from_settings(cls, settings: Settings, meter: Meter | None = None) -> OpenAIAnnotator:
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
            key=key or "none",  # local servers want no key; the SDK does
            model=settings.llm_model,
            concurrency=settings.llm_concurrency,
            timeout_s=settings.llm_timeout_s,
            max_tokens=settings.llm_max_tokens,
        )
        return cls(endpoint, Pace(rng=random.Random(settings.seed)), meter)

    @property
    def endpoint(self) -> Endpoint:
        """Where the model is."""
        return self._endpoint

    @property
    def is_settled(self) -> bool:
        """Whether a request was accepted, so that the shape of ``body`` is known to be right."""
        return self._shape.settled

    def body(self, prompt: Prompt, messages: list[dict[str, str]]) -> dict[str, Any]:
        """Return the body of a request as this endpoint takes it."""
        parameters = self._shape.parameters(prompt, self._endpoint.max_tokens)
        return {"model": self._endpoint.model, "messages": messages, **parameters}

    def annotate(self, questions: Iterable[Question], on_answer: OnAnswer, check: Callable[[], None]) -> None:
        """Answer `questions`; see ``Annotator``. Equal requests are sent once, and the first sample carries the cost."""
        items: dict[tuple[str, str], Item] = {}
        for question in questions:
            sample, prompt = question.sample, question.prompt
            if (answer := abstained(sample, self.name)) is not None:
                check()
                on_answer(sample, answer)
            else:
                text = prompt.clean(sample.text)
                items.setdefault((prompt.version, text), Item(text, prompt, [])).samples.append(sample)
        if items:
            todo = list(items.values())
            _to_the_end(self._work(todo, _Desk(self.name, self._endpoint, on_answer, check)))

    async def _work(self, todo: Sequence[Item], desk: _Desk) -> None:
        """Label everything in `todo`; cancel all slots when one of them, or ``check``, raises."""
        till = self.meter.till(self.name, self._endpoint.base_url, self._endpoint.model)
        async with Client.connected(self._endpoint, self._pace, self._shape, till) as client:
            queue = iter(todo)
            slots = min(self._endpoint.concurrency, len(todo))
            asking = self._first_then_all(client, queue, slots, desk)
            await _together([asking, _keep_checking(desk.check)], until=asyncio.FIRST_COMPLETED)
            desk.finish(lived=client.replies > 0)

    async def _first_then_all(self, client: Client, queue: Iterator[Item], slots: int, desk: _Desk) -> None:
        """Ask for one item at a time until the shape of a request is settled, then fill the slots."""
        while not self._shape.settled and (item := next(queue, None)) is not None:
            await self._slot(client, [item], desk)
        working = [self._slot(client, queue, desk) for _ in range(slots)]
        await _together(working, until=asyncio.FIRST_EXCEPTION)

    async def _slot(self, client: Client, queue: Iterable[Item], desk: _Desk) -> None:
        for item in queue:
            desk.check()
            started, replies = self._pace.clock(), client.replies
            try:
                answer = await self._label(client, item.prompt, item.text)
            except ItemFailedError as failure:
                if failure.unreachable and client.replies == replies:
                    raise client.unreachable(str(failure)) from None
                desk.failed(item.samples, failure)
            else:
                desk.hand_over(item.samples, replace(answer, seconds=self._pace.clock() - started))
                desk.flush()

    async def _label(self, client: Client, prompt: Prompt, text: str) -> Answer:
        """Ask for a label, and once more if the answer names none."""
        budget = Budget(self._endpoint.timeout_s)
        first = await client.complete(prompt, prompt.messages(text), budget)
        answer = self._answer(first, prompt.labels, client)
        if answer.label is not None or first.unusable:
            return answer
        try:
            second = await client.complete(prompt, prompt.repair(text, first.text), budget)
        except ItemFailedError as failure:
            return replace(answer, reason=f"{answer.reason} Asked again: {failure}.")
        repaired = self._answer(second, prompt.labels, client)
        return replace(
            repaired,
            raw=f"{answer.raw}\n{repaired.raw}",
            prompt_tokens=first.prompt_tokens + second.prompt_tokens,
            completion_tokens=first.completion_tokens + second.completion_tokens,
        )

    def _answer(self, completion: Completion, labels: Sequence[str], client: Client) -> Answer:
        """Turn a completion into an answer; one that is cut, filtered or refused is not read."""
        label, reason = (None, completion.unusable) if completion.unusable else read_label(completion.text, labels)
        raw = clean(completion.text, MAX_RAW_CHARS)
        return Answer(
            label,
            raw=raw.replace(self._endpoint.key, "[key]") if self._endpoint.has_secret else raw,
            reason=reason and _sentence(client.safe(reason)),
            annotator=self.name,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
        )


class _Desk:
    """Where the slots hand in their answers, and where it is noticed that the endpoint fails on everything."""

    def __init__(self, name: str, endpoint: Endpoint, on_answer: OnAnswer, check: Callable[[], None]) -> None:
        self.check = check
        self._name, self._endpoint, self._on_answer = name, endpoint, on_answer
        self._patience = max(10, 2 * endpoint.concurrency)
        self._held: list[tuple[list[Sample], Answer]] = []
        self._cut_in_a_row = 0

    def hand_over(self, samples: Sequence[Sample], answer: Answer) -> None:
        """Give `answer` to all samples with the text; the cost belongs to the first of them."""
        for sample in samples:
            self._on_answer(sample, answer)
            answer = replace(answer, prompt_tokens=0, completion_tokens=0, seconds=0.0)
        self.check()
        self._cut_in_a_row = self._cut_in_a_row + 1 if answer.reason == _sentence(CUT) else 0
        if self._cut_in_a_row >= self._patience:
            raise EndpointError(
                f"{self._cut_in_a_row} answers in a row were cut at {self._endpoint.max_tokens} tokens. Raise "
                "CORAL_LLM_MAX_TOKENS (a model that reasons needs 1,000 and more), then resume the round."
            )

    def failed(self, samples: list[Sample], failure: ItemFailedError) -> None:
        """Hold a failed item back until it is known whether the endpoint lives: if not, it counts as never asked.

        Raises
        ------
        EndpointError
            When so many failed in a row that the endpoint is to blame.
        """
        answer = Answer(None, reason=f"No label from the endpoint: {failure}.", annotator=self._name)
        if failure.about_the_text:
            self.hand_over(samples, answer)
            return
        self._held.append((samples, answer))
        if len(self._held) >= self._patience:
            raise self._blame() from None

    def finish(self, *, lived: bool) -> None:
        """Hand over what is still held; raise instead when several failed and the endpoint never gave a completion."""
        if not lived and len(self._held) >= FEW:
            raise self._blame()
        self.flush()

    def flush(self) -> None:
        """Hand over what was held back: the endpoint lives."""
        held, self._held = self._held, []
        for samples, answer in held:
            self.hand_over(samples, answer)

    def _blame(self) -> EndpointError:
        return EndpointError(
            f"{len(self._held)} texts in a row got no label. The last: {self._held[-1][1].reason} Check OPENAI_BASE_URL, "
            "CORAL_LLM_MODEL and CORAL_LLM_TIMEOUT_S, then resume the round; these texts are asked again."
        )


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:] + "."


async def _keep_checking(check: Callable[[], None]) -> None:
    while True:
        check()
        await asyncio.sleep(CHECK_EVERY_S)


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
