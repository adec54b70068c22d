"""A scripted stand-in for an OpenAI-compatible endpoint, on loopback: the one part that tests cannot have for real, as it is paid.

It speaks real HTTP, so that what is tested is the whole client with its sockets. Replies come from a queue (``script``), and
when that is empty from a callable (``answer``). ``history`` keeps every request for a test to assert on::

    with ScriptedOpenAI() as server:
        server.script += [status(429, {"Retry-After": "1"}), html()]
        annotator = OpenAIAnnotator(Endpoint(server.base_url, key="test-key", model="scripted"))
        ...
        assert len(server.history) == 3

As a process it is the fast and strict one of ``tests/scripted_server.py``: ``python -m tests.scripted_openai --help``.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast

_BETWEEN_MARKS = re.compile(r"(<<<[0-9a-f]{24}>>>)\n(.*)\n\1", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """One request as it arrived.

    Attributes
    ----------
    number : int
        0 for the first request of the server's life.
    headers : mapping
        By lower-case name.
    """

    number: int
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat messages."""
        return cast(list[dict[str, str]], self.body["messages"])

    @property
    def text(self) -> str:
        """The text to label: what stands between the marks of the first user message."""
        found = _BETWEEN_MARKS.search(self.messages[1]["content"])
        assert found is not None, "a request without marks"
        return found.group(2)

    @property
    def is_repair(self) -> bool:
        """Whether it asks a second time, after an answer that named no label."""
        return len(self.messages) > 2


@dataclass(frozen=True)
class Reply:
    """What to answer, and how badly.

    Attributes
    ----------
    delay_s : float
        Wait before the first byte.
    drip_s : float or None
        Wait before every single byte of the body.
    cut : int or None
        Send so many bytes of the body, promise all of them, and close.
    reset : bool
        Send nothing and reset the connection.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float | None = None
    cut: int | None = None
    reset: bool = False


def completion(
    content: object, *, finish_reason: str = "stop", refusal: str | None = None, usage: object = None, **reply: Any
) -> Reply:
    """Return a well-formed chat completion that says `content`."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    usage = {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45} if usage is None else usage
    body = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": usage,
    }
    return json_reply(body, **reply)


def label(name: str, **reply: Any) -> Reply:
    """Return the completion of an endpoint that obeys the JSON schema."""
    return completion(json.dumps({"label": name}), **reply)


def json_reply(body: object, **reply: Any) -> Reply:
    """Return any JSON."""
    return Reply(body=json.dumps(body).encode(), **{"headers": {"Content-Type": "application/json"}, **reply})


def status(
    code: int, headers: Mapping[str, str] | None = None, *, message: str = "refused", error: str = "scripted"
) -> Reply:
    """Return a refusal as OpenAI words it."""
    body = {"error": {"message": message, "type": error, "code": error, "param": None}}
    return json_reply(body, status=code, headers={"Content-Type": "application/json", **(headers or {})})


def html() -> Reply:
    """Return a proxy's page with status 200."""
    return Reply(body=b"<!DOCTYPE html><html><body>Sign in</body></html>", headers={"Content-Type": "text/html"})


def truncated(reply: Reply) -> Reply:
    """Return `reply` ending after half of its bytes, with the length of all of it promised."""
    return replace(reply, cut=len(reply.body) // 2)


def reset() -> Reply:
    """Return a connection that is reset."""
    return Reply(reset=True)


class Served:
    """HTTP on loopback in a thread; a subclass says what to answer."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._http = _Server(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def take(self, method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        """Return the reply to one request; header names are in lower case."""
        raise NotImplementedError

    def done(self) -> None:
        """Note that a reply was sent, or could not be."""

    @property
    def base_url(self) -> str:
        """What goes into ``OPENAI_BASE_URL``."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than the server lives."""
        if seconds > 0:
            self._closing.wait(seconds)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, served: Served) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.served = served

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up in the middle is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        served = cast(_Server, self.server).served
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = served.take(self.command, self.path, headers, self._content(headers))
        try:
            served.wait(reply.delay_s)
            self._send(reply, served)
        finally:
            served.done()

    def _content(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(headers.get("content-length", "0")))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().strip() or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, reply: Reply, served: Served) -> None:
        if reply.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        body = reply.body if reply.cut is None else reply.body[: reply.cut]
        if reply.drip_s is None:
            self.wfile.write(body)
        else:
            for byte in body:
                served.wait(reply.drip_s)
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        self.close_connection = self.close_connection or reply.cut is not None


class ScriptedOpenAI(Served):
    """The server.

    Parameters
    ----------
    answer : callable, optional
        What to reply when the script is empty; by default the label ``"positive"``.

    Attributes
    ----------
    script : deque of Reply
        Replies to the next requests, in the order in which they arrive.
    history : list of Call
        All requests so far.
    most_in_flight : int
        Most requests that were being answered at the same time.
    """

    def __init__(self, answer: Callable[[Call], Reply] | None = None) -> None:
        super().__init__()
        self.answer = answer or (lambda call: label("positive"))
        self.script: deque[Reply] = deque()
        self.history: list[Call] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self._lock = threading.Lock()

    def take(self, method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        """Note a request and return the reply to it; there is nothing to get here."""
        with self._lock:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            if method != "POST":
                return status(404, message="no such path")
            call = Call(len(self.history), path, headers, json.loads(content or b"{}"))
            self.history.append(call)
            scripted = self.script.popleft() if self.script else None
        return scripted if scripted is not None else self.answer(call)

    def done(self) -> None:
        """Note that a reply was sent, or could not be."""
        with self._lock:
            self._in_flight -= 1


if __name__ == "__main__":
    from tests.scripted_server import main

    main()
