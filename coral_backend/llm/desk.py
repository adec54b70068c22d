"""Where do the slots hand in their answers? What is ready at the same time is committed in one transaction.

A slot goes on when its answer is committed. Here it is also noticed that an endpoint fails on everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from coral_backend.exceptions import CoralError, EndpointError
from coral_backend.llm.base import OnAnswer
from coral_backend.llm.client import Endpoint, ItemFailedError
from coral_backend.llm.parse import CUT
from coral_backend.llm.replies import Replies
from coral_backend.llm.spend import Meter
from coral_backend.types import Answer, Reply, Sample

FEW = 3
"""So many failed texts, and not one completion in the run, are the endpoint's fault; fewer may be the texts'."""


@dataclass
class Entry:
    """What one slot hands in: replies that were paid for, and perhaps the answer that was read from them.

    Attributes
    ----------
    samples : list of Sample
        All that share the answer; the cost belongs to the first.
    prompt_tokens, completion_tokens : int
        What all replies that were added took, also those that were taken out again.
    given : int
        How many of `samples`, which can grow, have their answer.
    """

    replies: list[Reply] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    answer: Answer | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    given: int = 0

    def add(self, reply: Reply, *, keep: bool) -> None:
        """Count what a reply took, and put it down to be kept."""
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        if keep:
            self.replies.append(reply)

    def take_replies(self) -> list[Reply]:
        """Return the replies to be kept, and leave none."""
        taken, self.replies = self.replies, []
        return taken


class Desk:
    """Takes answers in, for one run."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        replies: Replies,
        on_answer: OnAnswer,
        check: Callable[[], None],
        *,
        meter: Meter | None = None,
    ) -> None:
        self.name, self.check, self.replies = name, check, replies
        self._endpoint, self._on_answer, self._meter = endpoint, on_answer, meter or Meter.free()
        self._patience = max(10, 2 * endpoint.concurrency)
        self._held: list[tuple[list[Sample], Answer]] = []
        self._cut_in_a_row = 0
        self._group: list[tuple[Entry, asyncio.Future[None]]] = []

    async def hand_in(self, entry: Entry) -> None:
        """Return when `entry` is committed, together with what other slots hand in at the same time."""
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        self._group.append((entry, committed))
        if len(self._group) == 1:
            loop.call_soon(self._commit_group)
        await committed

    def hand_over(self, entries: Sequence[Entry]) -> None:
        """Commit `entries` now, then let ``check`` have a look."""
        replies = [reply for entry in entries for reply in entry.replies]
        try:
            with self._meter.telling() as spent, self.replies.together():
                self.replies.put(replies)
                self._meter.record(spent)
                for entry in entries:
                    self._give(entry)
        except BaseException:
            # The answers were refused (another worker owns the round, say); the replies are paid for all the same.
            with suppress(CoralError):
                self.replies.put(replies)
            raise
        self.check()
        self._look_for_cuts(entry.answer for entry in entries if entry.answer is not None)

    def hand_over_late(self, entry: Entry) -> None:
        """Give the answer also to the samples that joined after it was committed, while its slot was not yet awake."""
        late = entry.samples[entry.given :]
        if late and entry.answer is not None:
            self.hand_over([Entry([], late, free(entry.answer))])

    def failed(self, samples: list[Sample], failure: ItemFailedError) -> None:
        """Hold a failed item back until it is known whether the endpoint lives: if not, it counts as never asked.

        Raises
        ------
        EndpointError
            When so many failed in a row that the endpoint is to blame.
        """
        answer = Answer(None, reason=f"No label from the endpoint: {failure}.", annotator=self.name)
        if failure.about_the_text:
            self.hand_over([Entry([], samples, answer)])
            return
        self._held.append((samples, answer))
        if len(self._held) >= self._patience:
            raise self._blame() from None

    def finish(self, *, lived: bool) -> None:
        """Hand over what is still held; raise instead when several failed and the endpoint never gave a completion."""
        if not lived and len(self._held) >= FEW:
            raise self._blame()
        if self._held:
            self.hand_over(self._no_longer_held())

    def _commit_group(self) -> None:
        group, self._group = self._group, []
        entries = [entry for entry, _ in group]
        if any(
            entry.answer is not None for entry in entries
        ):  # the endpoint lives: what failed before, failed by itself
            entries += self._no_longer_held()
        error: BaseException | None = None
        try:
            self.hand_over(entries)
        except Exception as caught:  # noqa: BLE001 - it goes on to every slot that waits
            error = caught
        for _, committed in group:
            if committed.done():  # its slot was cancelled
                continue
            if error is None:
                committed.set_result(None)
            else:
                committed.set_exception(error)

    def _no_longer_held(self) -> list[Entry]:
        held, self._held = self._held, []
        return [Entry([], samples, answer) for samples, answer in held]

    def _give(self, entry: Entry) -> None:
        answer = entry.answer
        if answer is None:
            return
        for sample in entry.samples:
            self._on_answer(sample, answer)
            answer = free(answer)
        entry.given = len(entry.samples)

    def _look_for_cuts(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self._cut_in_a_row = self._cut_in_a_row + 1 if answer.reason == sentence(CUT) else 0
            if self._cut_in_a_row >= self._patience:
                raise EndpointError(
                    f"{self._cut_in_a_row} answers in a row were cut at {self._endpoint.max_tokens} tokens. Raise "
                    "CORAL_LLM_MAX_TOKENS (a model that reasons needs 1,000 and more), then resume the round."
                )

    def _blame(self) -> EndpointError:
        return EndpointError(
            f"{len(self._held)} texts in a row got no label. The last: {self._held[-1][1].reason} Check OPENAI_BASE_URL, "
            "CORAL_LLM_MODEL and CORAL_LLM_TIMEOUT_S, then resume the round; these texts are asked again."
        )


def free(answer: Answer) -> Answer:
    """Return `answer` as one that cost nothing: it was paid for by another sample, or earlier."""
    return replace(answer, prompt_tokens=0, completion_tokens=0, seconds=0.0)


def sentence(reason: str) -> str:
    """Return `reason` with a capital and a full stop."""
    return reason[:1].upper() + reason[1:] + "."
