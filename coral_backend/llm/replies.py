"""Was this asked before? Every completion is kept under its request, so that nothing is paid twice.

What is kept is what was paid for: completions, also such as name no label, were cut or refused, for at temperature 0 the same
request would get the same again (and the token limit is a part of the request). A failure is never kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from coral_backend.llm.parse import Completion, ReplyError, read_reply
from coral_backend.types import Reply

if TYPE_CHECKING:
    from coral_backend.llm.base import Question

LONGEST_BODY = 256_000
"""A longer reply is not kept: it is no label."""

IN_MEMORY = 20_000
"""Replies that ``MemoryReplies`` holds; some ten megabytes."""


class Replies(Protocol):
    """Where completions and what is known of endpoints are kept; ``store.replies`` is one."""

    def together(self) -> AbstractContextManager[None]:
        """Commit what is written in the block, replies and labels, in one transaction."""
        ...

    def find(self, keys: Collection[str]) -> Mapping[str, Reply]:
        """Return the replies that are known, by key."""
        ...

    def put(self, replies: Sequence[Reply]) -> None:
        """Keep replies; the first to a request stays."""
        ...

    def tidy(self) -> None:
        """Do now and then what a writer would have to wait for; called in a thread of its own."""
        ...

    def accepts(self, base_url: str, model: str, *, since: float) -> Mapping[str, Any] | None:
        """Return what an endpoint was found to accept after `since` (seconds since the epoch); None if nothing is known."""
        ...

    def put_accepts(self, base_url: str, model: str, accepts: Mapping[str, Any]) -> None:
        """Remember what an endpoint accepts."""
        ...


class MemoryReplies:
    """Replies in this process's memory, the newest ``IN_MEMORY`` of them: for annotators without a store."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        self._accepts: dict[tuple[str, str], Mapping[str, Any]] = {}

    def together(self) -> AbstractContextManager[None]:
        """Nothing is to commit."""
        return nullcontext()

    def find(self, keys: Collection[str]) -> Mapping[str, Reply]:
        """See ``Replies``."""
        return {key: self._replies[key] for key in keys if key in self._replies}

    def put(self, replies: Sequence[Reply]) -> None:
        """See ``Replies``."""
        for reply in replies:
            self._replies.setdefault(reply.key, reply)
        while len(self._replies) > IN_MEMORY:
            self._replies.popitem(last=False)

    def tidy(self) -> None:
        """Nothing is to do."""

    def accepts(self, base_url: str, model: str, *, since: float) -> Mapping[str, Any] | None:  # noqa: ARG002
        """See ``Replies``; what this process found out is never too old for it."""
        return self._accepts.get((base_url, model))

    def put_accepts(self, base_url: str, model: str, accepts: Mapping[str, Any]) -> None:
        """See ``Replies``."""
        self._accepts[base_url, model] = accepts


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class Keys:
    """Makes the keys of requests to one endpoint and model.

    A request is what CORAL wants to ask, before optional parts are left out that the endpoint does not accept: so a key does
    not depend on what was known of the endpoint when it was made.
    """

    def __init__(self, base_url: str, model: str, max_tokens: int) -> None:
        self._endpoint = [base_url.rstrip("/"), model, max_tokens]

    def of(self, question: Question, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the SHA-256 of the canonical request in hex; `messages` are those of the question, or of its repair."""
        prompt = question.prompt
        asked = [prompt.version, prompt.labels, question.draw, question.temperature, question.logprobs]
        return hashlib.sha256(_CANONICAL.encode([*self._endpoint, *asked, messages]).encode()).hexdigest()


def completion_of(reply: Reply | None) -> Completion | None:
    """Return the completion that a kept reply holds; None without one, or if another version of CORAL wrote it."""
    try:
        return read_reply(reply.body.encode()) if reply is not None else None
    except ReplyError:
        return None
