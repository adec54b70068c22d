"""What goes into a file for the Batch API, and what is asked at once?

An annotator that stands in for a live one: what is known, or must not wait for a day, is answered now; the rest is handed in.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coral_backend.batches import MARK, BatchDesk, asks_in_batches, grouped
from coral_backend.costs import past_spend
from coral_backend.llm.base import Annotator, OnAnswer, Question, abstained
from coral_backend.llm.spend import characters_of
from coral_backend.llm.tokens import TokenCounter, at_most
from coral_backend.types import Batch

if TYPE_CHECKING:  # the SDK takes a second to import
    from coral_backend.llm.openai import OpenAIAnnotator

__all__ = ["Clerk"]

PROBES = 3
"""Texts asked live where it is not known what the endpoint accepts, which a whole file must not get wrong."""

FEW = 20
"""Fewer requests than this are asked live: they are no reason to wait for a day."""

MARGIN = 1.5
"""A file of requests is reserved with so many times their learned tokens: over thousands of them the mean is sure."""

GROUP = 5_000
"""Questions that are sorted at a time into those for a file and those that are answered now."""


class Clerk:
    """An annotator that answers what is known or quickly asked, and hands in files of what is left.

    Raises
    ------
    SettingsError
        If the annotator it stands in for is no OpenAI-compatible endpoint.
    """

    is_llm = True

    def __init__(self, desk: BatchDesk, annotator: Annotator) -> None:
        self.name = annotator.name
        self._desk, self._annotator = desk, asks_in_batches(annotator)

    def annotate(self, questions: Iterable[Question], on_answer: OnAnswer, check: Callable[[], None]) -> None:
        """See ``Annotator``; questions that go into a file, or wait in an open batch, are not answered."""
        stream = iter(questions)
        if not self._annotator.is_settled:
            self._annotator.annotate(itertools.islice(stream, PROBES), on_answer, check)
        batches = self._desk.batches
        waiting = {mark for batch in batches if batch.open for mark in batch.asked}
        again = {mark for batch in batches for mark in batch.again}
        with _File(self._desk, self._annotator) as file:
            for group in grouped(stream, GROUP):
                now: list[Question] = []
                for question, key in self._keyed(group, now):
                    if key[:MARK] in again:
                        now.append(question)
                    elif key[:MARK] not in waiting:
                        file.add(question, key)
                self._annotator.annotate(now, on_answer, check)
                check()
            if 0 < len(file.questions) < FEW and file.handed_in == 0:
                self._annotator.annotate(file.questions, on_answer, check)
            else:
                file.hand_in()

    def _keyed(self, group: Sequence[Question], now: list[Question]) -> list[tuple[Question, str]]:
        """Return the questions without a reply, with their keys; the others go to `now`."""
        asked: list[tuple[Question, str]] = []
        for question in group:
            if abstained(question.sample, self.name) is not None:
                now.append(question)
            else:
                messages = question.prompt.messages(question.sample.text)
                asked.append((question, self._annotator.keys.of(question, messages)))
        known = self._desk.store.replies.find({key for _, key in asked})
        now.extend(question for question, key in asked if key in known)
        return [(question, key) for question, key in asked if key not in known]


@dataclass
class _File:
    """A file of requests that grows until it, or the budget, is full.

    Attributes
    ----------
    questions : list of Question
        What is in it; of equal requests one.
    handed_in : int
        Files that were full and handed in before.
    """

    desk: BatchDesk
    annotator: OpenAIAnnotator
    questions: list[Question] = field(default_factory=list)
    handed_in: int = 0

    def __post_init__(self) -> None:
        past = past_spend(self.desk.store, self.desk.project.id, self.annotator.name)
        self._counter = TokenCounter(self.annotator.endpoint.model, past.characters, past.prompt_tokens)
        self._till = self.annotator.till()
        self._marks: set[str] = set()
        self._reserved, self._characters, self._is_full = 0.0, 0, False

    def __enter__(self) -> _File:
        self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, question: Question, key: str) -> None:
        """Add a request; hand the file in first where it is full. Left for later where the budget is.

        Raises
        ------
        BudgetError
            When not one request fits and no batch is open that could leave some.
        """
        from coral_backend.llm.batch import MAX_FILE_BYTES, URL

        if self._is_full or key[:MARK] in self._marks:
            return
        messages = question.prompt.messages(question.sample.text)
        body = self.annotator.body(question, messages)
        line = json.dumps({"custom_id": key, "method": "POST", "url": URL, "body": body}).encode() + b"\n"
        full = len(self.questions) >= self.desk.settings.batch_requests
        if full or self._file.tell() + len(line) > MAX_FILE_BYTES:
            self.hand_in()
        most = self._most(messages, body)
        if not self._till.meter.fits(self._reserved + most):
            if not self.questions and not self.desk.open:
                raise self._till.meter.exhausted(most)
            self._is_full = True
            return
        self._file.write(line)
        self._marks.add(key[:MARK])
        self.questions.append(question)
        self._reserved, self._characters = self._reserved + most, self._characters + characters_of(messages)

    def hand_in(self) -> None:
        """Hand in what is in the file, if anything, and begin a new one."""
        if not self.questions:
            return
        asked = len(self.questions)
        batch = Batch(
            key=uuid.uuid4().hex,
            project_id=self.desk.project.id,
            round_id=self.desk.round.id,
            batch_id=None,
            status="creating",
            open=True,
            annotator=self.annotator.name,
            asked=tuple(sorted(self._marks)),
            characters=self._characters,
            reserved=self._reserved,
            requests=asked,
        )
        self.desk.hand_in(batch, self._file, [self.annotator])
        self._till.meter.set_aside(self._reserved)
        self._file.seek(0)
        self._file.truncate()
        self.questions, self.handed_in = [], self.handed_in + 1
        self._reserved, self._characters = 0.0, 0
        self._marks = set()

    def _most(self, messages: list[dict[str, str]], body: dict[str, object]) -> float:
        """Return the most that one request of many is reserved with, in USD."""
        if self._till.price is None:
            return 0.0
        tokens: float = at_most(messages, body)
        if self._counter.how != "default":
            tokens = min(tokens, MARGIN * self._counter.count(messages))
        return self._till.price.cost(tokens, self.annotator.endpoint.max_tokens, batch=True)
