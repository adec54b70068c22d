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
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, TypeVar

from coral_backend.annotate import make_team
from coral_backend.costs import meter_for
from coral_backend.exceptions import EndpointError, SettingsError
from coral_backend.heartbeat import kept_alive
from coral_backend.llm.base import Annotator
from coral_backend.llm.spend import Till, total
from coral_backend.settings import Settings
from coral_backend.store import Lease, Store
from coral_backend.task_prompt import with_room
from coral_backend.types import Batch, Floats, Project, Reply, Round, Spend

if TYPE_CHECKING:  # the SDK takes a second to import
    from coral_backend.llm.batch import BatchAPI, Line, Remote
    from coral_backend.llm.openai import OpenAIAnnotator

T = TypeVar("T")

logger = logging.getLogger(__name__)

__all__ = ["MARK", "BatchDesk", "asks_in_batches", "check_batch", "grouped", "settle", "told_of"]

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

    with BatchAPI(asks_in_batches(team[0]).endpoint) as api:
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

        return BatchAPI(asks_in_batches(team[0]).endpoint)

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
        for some in grouped(ours, KEEP):  # a reply to what was not asked would be taken for that of another request
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


def _till_of(batch: Batch, team: Sequence[Annotator]) -> Till:
    """Return where a batch is paid: at its annotator's, also when the settings name others by now."""
    known = next((one for one in team if one.name == batch.annotator), None)
    if known is not None:
        return asks_in_batches(known).till()
    one = asks_in_batches(team[0])
    return one.meter.till(batch.annotator, one.endpoint.base_url, batch.annotator.partition(":")[2])


def _reply(line: Line, batch: Batch) -> Reply:
    usage = line.usage
    tokens = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, 0)
    return Reply(line.custom_id, line.body or "", batch.annotator.partition(":")[2], *tokens)


def _lines(api: BatchAPI, remote: Remote) -> Iterator[Line]:
    for file_id in (remote.output_file, remote.error_file):
        if file_id is not None:
            yield from api.lines(file_id)


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield `items` in lists of `size`; the last may be shorter."""
    stream = iter(items)
    while group := list(itertools.islice(stream, size)):
        yield group


def _ended() -> frozenset[str]:
    from coral_backend.llm.batch import ENDED

    return ENDED


def asks_in_batches(annotator: Annotator) -> OpenAIAnnotator:
    """Return `annotator` as one that has a Batch API.

    Raises
    ------
    SettingsError
        If it is no OpenAI-compatible endpoint.
    """
    from coral_backend.llm.openai import OpenAIAnnotator

    if not isinstance(annotator, OpenAIAnnotator):
        raise SettingsError(
            f"--batch needs an OpenAI-compatible endpoint, and {annotator.name} is none. Set OPENAI_API_KEY or "
            "OPENAI_BASE_URL, or leave --batch and CORAL_BATCH away."
        )
    return annotator


def _never_embed(_: Sequence[str]) -> Floats:
    raise AssertionError("no batch embeds a text")
