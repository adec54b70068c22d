"""A scripted OpenAI-compatible endpoint as a process of its own: fast enough to measure clients with, and strict.

``python -m tests.scripted_openai --port 0 --latency-ms 200 --rpm 3000 --faults 0.05 --replay FILE.csv.gz``

It prints one line of JSON with its port. ``GET /stats`` says what it was asked, ``POST /reset`` forgets it. The limit is strict: in no
window of a minute, wherever one begins, are more requests (tokens) accepted. The label of a text is the one recorded for the
request's model in the replayed file, else one of the schema's labels that depends on the text alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import gzip
import hashlib
import io
import json
import random
import re
import resource
import selectors
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

_BETWEEN_MARKS = re.compile(r"(<<<[0-9a-f]{24}>>>)\n(.*)\n\1", re.DOTALL)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
FALLBACK_LABELS = ("positive", "negative")
LOGPROBS = ("true", "fake", "absent", "refused")
PAID_KINDS = frozenset({"ok", "drip", "wrong_label", "refusal"})
"""Kinds of reply that are completions: whoever gets two for the same request has paid twice."""


@dataclass
class Script:
    """How the endpoint behaves.

    Attributes
    ----------
    latency_s : float
        Before each reply.
    faults : float
        Share of requests that meet a fault, every kind as often as the others.
    rpm, tpm : int or None
        Most requests and tokens in any window of `window_s` seconds.
    answers : mapping
        ``(model, text)`` to the recorded answer.
    drip_s : float
        Between two bytes of a reply that drips.
    """

    latency_s: float = 0.0
    faults: float = 0.0
    rpm: int | None = None
    tpm: int | None = None
    window_s: float = 60.0
    answers: Mapping[tuple[str, str], str] = field(default_factory=dict)
    logprobs: str = "true"
    drip_s: float = 0.05
    seed: int = 0
    count_requests: bool = True


@dataclass
class Stats:
    """What was asked and answered."""

    requests: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    keys: dict[bytes, int] = field(default_factory=dict)
    paid: dict[bytes, int] = field(default_factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    accepted_at: deque[float] = field(default_factory=deque)

    def to_json(self) -> dict[str, Any]:
        """Return the figures; ``asked_twice`` and ``paid_twice`` count requests beyond the first with the same body."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "requests": self.requests,
            "kinds": dict(self.kinds),
            "distinct": len(self.keys),
            "asked_twice": sum(n - 1 for n in self.keys.values()),
            "paid_twice": sum(n - 1 for n in self.paid.values()),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "accepted_at": list(self.accepted_at),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }


