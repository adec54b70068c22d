"""How does a round ask through a Batch API, which may take a day, without holding a worker?

Each step of the round hands in files, or looks at the batches it has, reads what has ended, and goes; the ticker asks for the
next look. What a batch brings is kept as a reply to its request, as live replies are: the round then finds its questions
answered, whatever the annotation strategy makes of the answers.

The database knows every batch before the endpoint does, and its id as soon as there is one: a step that is killed between the two
finds the batch again by our key, which the endpoint keeps as metadata.

What a batch brings nothing for (an error, a line that is missing) is asked live, once, and so is the repair of an answer that
is no label: some few requests now instead of another day of waiting. What it did not get to (expired) goes into the next batch.
"""

from __future__ import annotations

import itertools
import json
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, TypeVar

from coral_backend.annotate import make_team
from coral_backend.costs import meter_for, past_spend
from coral_backend.exceptions import EndpointError, SettingsError
from coral_backend.heartbeat import kept_alive
from coral_backend.llm.base import Annotator, OnAnswer, Question, abstained
from coral_backend.llm.spend import Till, characters_of, total
from coral_backend.llm.tokens import TokenCounter, at_most
from coral_backend.settings import Settings
from coral_backend.store import Lease, Store
from coral_backend.task_prompt import with_room
from coral_backend.types import Batch, Floats, Project, Reply, Round, Spend

if TYPE_CHECKING:  # the SDK takes a second to import
    from coral_backend.llm.batch import BatchAPI, Line, Remote
    from coral_backend.llm.openai import OpenAIAnnotator

T = TypeVar("T")

logger = logging.getLogger(__name__)

__all__ = ["BatchDesk", "check_batch", "settle", "told_of"]

PROBES = 3
"""Texts asked live where it is not known what the endpoint accepts, which a whole file must not get wrong."""

FEW = 20
"""Fewer requests than this are asked live: they are no reason to wait for a day."""

MARGIN = 1.5
"""A file of requests is reserved with so many times their learned tokens: over thousands of them the mean is sure."""

GROUP = 5_000
"""Questions that are sorted at a time into those for a file and those that are answered now."""

KEEP = 500
"""Replies that are stored at a time."""

KEY_DIGITS = 64
MARK = 16
"""So many digits of a request's key tell it from all others of a round."""

GIVE_UP_S = 7 * 24 * 3600.0
"""After so long nobody looks any more for the batches of a round that is over; the endpoint ends them after a day."""


def check_batch(team: Sequence[Annotator]) -> None:
    """Refuse a round in batches that cannot be asked in batches, before it begins.

    Raises
    ------
    SettingsError
        If the annotator is no OpenAI-compatible endpoint.
    EndpointError
        If the endpoint has no Batch API.
    """
    from coral_backend.llm.batch import BatchAPI

    with BatchAPI(_asks_in_batches(team[0]).endpoint) as api:
        api.check()


def settle(store: Store, settings: Settings, project: Project, current: Round) -> int:
    """Cancel the open batches of a round that is over, keep the replies they had, and return how many are open still.

    Raises
    ------
    CoralError
        If the endpoint does not answer; to be tried again.
    """
    lease = store.take_lease(f"round-{current.id}")
    if lease is None:
        return sum(batch.open for batch in store.ledger.batches(current.id))
    try:
        with kept_alive(store, lease):
            meter = meter_for(store, settings.model_copy(update={"budget": None}), project, current)
            team = make_team(with_room(settings, project.label_space), _never_embed, store.replies, meter)
            return BatchDesk(store, settings, project, current, lease).end(team)
    finally:
        store.drop_lease(lease)


def told_of(batches: Iterable[Batch]) -> str | None:
    """Say how the open ones of these batches stand, in a few words; None when none is open."""
    waiting = [batch for batch in batches if batch.open]
    requests, done = sum(batch.requests for batch in waiting), sum(batch.done for batch in waiting)
    return f"{len(waiting)} batches open, {done:,} of {requests:,} requests done" if waiting else None


