"""How does one item get its answer? A request; if the reply names no label, one more; then an answer, or an abstention."""

from __future__ import annotations

from dataclasses import replace

from coral_backend.llm.base import Question
from coral_backend.llm.client import Client, ItemFailedError, Messages, Paid
from coral_backend.llm.confidence import from_logprobs, tokens_of
from coral_backend.llm.desk import Desk, Entry, sentence
from coral_backend.llm.parse import MAX_RAW_CHARS, Completion
from coral_backend.llm.prompt import clean
from coral_backend.llm.replies import LONGEST_BODY, Keys, completion_of
from coral_backend.llm.retry import Budget, Pace
from coral_backend.llm.stream import Item, Stream
from coral_backend.types import Answer, Reply


class Talk:
    """Talks to the endpoint about one item after the other, for all slots of a run."""

    def __init__(self, client: Client, desk: Desk, keys: Keys, pace: Pace) -> None:
        self._client, self._desk, self._keys, self._pace = client, desk, keys, pace
        self._endpoint = client.endpoint

    async def about(self, item: Item, stream: Stream) -> None:
        """Get the answer to an item and have it committed; an item that fails is held back by the desk."""
        self._desk.check()
        replies = self._client.replies
        try:
            entry = await self._entry(item)
        except ItemFailedError as failure:
            if failure.unreachable and self._client.replies == replies:
                raise self._client.unreachable(str(failure)) from None
            stream.done(item)
            self._desk.failed(item.samples, failure)
        else:
            await self._desk.hand_in(entry)
            self._desk.hand_over_late(entry)  # nothing is awaited from here on, so nobody joins any more
            stream.done(item)

    def read(self, question: Question, completion: Completion) -> Answer:
        """Turn a completion into an answer without its cost; one that is cut, filtered or refused is not read."""
        prompt = question.prompt
        label, reason = None, completion.unusable
        if not completion.unusable:
            label, reason = prompt.read(completion.text, question.sample.text)
        answers = prompt.answers() if label else {}
        sure = from_logprobs(tokens_of(completion.logprobs), answers, label) if answers and label else None
        return Answer(
            label,
            raw=self._client.unsecret(clean(completion.text, MAX_RAW_CHARS)),
            reason=reason and sentence(self._client.safe(reason)),
            confidence=sure.confidence if sure else prompt.sureness(completion.text) if label else None,
            annotator=self._desk.name,
            missing_mass=sure.missing_mass if sure else None,
        )

    async def _entry(self, item: Item) -> Entry:
        budget, started = Budget(self._endpoint.timeout_s), self._pace.clock()
        entry = Entry(samples=item.samples)
        first = item.known
        if first is None:
            first = await self._paid(item, item.key, item.messages, budget, entry)
        answer = self.read(item.question, first)
        if answer.label is None and not first.unusable:
            answer = await self._repaired(item, first, answer, budget, entry)
        entry.answer = replace(
            answer,
            prompt_tokens=entry.prompt_tokens,
            completion_tokens=entry.completion_tokens,
            seconds=self._pace.clock() - started,
        )
        return entry

    async def _repaired(self, item: Item, first: Completion, answer: Answer, budget: Budget, entry: Entry) -> Answer:
        """Ask again for an answer that named no label."""
        messages = item.question.prompt.repair(item.question.sample.text, first.text)
        key = self._keys.of(item.question, messages)
        second = completion_of(self._desk.replies.find([key]).get(key))
        if second is None:
            if entry.replies:  # paid for: a crash during the second request must not lose the first
                await self._desk.hand_in(Entry(entry.take_replies()))
            try:
                second = await self._paid(item, key, messages, budget, entry)
            except ItemFailedError as failure:
                return replace(answer, reason=f"{answer.reason} Asked again: {failure}.")
        repaired = self.read(item.question, second)
        if repaired.label is None and not second.unusable:
            label, reason = item.question.prompt.rest(second.text, item.question.sample.text)
            repaired = replace(repaired, label=label, reason=reason and sentence(self._client.safe(reason)))
        return replace(repaired, raw=f"{answer.raw}\n{repaired.raw}")

    async def _paid(self, item: Item, key: str, messages: Messages, budget: Budget, entry: Entry) -> Completion:
        """Ask the endpoint; what it costs, and the reply to keep, go into `entry`."""
        paid = await self._client.complete(item.question, messages, budget)
        entry.add(self._reply(key, paid), keep=len(paid.body) <= LONGEST_BODY)
        return paid.completion

    def _reply(self, key: str, paid: Paid) -> Reply:
        completion = paid.completion
        body = clean(paid.body, LONGEST_BODY)
        return Reply(
            key,
            body,
            self._endpoint.model,
            completion.prompt_tokens,
            completion.completion_tokens,
            paid.seconds,
        )