class Window:
    """A limit that holds for every window of `seconds`, wherever it begins."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._taken: deque[tuple[float, int]] = deque()
        self._sum = 0

    def room(self, amount: int, now: float) -> bool:
        """Say whether `amount` fits now."""
        while self._taken and self._taken[0][0] <= now - self._seconds:
            self._sum -= self._taken.popleft()[1]
        return self._sum + amount <= self._most

    def take(self, amount: int, now: float) -> None:
        """Count `amount`."""
        self._taken.append((now, amount))
        self._sum += amount

    def opens_in(self, now: float) -> float:
        """Return the seconds until the oldest entry leaves the window."""
        return max(0.0, self._taken[0][0] + self._seconds - now) if self._taken else 0.0


class Endpoint:
    """Decides what to answer; knows nothing of sockets but how to write to one."""

    def __init__(self, script: Script) -> None:
        self.script, self.stats = script, Stats()
        self.rng = random.Random(script.seed)
        self.requests = Window(script.rpm, script.window_s) if script.rpm else None
        self.tokens = Window(script.tpm, script.window_s) if script.tpm else None

    def handle(self, method: str, path: str, body: bytes, wire: Wire) -> None:
        """Answer one request."""
        if method == "GET" and path == "/stats":
            wire.send(200, json.dumps(self.stats.to_json()).encode())
        elif method == "POST" and path == "/reset":
            self.stats = Stats()
            wire.send(200, b"{}")
        elif method == "POST" and path.endswith("/chat/completions"):
            self._complete(body, wire)
        else:
            wire.send(404, error("no such path"))

    def _complete(self, body: bytes, wire: Wire) -> None:
        stats, now = self.stats, time.monotonic()
        stats.requests += 1
        stats.in_flight += 1
        stats.most_in_flight = max(stats.most_in_flight, stats.in_flight)
        request = json.loads(body)
        key = hashlib.blake2b(body, digest_size=12).digest()
        if self.script.count_requests:
            stats.keys[key] = stats.keys.get(key, 0) + 1
        kind, send = self._reply(request, body, now)
        stats.kinds[kind] += 1
        if kind in PAID_KINDS and self.script.count_requests:
            stats.paid[key] = stats.paid.get(key, 0) + 1
        asyncio.get_running_loop().call_later(self.script.latency_s, self._send, send, wire)

    def _send(self, send: Callable[[Wire], None], wire: Wire) -> None:
        self.stats.in_flight -= 1
        send(wire)

    def _reply(self, request: dict[str, Any], body: bytes, now: float) -> tuple[str, Callable[[Wire], None]]:
        tokens = len(body) // 4 + 8
        if (limited := self._over_limit(tokens, now)) is not None:
            return "limited", limited
        if self.rng.random() < self.script.faults:
            kind = self.rng.choice(list(FAULTS))
            return kind, FAULTS[kind](self, request)
        if request.get("logprobs") and self.script.logprobs == "refused":
            return "logprobs_refused", lambda wire: wire.send(400, error("logprobs are not supported"))
        return "ok", lambda wire: wire.send(200, self.completion(request, tokens))

    def _over_limit(self, tokens: int, now: float) -> Callable[[Wire], None] | None:
        for window, amount in ((self.requests, 1), (self.tokens, tokens)):
            if window is not None and not window.room(amount, now):
                wait = f"{window.opens_in(now):.3f}"
                return lambda wire: wire.send(429, error("rate limit"), {"Retry-After": wait})
        for window, amount in ((self.requests, 1), (self.tokens, tokens)):
            if window is not None:
                window.take(amount, now)
        if self.requests is not None:
            self.stats.accepted_at.append(now)
        return None

    def completion(self, request: Mapping[str, Any], tokens: int, *, content: str | None = None) -> bytes:
        """Return a completion that names the text's label, in JSON if a schema was sent."""
        text = text_of(request)
        if content is None:
            answer = self._label(request, text)
            content = json.dumps({"label": answer}) if "response_format" in request else answer
        return _completion(str(request.get("model")), content, self._logprob(request, content, text), tokens)

    def _label(self, request: Mapping[str, Any], text: str) -> str:
        if self.script.answers:
            return self.script.answers.get((str(request.get("model")), text), "no answer was recorded for this text")
        labels = labels_of(request)
        return labels[int(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8], 16) % len(labels)]

    def _logprob(self, request: Mapping[str, Any], content: str, text: str) -> float | None:
        """Return the log-probability of every token of the answer; None where there is none."""
        if not request.get("logprobs") or self.script.logprobs == "absent":
            return None
        digest = hashlib.sha256(content.encode() + text.encode("utf-8", "replace")).digest()
        return 0.0 if self.script.logprobs == "fake" else -digest[0] / 256


