"""What is asked next? Questions are read from their stream a few at a time, and only those go to the endpoint that must.

A sample without a text, and a request that was answered before, need no endpoint. Of equal requests one is sent; the others
wait for its answer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from coral_backend.llm.base import Question, abstained
from coral_backend.llm.desk import Desk, Entry, free
from coral_backend.llm.parse import Completion
from coral_backend.llm.replies import Keys, completion_of
from coral_backend.types import Answer, Reply, Sample

CHUNK = 16
"""Questions that are read, and looked up in the store, at a time; all slots wait while they are."""

MOST_WAITING = 1_000
"""Samples that wait for the answer to an equal request; with more nothing is read until it comes."""

Read = Callable[[Question, Completion], Answer]


@dataclass(eq=False)
class Item:
    """One request to make, and the samples that wait for its answer.

    Attributes
    ----------
    known : Completion or None
        An earlier reply to it, which named no label: only the repair is left to ask for.
    """

    question: Question
    key: str
    messages: list[dict[str, str]]
    samples: list[Sample] = field(default_factory=list)
    known: Completion | None = None


class Stream:
    """Reads `questions`, for one run.

    Parameters
    ----------
    read : callable
        Turns a completion into an answer.
    """

    def __init__(self, questions: Iterable[Question], keys: Keys, desk: Desk, read: Read) -> None:
        self._questions = iter(questions)
        self._keys, self._desk, self._answer = keys, desk, read
        self._ready: deque[Item] = deque()
        self._asked: dict[str, Item] = {}
        self._waiting = 0
        self._freed = asyncio.Event()
        self._exhausted = False

    async def next(self) -> Item | None:
        """Return the next item to ask for, or None when there is none left."""
        while not self._ready and not self._exhausted:
            if self._waiting < MOST_WAITING:
                self._fill()
                await asyncio.sleep(0)
            else:
                self._freed.clear()
                await self._freed.wait()
        return self._ready.popleft() if self._ready else None

    def done(self, item: Item) -> None:
        """Forget an item that was answered, or failed."""
        self._asked.pop(item.key, None)
        self._waiting -= len(item.samples) - 1
        self._freed.set()

    def _fill(self) -> None:
        """Read some questions; hand over what needs no endpoint."""
        chunk = list(itertools.islice(self._questions, CHUNK))
        self._exhausted = len(chunk) < CHUNK
        entries = []
        new: list[Item] = []
        for question in chunk:
            if (answer := abstained(question.sample, self._desk.name)) is not None:
                entries.append(Entry([], [question.sample], answer))
            elif (item := self._joined(question)) is not None:
                new.append(item)
        found = self._desk.replies.find([item.key for item in new]) if new else {}
        for item in new:
            if (known := self._from_before(item, found.get(item.key))) is not None:
                entries.append(Entry([], item.samples, known))
                self.done(item)
            else:
                self._ready.append(item)
        if entries:
            self._desk.hand_over(entries)
        else:
            self._desk.check()

    def _joined(self, question: Question) -> Item | None:
        """Return a new item, or None where the sample can wait for one that is asked for already."""
        messages = question.prompt.messages(question.sample.text)
        key = self._keys.of(question, messages)
        if (twin := self._asked.get(key)) is not None:
            twin.samples.append(question.sample)
            self._waiting += 1
            return None
        item = self._asked[key] = Item(question, key, messages, [question.sample])
        return item

    def _from_before(self, item: Item, reply: Reply | None) -> Answer | None:
        """Return the answer that an earlier reply holds; None if there is none, or its repair must be asked for."""
        completion = completion_of(reply)
        if completion is None:
            return None
        answer = self._answer(item.question, completion)
        if answer.label is None and not completion.unusable:
            item.known = completion
            return None
        return free(answer)
