"""How does a round ask through a Batch API, which may take a day, without holding a worker?

Each step of the round hands in a file, or looks at the batches it has, reads what has ended, and goes; the ticker asks for the
next look. The database knows every batch before the endpoint does, and its id as soon as there is one: a step that is killed
between the two finds the batch again by our key, which the endpoint keeps as metadata.

What a batch brings no usable answer to (an error, a label that does not exist, a cut answer) is asked live, once, with the
repair and the abstention of every live question: some few requests now instead of another day of waiting. What it did not get
to (expired) goes into the next batch.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

from coral_backend.costs import past_spend
from coral_backend.exceptions import EndpointError, SettingsError
from coral_backend.heartbeat import kept_alive
from coral_backend.llm.base import Annotator, abstained, make_annotator
from coral_backend.llm.prices import PriceTable
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.spend import Meter, total
from coral_backend.llm.tokens import TokenCounter, at_most
from coral_backend.settings import Settings
from coral_backend.store import Lease, Store
from coral_backend.types import Batch, Floats, Project, Round, Sample, Spend

if TYPE_CHECKING:
    from coral_backend.llm.batch import BatchAPI, Line, Remote
    from coral_backend.llm.openai import OpenAIAnnotator

logger = logging.getLogger(__name__)

__all__ = ["BatchDesk", "check_batch", "settle"]

PROBES = 3
"""Texts asked live before a file is handed in: they find out what the endpoint accepts, which a whole file must not get wrong."""

MARGIN = 1.5
"""A file of requests is reserved with so many times their learned tokens: over thousands of them the mean is sure."""

GIVE_UP_S = 7 * 24 * 3600.0
"""After so long nobody looks any more for the batches of a round that is over; the endpoint ends them after a day."""


def check_batch(settings: Settings) -> None:
    """Refuse a round in batches that cannot be asked in batches, before it begins.

    Raises
    ------
    SettingsError
        If the annotator is no OpenAI-compatible endpoint.
    EndpointError
        If the endpoint has no Batch API.
    """
    from coral_backend.llm.batch import BatchAPI

    annotator = _asks_in_batches(make_annotator(settings, _never_embed, Meter.free()))
    with BatchAPI(annotator.endpoint) as api:
        api.check()


def settle(store: Store, settings: Settings, project: Project, current: Round, prompt: Prompt) -> int:
    """Cancel the open batches of a round that is over, keep the answers they had, and return how many are open still.

    Raises
    ------
    CoralError
        If the endpoint does not answer; to be tried again.
    """
    lease = store.take_lease(f"round-{current.id}")
    if lease is None:
        return sum(batch.open for batch in store.batches(current.id))
    try:
        with kept_alive(store, lease):
            annotator = make_annotator(settings, _never_embed, Meter(PriceTable.load(settings.prices)))
            desk = BatchDesk(
                store, settings, project=project, current=current, lease=lease, annotator=annotator, prompt=prompt
            )
            return desk.end()
    finally:
        store.drop_lease(lease)


@dataclass(frozen=True)
class _Item:
    """One line of a file: a text, and the samples that have it."""

    text: str
    samples: list[Sample]

    @property
    def custom_id(self) -> str:
        return _custom_id(self.samples[0])


class BatchDesk:
    """The batches of one round, during one step.

    Parameters
    ----------
    prompt : Prompt
        The round's; its demonstrations are kept with the round, so that it is the same in every step.

    Raises
    ------
    SettingsError
        If `annotator` is no OpenAI-compatible endpoint.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        project: Project,
        current: Round,
        lease: Lease,
        annotator: Annotator,
        prompt: Prompt,
    ) -> None:
        self._store, self._settings, self._project, self._round = store, settings, project, current
        self._lease, self._prompt = lease, prompt
        self._annotator = _asks_in_batches(annotator)
        endpoint = self._annotator.endpoint
        self._till = self._annotator.meter.till(self._annotator.name, endpoint.base_url, endpoint.model)

    @property
    def batches(self) -> list[Batch]:
        """The round's batches, the oldest first."""
        return self._store.batches(self._round.id)

    @property
    def is_settled(self) -> bool:
        """Whether it is known what the endpoint accepts."""
        return self._annotator.is_settled

    @property
    def open(self) -> list[Batch]:
        """Those of which something may still come."""
        return [batch for batch in self.batches if batch.open]

    def collect(self) -> bool:
        """Look at every open batch, store what those that ended have brought, and say whether any had ended.

        Raises
        ------
        EndpointError
            If one failed as a whole, was cancelled by somebody else, or expired without a single answer: for a person to see.
        UnavailableError
            If the endpoint does not answer; nothing is lost.
        """
        ended = False
        with self._api() as api:
            for batch in self.open:
                remote = self._look(api, batch)
                if remote is not None and remote.status in _ended():
                    self._close(api, batch, remote)
                    ended = True
                    self._complain(batch, remote)
        return ended

    def end(self) -> int:
        """Cancel every open batch, keep what it has brought, and return how many are open still."""
        with self._api() as api:
            for batch in self.open:
                remote = self._look(api, batch)
                if remote is None:
                    continue
                if remote.status not in _ended():
                    if remote.status != "cancelling":
                        api.cancel(remote.id)
                    remote = api.look(remote.id)
                if remote.status in _ended():
                    self._close(api, batch, remote)
                elif time.time() - batch.created_at > GIVE_UP_S:
                    self._store.close_batch(replace(batch, status="lost", error="It never ended."), (), self._lease)
        return len(self.open)

    def split(self, todo: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Return which samples go into the next batch, and which are asked live; those in an open batch are in neither."""
        waiting = {task_id for batch in self.open for task_id in batch.task_ids}
        again = {task_id for batch in self.batches for task_id in batch.again}
        left = [sample for sample in todo if sample.task_id not in waiting]
        live = [s for s in left if s.task_id in again or abstained(s, "") is not None]
        asked_live = {sample.task_id for sample in live}
        return [sample for sample in left if sample.task_id not in asked_live], live

    def submit(self, samples: Sequence[Sample]) -> int:
        """Hand in a file with as many of `samples` as it, and the budget, can take; return how many samples those are.

        Raises
        ------
        BudgetError
            When not one of them fits and nothing is open that could free some.
        EndpointError, UnavailableError
            When the endpoint does not take it.
        """
        with tempfile.TemporaryFile() as file:
            batch = self._written(file, samples)
            if batch is None:
                return 0
            self._store.put_batch(batch, self._lease)  # before the endpoint knows of it
            with self._api() as api:
                file_id = api.upload(file, f"coral-{batch.key}.jsonl")
                batch = replace(batch, file_id=file_id)
                self._store.put_batch(batch, self._lease)
                remote = api.create(file_id, batch.key)
            self._store.put_batch(replace(batch, batch_id=remote.id, status=remote.status), self._lease)
        logger.info(
            "project %d round %s: batch %s with %d requests",
            self._project.id,
            self._round.name,
            remote.id,
            batch.requests,
        )
        return len(batch.task_ids)

    def told(self) -> str:
        """Say how the batches stand, in a few words."""
        batches = [batch for batch in self.batches if batch.open]
        requests, done = sum(b.requests for b in batches), sum(b.done for b in batches)
        return f"{len(batches)} batches open, {done:,} of {requests:,} requests done"

    # --- inside ---------------------------------------------------------------------------------------------------

    def _api(self) -> BatchAPI:
        from coral_backend.llm.batch import BatchAPI

        return BatchAPI(self._annotator.endpoint)

    def _look(self, api: BatchAPI, batch: Batch) -> Remote | None:
        """Return how the endpoint has a batch, and remember it; None, and the batch closed, if it was never created."""
        remote = api.look(batch.batch_id) if batch.batch_id else api.find(batch.key, batch.file_id)
        if remote is None:
            never = replace(
                batch, status="lost", error="The endpoint knows no batch with our key: it was never created."
            )
            self._store.close_batch(never, (), self._lease)
            return None
        known = replace(batch, batch_id=remote.id, status=remote.status, done=remote.done)
        self._store.put_batch(known, self._lease)
        return remote

    def _close(self, api: BatchAPI, batch: Batch, remote: Remote) -> None:
        """Store the answers of a batch that ended; doing it again after a crash neither stores nor charges one twice."""
        items = {item.custom_id: item for item in self._items(self._store.samples(self._project.id, batch.task_ids))}
        seen: set[str] = set()
        again: set[int] = set()
        useless: list[Spend] = []
        have = self._store.llm_labels(self._project.id, round_number=self._round.number).keys()
        for line in _lines(api, remote):
            item = items.get(line.custom_id)
            if item is None or line.custom_id in seen:  # the text was edited meanwhile, or the task deleted
                continue
            if line.expired:
                continue
            seen.add(line.custom_id)
            spent = self._spent(line, item)
            if not self._keep(batch, item, line, spent, have):
                again.update(sample.task_id for sample in item.samples)
                useless.extend(spent)
        if remote.status == "completed":  # it got to everything, and said nothing of these
            unseen = (item for custom_id, item in items.items() if custom_id not in seen)
            again.update(sample.task_id for item in unseen for sample in item.samples)
        again -= set(self._store.llm_labels(self._project.id, round_number=self._round.number))
        closed = replace(batch, status=remote.status, done=remote.done, again=tuple(sorted(again)), error=remote.error)
        self._store.close_batch(closed, [total(useless)] if useless else (), self._lease)
        logger.info(
            "project %d round %s: batch %s %s, %d answers, %d to ask again",
            self._project.id,
            self._round.name,
            remote.id,
            remote.status,
            len(seen),
            len(again),
        )

    def _keep(self, batch: Batch, item: _Item, line: Line, spent: list[Spend], have: Iterable[int]) -> bool:
        """Store the answer of one line for the samples that lack it; False if it is none."""
        from coral_backend.llm.batch import answer_of

        if line.completion is None:
            return False
        answer = answer_of(line.completion, batch.labels, self._annotator.name, self._annotator.endpoint)
        if answer.label is None:
            return False
        for place, sample in enumerate(item.samples):
            if sample.task_id not in have:
                self._store.put_llm_label(
                    self._project.id,
                    self._round.number,
                    sample,
                    answer,
                    prompt_version=batch.prompt_version,
                    lease=self._lease,
                    round_id=self._round.id,
                    spent=spent if place == 0 else (),
                )
            answer = replace(answer, prompt_tokens=0, completion_tokens=0)
        return True

    def _spent(self, line: Line, item: _Item) -> list[Spend]:
        if line.usage is None and line.completion is None:
            return []  # refused: nothing was billed
        return [self._till.spend(line.usage, self._prompt.messages(item.text), batch=True)]

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

    def _items(self, samples: Iterable[Sample]) -> Iterator[_Item]:
        """Yield what is asked: each text once."""
        items: dict[str, _Item] = {}
        for sample in samples:
            text = self._prompt.clean(sample.text)
            items.setdefault(text, _Item(text, [])).samples.append(sample)
        return iter(items.values())

    def _written(self, file: IO[bytes], samples: Sequence[Sample]) -> Batch | None:
        """Write requests to `file` until it is full or the budget is; None if not one fits and others are open."""
        from coral_backend.llm.batch import MAX_FILE_BYTES, URL

        task_ids: list[int] = []
        reserved, requests = 0.0, 0
        counter = self._counter()
        for item in self._items(samples):
            body = self._annotator.body(self._prompt, self._prompt.messages(item.text))
            request = {"custom_id": item.custom_id, "method": "POST", "url": URL, "body": body}
            line = json.dumps(request, ensure_ascii=True).encode() + b"\n"
            most = self._most(counter, item)
            if requests >= self._settings.batch_requests or file.tell() + len(line) > MAX_FILE_BYTES:
                break
            if not self._till.meter.fits(reserved + most):
                if requests == 0 and not self.open:
                    raise self._till.meter.exhausted(most)
                break
            file.write(line)
            task_ids.extend(sample.task_id for sample in item.samples)
            reserved, requests = reserved + most, requests + 1
        file.seek(0)
        return self._new(task_ids, requests, reserved) if requests else None

    def _new(self, task_ids: Sequence[int], requests: int, reserved: float) -> Batch:
        return Batch(
            key=uuid.uuid4().hex,
            project_id=self._project.id,
            round_id=self._round.id,
            batch_id=None,
            status="creating",
            open=True,
            task_ids=tuple(task_ids),
            labels=self._prompt.labels,
            prompt_version=self._prompt.version,
            reserved=reserved,
            requests=requests,
        )

    def _counter(self) -> TokenCounter:
        past = past_spend(self._store, self._project.id, self._annotator.name)
        return TokenCounter(self._annotator.endpoint.model, past.characters, past.prompt_tokens)

    def _most(self, counter: TokenCounter, item: _Item) -> float:
        """Return the most that one request of many is reserved with, in USD."""
        if self._till.price is None:
            return 0.0
        messages = self._prompt.messages(item.text)
        tokens: float = at_most(messages, {"response_format": self._prompt.response_format()})
        if counter.how != "default":
            tokens = min(tokens, MARGIN * counter.count(messages))
        return self._till.price.cost(tokens, self._annotator.endpoint.max_tokens, batch=True)


def _lines(api: BatchAPI, remote: Remote) -> Iterator[Line]:
    for file_id in (remote.output_file, remote.error_file):
        if file_id is not None:
            yield from api.lines(file_id)


def _custom_id(sample: Sample) -> str:
    """Return the name of a request: the task, and the text that was asked about, which may be edited meanwhile."""
    return f"{sample.task_id}-{sample.content_hash[:16]}"


def _ended() -> frozenset[str]:
    from coral_backend.llm.batch import ENDED  # the SDK takes a second to import

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