@lru_cache(maxsize=20_000)
def _completion(model: str, content: str, logprob: float | None, tokens: int) -> bytes:
    """Return the body of a completion; kept, since the endpoint must not be what is measured."""
    parts = re.findall(r"\w+|\W+", content)
    said = [
        {"token": part, "logprob": logprob, "top_logprobs": [{"token": part, "logprob": logprob}]} for part in parts
    ]
    message = {"role": "assistant", "content": content, "refusal": None}
    logprobs = None if logprob is None else {"content": said, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
    usage = {"prompt_tokens": tokens - 8, "completion_tokens": 8, "total_tokens": tokens}
    head = {"id": "chatcmpl-scripted", "object": "chat.completion", "created": 1, "model": model}
    return json.dumps({**head, "choices": [choice], "usage": usage}).encode()


class Wire(asyncio.Protocol):
    """One connection: HTTP/1.1 with a length, and nothing else."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand over every request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            found = _LENGTH.search(head)
            length = int(found[1]) if found else 0
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            method, path = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
            self._endpoint.handle(method, path, body, self)

    def send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        kind: str = "application/json",
        promised: int | None = None,
    ) -> None:
        """Send a reply; `promised` is a length other than the body's."""
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {promised or len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def send_slowly(self, body: bytes, pause_s: float) -> None:
        """Send a reply byte after byte."""
        self.send(200, b"", promised=len(body))
        self._drip(body, 0, pause_s)

    def _drip(self, body: bytes, at: int, pause_s: float) -> None:
        if at < len(body) and not self._transport.is_closing():
            self._transport.write(body[at : at + 1])
            asyncio.get_running_loop().call_later(pause_s, self._drip, body, at + 1, pause_s)

    def hang_up(self) -> None:
        """Close after what was sent."""
        self._transport.close()

    def reset(self) -> None:
        """Reset the connection."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


# --- faults --------------------------------------------------------------------------------------------------------

Fault = Callable[[Endpoint, dict[str, Any]], Callable[[Wire], None]]


def _status(code: int, headers: Callable[[], Mapping[str, str]] = dict) -> Fault:
    return lambda endpoint, request: lambda wire: wire.send(code, error("scripted"), headers())


def _body(change: Callable[[bytes], bytes], *, kind: str = "application/json") -> Fault:
    def fault(endpoint: Endpoint, request: dict[str, Any]) -> Callable[[Wire], None]:
        return lambda wire: wire.send(200, change(endpoint.completion(request, 48)), kind=kind)

    return fault


def _content(content: str) -> Fault:
    return lambda endpoint, request: lambda wire: wire.send(200, endpoint.completion(request, 48, content=content))


def _refusal(endpoint: Endpoint, request: dict[str, Any]) -> Callable[[Wire], None]:
    body = json.loads(endpoint.completion(request, 48))
    body["choices"][0]["message"] |= {"content": None, "refusal": "I cannot judge this."}
    return lambda wire: wire.send(200, json.dumps(body).encode())


def _drip(endpoint: Endpoint, request: dict[str, Any]) -> Callable[[Wire], None]:
    return lambda wire: wire.send_slowly(endpoint.completion(request, 48), endpoint.script.drip_s)


def _half(endpoint: Endpoint, request: dict[str, Any]) -> Callable[[Wire], None]:
    def send(wire: Wire) -> None:
        body = endpoint.completion(request, 48)
        wire.send(200, body[: len(body) // 2], promised=len(body))
        wire.hang_up()

    return send


FAULTS: dict[str, Fault] = {
    "429_seconds": _status(429, lambda: {"Retry-After": "1"}),
    "429_date": _status(429, lambda: {"Retry-After": formatdate(time.time() + 1, usegmt=True)}),
    "429_ms": _status(429, lambda: {"Retry-After-Ms": "150"}),
    "429_bare": _status(429),
    "429_absurd": _status(429, lambda: {"Retry-After": "next Tuesday, perhaps"}),
    "500": _status(500),
    "html": _body(lambda _: b"<!DOCTYPE html><html>Sign in</html>", kind="text/html"),
    "broken_json": _body(lambda body: body[: len(body) // 2]),
    "truncated": _half,
    "choices_null": _body(lambda _: b'{"choices": null}'),
    "refusal": _refusal,
    "drip": _drip,
    "reset": lambda endpoint, request: Wire.reset,
    "wrong_label": _content('{"label": "none of yours"}'),
}
"""Every kind of fault, by its name in the figures."""


def error(message: str) -> bytes:
    """Return an error as OpenAI words it."""
    return json.dumps({"error": {"message": message, "type": "scripted", "code": "scripted"}}).encode()


def text_of(request: Mapping[str, Any]) -> str:
    """Return the text to label: what stands between the marks of the first user message."""
    found = _BETWEEN_MARKS.search(request["messages"][1]["content"])
    return found[2] if found else str(request["messages"][-1]["content"])


def labels_of(request: Mapping[str, Any]) -> Sequence[str]:
    """Return the labels of the request's schema."""
    try:
        schema = request["response_format"]["json_schema"]["schema"]
        return cast("list[str]", schema["properties"]["label"]["enum"])
    except (KeyError, TypeError):
        return FALLBACK_LABELS


def recorded(path: Path) -> dict[tuple[str, str], str]:
    """Read the answers of a CSV file with columns text, llm_name and llm_label, and perhaps ``llm__<model>`` for more models."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    answers: dict[tuple[str, str], str] = {}
    for row in csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")):
        text = row["text"]
        answers[row["llm_name"], text] = row["llm_label"]
        answers |= {(name[5:], text): value for name, value in row.items() if name.startswith("llm__")}
    return answers


async def serve(script: Script, port: int) -> None:
    """Answer on loopback until cancelled."""
    endpoint = Endpoint(script)
    server = await asyncio.get_running_loop().create_server(lambda: Wire(endpoint), "127.0.0.1", port, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)  # noqa: T201 - the caller reads it
    async with server:
        await server.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.scripted_openai", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--replay", type=Path, help="CSV (.gz) with recorded answers")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that meet a fault")
    parser.add_argument("--rpm", type=int, help="most requests in any window")
    parser.add_argument("--tpm", type=int, help="most tokens in any window")
    parser.add_argument("--window-s", type=float, default=60.0)
    parser.add_argument("--logprobs", choices=LOGPROBS, default="true")
    parser.add_argument("--drip-s", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-count", action="store_true", help="do not remember the requests, for very many of them")
    options = parser.parse_args(argv)
    script = Script(
        latency_s=options.latency_ms / 1000,
        faults=options.faults,
        rpm=options.rpm,
        tpm=options.tpm,
        window_s=options.window_s,
        answers=recorded(options.replay) if options.replay else {},
        logprobs=options.logprobs,
        drip_s=options.drip_s,
        seed=options.seed,
        count_requests=not options.no_count,
    )
    # select waits to the microsecond, the loop's usual epoll to the millisecond: a latency would be half of one too long.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serve(script, options.port))
