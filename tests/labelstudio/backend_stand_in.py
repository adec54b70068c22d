"""A tiny HTTP server on loopback in the place of our backend: answers as told and remembers what it was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class StandIn:
    """What the server knows; `answer` is (status, headers, body) for every request."""

    url: str
    answer: tuple[int, dict[str, str], bytes] = (
        200,
        {"Content-Type": "application/json"},
        b'{"model_version": "coral-r1"}',
    )
    seen: list[Seen] = field(default_factory=list)
    arrived: Condition = field(default_factory=Condition)

    def wait_for(self, path: str, timeout: float = 20.0) -> Seen:
        """Return the first request to `path`, waiting for it if need be."""
        with self.arrived:
            self.arrived.wait_for(lambda: any(one.path == path for one in self.seen), timeout)
            return next(one for one in self.seen if one.path == path)


@contextmanager
def backend_stand_in() -> Iterator[StandIn]:
    """Serve on a free port of 127.0.0.1."""
    stand_in = StandIn("")

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(raw) if raw and "json" in (self.headers.get("Content-Type") or "") else raw
            with stand_in.arrived:
                stand_in.seen.append(Seen(self.command, self.path, dict(self.headers.items()), body))
                stand_in.arrived.notify_all()
            status, headers, content = stand_in.answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - as the base class wants them

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """Say nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