@dataclass(frozen=True)
class BatchDesk:
    """The batches of one round, during one step."""

    store: Store
    settings: Settings
    project: Project
    round: Round
    lease: Lease

    @property
    def batches(self) -> list[Batch]:
        """The round's batches, the oldest first."""
        return self.store.ledger.batches(self.round.id)

    @property
    def open(self) -> list[Batch]:
        """Those of which something may still come."""
        return [batch for batch in self.batches if batch.open]

    def clerk(self, annotator: Annotator) -> Clerk:
        """Return an annotator that asks in batches what `annotator` would ask live.

        Raises
        ------
        SettingsError
            If it is no OpenAI-compatible endpoint.
        """
        return Clerk(self, _asks_in_batches(annotator))

    def collect(self, team: Sequence[Annotator]) -> bool:
        """Look at every open batch, keep what those that ended have brought, and say whether any had ended.

        Raises
        ------
        EndpointError
            If one failed as a whole, was cancelled by somebody else, or expired without a single answer: for a person to see.
        UnavailableError
            If the endpoint does not answer; nothing is lost.
        """
        ended = False
        for batch in self.open:
            with self._api(team) as api:
                remote = self._look(api, batch)
                if remote is not None and remote.status in _ended():
                    self._close(api, batch, remote, team)
                    self._complain(batch, remote)
                    ended = True
        return ended

    def end(self, team: Sequence[Annotator]) -> int:
        """Cancel every open batch, keep what it has brought, and return how many are open still."""
        for batch in self.open:
            with self._api(team) as api:
                remote = self._look(api, batch)
                if remote is None:
                    continue
                if remote.status not in _ended():
                    if remote.status != "cancelling":
                        api.cancel(remote.id)
                    remote = api.look(remote.id)
                if remote.status in _ended():
                    self._close(api, batch, remote, team)
                elif time.time() - batch.created_at > GIVE_UP_S:
                    given_up = replace(batch, status="lost", error="It never ended.")
                    self.store.ledger.close_batch(given_up, (), self.lease)
        return len(self.open)

    def hand_in(self, batch: Batch, file: IO[bytes], team: Sequence[Annotator]) -> None:
        """Have the endpoint begin a batch.

        Raises
        ------
        EndpointError, UnavailableError
            When the endpoint does not take it.
        """
        self.store.ledger.put_batch(batch, self.lease)  # before the endpoint knows of it
        with self._api(team) as api:
            file.seek(0)
            file_id = api.upload(file, f"coral-{batch.key}.jsonl")
            batch = replace(batch, file_id=file_id)
            self.store.ledger.put_batch(batch, self.lease)
            remote = api.create(file_id, batch.key)
        self.store.ledger.put_batch(replace(batch, batch_id=remote.id, status=remote.status), self.lease)
        self._log("batch %s with %d requests", remote.id, batch.requests)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _api(self, team: Sequence[Annotator]) -> BatchAPI:
        from coral_backend.llm.batch import BatchAPI

        return BatchAPI(_asks_in_batches(team[0]).endpoint)

    def _look(self, api: BatchAPI, batch: Batch) -> Remote | None:
        """Return how the endpoint has a batch, and remember it; None, and the batch closed, if it was never created."""
        remote = api.look(batch.batch_id) if batch.batch_id else api.find(batch.key, batch.file_id)
        if remote is None:
            never = replace(
                batch, status="lost", error="The endpoint knows no batch with our key: it was never created."
            )
            self.store.ledger.close_batch(never, (), self.lease)
            return None
        known = replace(batch, batch_id=remote.id, status=remote.status, done=remote.done)
        self.store.ledger.put_batch(known, self.lease)
        return remote

    def _close(self, api: BatchAPI, batch: Batch, remote: Remote, team: Sequence[Annotator]) -> None:
        """Keep the replies of a batch that ended; doing it again after a crash neither keeps nor charges one twice."""
        till = _till_of(batch, team)
        characters = batch.characters // max(1, batch.requests)
        spent: list[Spend] = []
        brought: set[str] = set()
        failed: set[str] = set()
        asked = set(batch.asked)
        ours = (
            line for line in _lines(api, remote) if len(line.custom_id) == KEY_DIGITS and line.custom_id[:MARK] in asked
        )
        for some in _grouped(ours, KEEP):  # a reply to what was not asked would be taken for that of another request
            self.store.replies.put([_reply(line, batch) for line in some if line.body is not None])
            billed = (line for line in some if line.body is not None or line.usage is not None)
            spent += [till.spend(line.usage, characters, batch=True) for line in billed]
            brought |= {line.custom_id[:MARK] for line in some if line.body is not None}
            failed |= {line.custom_id[:MARK] for line in some if line.body is None and not line.expired}
        if remote.status == "completed":  # it got to everything, and said nothing of these
            failed |= asked - brought
        closed = replace(
            batch,
            status=remote.status,
            done=remote.done,
            again=tuple(sorted(failed)),
            error=remote.error,
        )
        self.store.ledger.close_batch(closed, [total(spent)] if spent else (), self.lease)
        self._log("batch %s %s, %d replies, %d to ask live", remote.id, remote.status, len(brought), len(failed))

    def _complain(self, batch: Batch, remote: Remote) -> None:
        if remote.status == "failed" and not (remote.too_many and self.open):
            raise EndpointError(
                f"Batch {remote.id} failed at the endpoint: {remote.error or 'it gave no reason'}. "
                + ("Lower CORAL_BATCH_REQUESTS. " if remote.too_many else "")
                + "coral round --resume hands it in again, --resume --live asks live."
            )
        if remote.status == "cancelled" or (remote.status == "expired" and not remote.done):
            raise EndpointError(
                f"Batch {remote.id} was {remote.status} at the endpoint with {remote.done:,} of {batch.requests:,} requests "
                "done, which are kept. coral round --resume hands the others in again, --resume --live asks them live."
            )

    def _log(self, text: str, *values: object) -> None:
        logger.info("project %d round %s: " + text, self.project.id, self.round.name, *values)  # noqa: G003


