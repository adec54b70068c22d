"""A scripted Batch API beside the scripted chat endpoint: files, batches, and a clock that the test turns.

A batch that was created waits until the test says ``finish()`` (or ``instant`` is set). What its requests bring is what the chat
endpoint would have answered::

    with ScriptedBatch() as server:
        ...                      # a round hands in its file
        server.finish()          # the endpoint worked through it
        assert server.batches[0]["metadata"] == {"coral_batch": ...}
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from tests.scripted_openai import Call, Reply, Served, completion, label

_PART = re.compile(rb'name="(\w+)"(?:; filename="([^"]*)")?.*?\r\n\r\n(.*)\r\n$', re.DOTALL)


def by_word(call: Call) -> Reply:
    """Answer with the word of the text; "none" is answered with no label."""
    if "none" in call.text and not call.is_repair:
        return completion("perhaps")
    return label("good" if "good" in call.text else "bad")


@dataclass
class ScriptedBatch(Served):
    """The server.

    Attributes
    ----------
    answer : callable
        What a chat request is answered with, live or in a batch.
    live : list of Call
        Live requests so far.
    refuse : dict of str to Reply
        From ``"METHOD /path"`` (without ``/v1``) to what is answered instead.
    fail : callable
        Says of a request's text whether it stands in the error file.
    drop : callable
        Says of a request's text whether it stands in neither file.
    instant : bool
        Batches are finished when they are first looked at.
    """

    answer: Callable[[Call], Reply] = by_word
    fail: Callable[[str], bool] = lambda text: False
    drop: Callable[[str], bool] = lambda text: False
    instant: bool = False
    refuse: dict[str, Reply] = field(default_factory=dict)
    live: list[Call] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        super().__init__()

    # --- what a test does -----------------------------------------------------------------------------------------

    def requests(self, batch: int = -1) -> list[dict[str, Any]]:
        """Return the lines of a batch's file."""
        content = self.files[self.batches[batch]["input_file_id"]]
        return [json.loads(line) for line in content.splitlines()]

    def finish(self, *, status: str = "completed", share: float = 1.0, error: tuple[str, str] | None = None) -> None:
        """End every open batch with `status`, after the first `share` of its requests."""
        for batch in self.batches:
            if batch["status"] in {"validating", "in_progress", "cancelling"}:
                self._end(batch, "cancelled" if batch["status"] == "cancelling" else status, share, error)

    def _end(self, batch: dict[str, Any], status: str, share: float, error: tuple[str, str] | None) -> None:
        batch["status"] = status
        if error is not None:
            batch["errors"] = {"object": "list", "data": [{"code": error[0], "message": error[1]}]}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        upto = round(share * len(lines))
        good, bad = [], []
        for number, line in enumerate(lines):
            call = Call(number, line["url"], {}, line["body"])
            if number >= upto:
                code = "batch_expired" if status == "expired" else "batch_cancelled"
                bad.append(
                    {"custom_id": line["custom_id"], "response": None, "error": {"code": code, "message": "late"}}
                )
            elif self.fail(call.text):
                body = {"error": {"message": "The server had an error.", "code": "server_error"}}
                bad.append(
                    {"custom_id": line["custom_id"], "response": {"status_code": 500, "body": body}, "error": None}
                )
            elif not self.drop(call.text):
                body = json.loads(self.answer(call).body)
                good.append(
                    {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
                )
        # The order of an output file is not that of its input.
        batch["output_file_id"] = self._file(b"".join(json.dumps(o).encode() + b"\n" for o in reversed(good)))
        batch["error_file_id"] = self._file(b"".join(json.dumps(o).encode() + b"\n" for o in bad)) if bad else None
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad) if upto else 0}

    def _file(self, content: bytes) -> str:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content
        return name

    # --- what the endpoint does -----------------------------------------------------------------------------------

    def take(self, method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        """Answer one request."""
        with self._lock:
            route = path.removeprefix("/v1").partition("?")[0]
            self.asked.append(f"{method} {route}")
            instead = self.refuse.get(f"{method} {route}")
            if instead is not None:
                return instead
            return self._routed(method, route, headers, content)

    def _routed(self, method: str, route: str, headers: Mapping[str, str], content: bytes) -> Reply:
        if (method, route) == ("POST", "/chat/completions"):
            call = Call(len(self.live), route, headers, json.loads(content))
            self.live.append(call)
            return self.answer(call)
        if (method, route) == ("POST", "/files"):
            return _json({"id": self._file(_upload(content, headers)), "object": "file", "purpose": "batch"})
        if (method, route) == ("POST", "/batches"):
            return _json(self._create(json.loads(content)))
        if (method, route) == ("GET", "/batches"):
            return _json({"object": "list", "data": self.batches[::-1], "has_more": False})
        kind, _, rest = route.strip("/").partition("/")
        name, _, verb = rest.partition("/")
        if kind == "files" and verb == "content" and name in self.files:
            return Reply(body=self.files[name])
        batch = next((one for one in self.batches if one["id"] == name), None)
        if kind != "batches" or batch is None:
            return _json({"error": {"message": "Not found", "code": "not_found"}}, status=404)
        if verb == "cancel" and batch["status"] in {"validating", "in_progress"}:
            batch["status"] = "cancelling"
        elif self.instant and batch["status"] == "in_progress":
            self._end(batch, "completed", 1.0, None)
        elif batch["status"] == "validating":
            batch["status"] = "in_progress"
        return _json(batch)

    def _create(self, given: dict[str, Any]) -> dict[str, Any]:
        assert given["endpoint"] == "/v1/chat/completions"
        assert given["completion_window"] == "24h"
        lines = self.files[given["input_file_id"]].splitlines()
        ids = [json.loads(line)["custom_id"] for line in lines]
        assert len(set(ids)) == len(ids), "custom ids must be unique in a file"
        batch = {
            "id": f"batch_{len(self.batches) + 1}", "object": "batch", "status": "validating", "created_at": 1,
            "endpoint": given["endpoint"], "completion_window": "24h", "input_file_id": given["input_file_id"],
            "metadata": given.get("metadata"), "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        self.batches.append(batch)
        return batch


def _json(body: object, **more: Any) -> Reply:
    return Reply(body=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, **more)


def _upload(content: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the file of a multipart form, and hold the form to what OpenAI wants."""
    boundary = headers["content-type"].partition("boundary=")[2].strip('"').encode()
    parts = {}
    for part in content.split(b"--" + boundary)[1:-1]:
        found = _PART.search(part)
        assert found is not None
        parts[found[1].decode()] = found[3]
    assert parts["purpose"] == b"batch"
    return cast(bytes, parts["file"])
