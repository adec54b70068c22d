"""What can be asked of a Batch API? Hand in a file of requests, look how it goes, read what came of each, cancel it.

The API is OpenAI's: ``/files`` and ``/batches``. Each call is one short request; nothing here waits for a batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Final, Self

import httpx2
import openai

from coral_backend.exceptions import EndpointError, UnavailableError
from coral_backend.llm.client import Endpoint
from coral_backend.llm.parse import ReplyError, read_reply
from coral_backend.llm.prompt import clean
from coral_backend.llm.replies import LONGEST_BODY
from coral_backend.llm.retry import SHORTEST_SECRET, Verdict, advice, judge, scrub
from coral_backend.llm.spend import Usage, usage_of
from coral_backend.llm.transport import CONNECT_TIMEOUT_S

__all__ = ["ENDED", "MAX_FILE_BYTES", "URL", "BatchAPI", "Line", "Remote"]

URL: Final = "/v1/chat/completions"
MAX_FILE_BYTES = 200_000_000
"""OpenAI's limit is 200 MB."""

LONGEST_LINE = 8_000_000
"""In bytes; that of a completion has some thousand."""

TRANSFER_S = 600.0
"""Longest silence while a file is sent or read."""

PAGE = 100
NEWEST = 1_000
"""So many of the newest batches are looked through for one whose id we did not live to store."""

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
KEY = "coral_batch"

_NO_API = frozenset({404, 405, 501})


@dataclass(frozen=True)
class Remote:
    """A batch as the endpoint has it.

    Attributes
    ----------
    status : str
        ``validating``, ``in_progress``, ``finalizing``, ``cancelling``, or one of `ENDED`.
    done : int
        Requests that were finished, well or not.
    error : str or None
        Why it failed as a whole.
    too_many : bool
        It failed because too many tokens wait at the endpoint.
    """

    id: str
    status: str
    output_file: str | None
    error_file: str | None
    done: int
    error: str | None
    too_many: bool


@dataclass(frozen=True)
class Line:
    """What came of one request.

    Attributes
    ----------
    body : str or None
        The JSON of the completion, without the API key; None when there is none.
    expired : bool
        It was never asked: the batch ended before.
    """

    custom_id: str
    body: str | None
    usage: Usage | None = None
    expired: bool = False