class Clerk:
    """An annotator that answers what is known or quickly asked, and hands in files of what is left."""

    is_llm = True

    def __init__(self, desk: BatchDesk, annotator: OpenAIAnnotator) -> None:
        self.name = annotator.name
        self._desk, self._annotator = desk, annotator

    def annotate(self, questions: Iterable[Question], on_answer: OnAnswer, check: Callable[[], None]) -> None:
        """See ``Annotator``; questions that go into a file, or wait in an open batch, are not answered."""
        stream = iter(questions)
        if not self._annotator.is_settled:
            self._annotator.annotate(itertools.islice(stream, PROBES), on_answer, check)
        batches = self._desk.batches
        waiting = {mark for batch in batches if batch.open for mark in batch.asked}
        again = {mark for batch in batches for mark in batch.again}
        with _File(self._desk, self._annotator) as file:
            for group in _grouped(stream, GROUP):
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


def _till_of(batch: Batch, team: Sequence[Annotator]) -> Till:
    """Return where a batch is paid: at its annotator's, also when the settings name others by now."""
    known = next((one for one in team if one.name == batch.annotator), None)
    if known is not None:
        return _asks_in_batches(known).till()
    one = _asks_in_batches(team[0])
    return one.meter.till(batch.annotator, one.endpoint.base_url, batch.annotator.partition(":")[2])


def _reply(line: Line, batch: Batch) -> Reply:
    usage = line.usage
    tokens = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, 0)
    return Reply(line.custom_id, line.body or "", batch.annotator.partition(":")[2], *tokens)


def _lines(api: BatchAPI, remote: Remote) -> Iterator[Line]:
    for file_id in (remote.output_file, remote.error_file):
        if file_id is not None:
            yield from api.lines(file_id)


def _grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    stream = iter(items)
    while group := list(itertools.islice(stream, size)):
        yield group


def _ended() -> frozenset[str]:
    from coral_backend.llm.batch import ENDED

    return ENDED


def _asks_in_batches(annotator: Annotator) -> OpenAIAnnotator:
    from coral_backend.llm.openai import OpenAIAnnotator

    if not isinstance(annotator, OpenAIAnnotator):
        raise SettingsError(
            f"--batch needs an OpenAI-compatible endpoint, and {annotator.name} is none. Set OPENAI_API_KEY or "
            "OPENAI_BASE_URL, or leave --batch and CORAL_BATCH away."
        )
    return annotator


def _never_embed(_: Sequence[str]) -> Floats:
    raise AssertionError("no batch embeds a text")
