"""How do we log, and what never gets into a log? Secrets are taken out of every line, whoever wrote it.

Two nets: the values of this process's own secret settings, wherever they turn up, and the shapes that secrets usually
have (``Bearer ...``, ``sk-...``, a JSON web token, ``password=...``, a URL with a password). The second is for the texts
of other people's exceptions. Neither is a licence to put a secret into a message.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from typing import TextIO
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from coral_backend.exceptions import CoralError
from coral_backend.settings import Settings

__all__ = ["configure", "describe", "redact", "secrets_of"]

HIDDEN = "[hidden]"

MIN_SECRET = 6
"""Shorter values are not looked for in texts: a password ``0`` would blank every zero."""

_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s@/]+@", re.IGNORECASE), rf"\1:{HIDDEN}@"),
    (re.compile(r"\b(Bearer|Basic|Token)(\s+)(?=\S*\d)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?"), HIDDEN),
    (re.compile(r"\bsk-[A-Za-z0-9_*-]{2,}"), HIDDEN),
    (
        re.compile(
            r"((?:password|passwd|secret|api[-_]?key|access[-_]?token|refresh[-_]?token|requirepass|authorization)"
            r"[\"']?\s*[=:]\s*[\"']?)(?!\[hidden\]|Bearer\b|Basic\b|Token\b)[^\s\"',;&)}\]]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)


def secrets_of(settings: Settings) -> frozenset[str]:
    """Return every text that must not be shown: the secret settings, and the passwords inside the secret URLs."""
    values: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            values.add(value.get_secret_value())
            values.add(_password(value.get_secret_value()))
    values |= {quote(value, safe="") for value in values} | {unquote(value) for value in values}
    return frozenset(value for value in values if len(value) >= MIN_SECRET)


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:  # not a URL
        return ""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without `secrets` and without what looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def describe(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """Say in one line what went wrong and where, for a place that keeps it (a queue, a table).

    The text of a ``CoralError`` is meant for people; that of any other exception may hold anything (a request with its
    headers, a task's text), so only its type and the place are kept.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (in {frames[-1].name}, {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    text = f": {error}" if isinstance(error, CoralError) else "; the worker's log has the details"
    return redact(f"{type(error).__name__}{text}{place}", secrets)


class RedactingFormatter(logging.Formatter):
    """Format as usual, traceback included, then take the secrets out."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        self._secrets = frozenset(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), self._secrets)


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send the log of this process to `stream` (default: stderr), redacted. A second call replaces the first."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(RedactingFormatter(secrets_of(settings)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # These log every request with its URL and headers at INFO or DEBUG.
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