class BatchAPI:
    """The Batch API of an endpoint; a context that closes its connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        timeout = httpx2.Timeout(TRANSFER_S, connect=CONNECT_TIMEOUT_S)
        # A redirect would send the texts to an address that nobody set.
        self._http = httpx2.Client(timeout=timeout, follow_redirects=False)
        self._api = openai.OpenAI(
            api_key=endpoint.key, base_url=endpoint.base_url, max_retries=0, http_client=self._http
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def check(self) -> None:
        """Ask whether there is a Batch API at all.

        Raises
        ------
        EndpointError
            If there is none, or it refuses us.
        """
        self._page(limit=1)

    def upload(self, file: IO[bytes], name: str) -> str:
        """Hand in a file of requests, one JSON object a line, and return its id."""
        with self._asking("uploading a file"):
            made: object = self._api.files.create(file=(name, file, "application/jsonl"), purpose="batch")
        return self._id(made, "uploading a file")

    def create(self, file_id: str, key: str) -> Remote:
        """Begin a batch with an uploaded file; `key` is kept with it."""
        with self._asking("creating a batch"):
            made = self._api.batches.create(
                completion_window="24h", endpoint=URL, input_file_id=file_id, metadata={KEY: key}
            )
        self._id(made, "creating a batch")
        return _remote(made, self._key)

    def find(self, key: str, file_id: str | None) -> Remote | None:
        """Return the batch that was created with `key` or from the file, among the newest; None if there is none."""
        after: str | None = None
        for _ in range(0, NEWEST, PAGE):
            rows = self._page(limit=PAGE, after=after)
            for row in rows:
                ours = (row.get("metadata") or {}).get(KEY) == key
                if ours or (file_id is not None and row.get("input_file_id") == file_id):
                    return self.look(str(row["id"]))
            if len(rows) < PAGE:
                break
            after = str(rows[-1]["id"])
        return None

    def look(self, batch_id: str) -> Remote:
        """Return how a batch stands."""
        with self._asking(f"asking for batch {batch_id}", known=True):
            found = self._api.batches.retrieve(batch_id)
        self._id(found, f"asking for batch {batch_id}")
        return _remote(found, self._key)

    def cancel(self, batch_id: str) -> None:
        """Cancel a batch; what was done is still read. One that has ended meanwhile is no error."""
        with self._asking(f"cancelling batch {batch_id}", known=True):
            try:
                self._api.batches.cancel(batch_id)
            except openai.ConflictError:
                return
            except openai.BadRequestError:  # the endpoint's word for "it has ended"
                return

    def lines(self, file_id: str) -> Iterator[Line]:
        """Yield what came of each request in an output or error file; a line that cannot be read is passed over."""
        content = self._api.files.with_streaming_response.content
        with self._asking(f"reading file {file_id}", known=True), content(file_id) as response:
            for raw in _split(response.iter_bytes(1 << 16)):
                line = _line(raw, self._key)
                if line is not None:
                    yield line

    def _page(self, *, limit: int, after: str | None = None) -> list[dict[str, Any]]:
        """Return some of the newest batches; read by ourselves, since the SDK falls over a web page."""
        with self._asking("listing batches"):
            reply = self._api.batches.with_raw_response.list(limit=limit, after=after or openai.omit)
        try:
            rows = json.loads(reply.http_response.content)["data"]
        except (ValueError, KeyError, TypeError):
            rows = None
        if not isinstance(rows, list):
            raise self._none("listing batches is answered with something else")
        return [row for row in rows if isinstance(row, dict) and row.get("id")]

    @contextmanager
    def _asking(self, doing: str, *, known: bool = False) -> Iterator[None]:
        """Turn a refusal into our own error; `known` when the API is known to exist, so that a 404 is about its object."""
        try:
            yield
        except openai.APIStatusError as error:
            said = error.body.get("message") if isinstance(error.body, dict) else None
            text = scrub(said if isinstance(said, str) else error.message, self._key)
            complaint = f"{self._endpoint.base_url}, {doing}: {error.status_code}" + (f" ({text})" if text else "")
            if error.status_code in _NO_API and not known:
                raise self._none(complaint) from None
            verdict = judge(error.status_code, text)
            if verdict is Verdict.RETRY:
                raise UnavailableError(f"The Batch API does not answer now: {complaint}.") from None
            told = advice(error.status_code, self._endpoint.model) if verdict is Verdict.STOP else ""
            raise EndpointError(f"The Batch API refuses: {complaint}. {told}".strip()) from None
        except (openai.APIError, httpx2.HTTPError, ValueError) as error:
            cause = error.__cause__ or error
            detail = scrub(f"{type(cause).__name__} {cause}", self._key)
            raise UnavailableError(f"{self._endpoint.base_url}, {doing}: no answer ({detail}).") from None

    @property
    def _key(self) -> str:
        return self._endpoint.key

    def _id(self, found: object, doing: str) -> str:
        """Return the id of what the SDK made of a reply; from a web page it makes a ``str``."""
        name = getattr(found, "id", None)
        if not isinstance(name, str) or not name:
            raise self._none(f"{doing} is answered with something else")
        return name

    def _none(self, why: str) -> EndpointError:
        return EndpointError(
            f"The LLM endpoint {self._endpoint.base_url} has no Batch API ({why}). Ask live instead: coral round --live "
            "(a round that was begun: coral round --resume --live)."
        )


def _remote(batch: Any, key: str) -> Remote:
    counts = batch.request_counts
    errors = [e for e in (batch.errors.data or [] if batch.errors else []) if e is not None]
    said = "; ".join(scrub(f"{e.code or ''} {e.message or ''}", key)[:200] for e in errors[:3]) or None
    return Remote(
        id=str(batch.id),
        status=str(batch.status),
        output_file=batch.output_file_id or None,
        error_file=batch.error_file_id or None,
        done=(counts.completed or 0) + (counts.failed or 0) if counts else 0,
        error=said,
        too_many=any((e.code or "") == "token_limit_exceeded" for e in errors),
    )


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines; JSON may hold signs that other splitters take for ends of lines. One without end is passed over."""
    rest, skipping = b"", False
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not skipping:
                yield line
            skipping = False
        if len(rest) > LONGEST_LINE:
            rest, skipping = b"", True
    if not skipping:
        yield rest


def _line(raw: bytes, key: str) -> Line | None:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("custom_id"), str):
        return None
    custom_id, response, error = data["custom_id"], data.get("response"), data.get("error")
    if isinstance(response, dict) and response.get("status_code") == 200:
        body = json.dumps(response.get("body"), ensure_ascii=False)
        if len(key) >= SHORTEST_SECRET:
            body = body.replace(key, "[key]")
        try:
            read_reply(body.encode("utf-8", "replace"))
        except ReplyError:
            return Line(custom_id, None, usage_of(response.get("body")))
        usage = usage_of(response.get("body"))
        return (
            Line(custom_id, clean(body, LONGEST_BODY), usage)
            if len(body) <= LONGEST_BODY
            else Line(custom_id, None, usage)
        )
    expired = isinstance(error, dict) and error.get("code") in {"batch_expired", "batch_cancelled"}
    return Line(custom_id, None, expired=expired)
