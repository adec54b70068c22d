"""What never gets into a log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from coral_backend import logs
from coral_backend.exceptions import LabelStudioError
from coral_backend.settings import Settings

CANARY = "canary-55aa"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Configure the root logger with secrets, and put it back."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    settings = Settings.load({"OPENAI_API_KEY": CANARY, "REDIS_URL": "redis://:p%40ss-word@host/0"})
    logs.configure(settings, stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:secret@host:1/0", "redis://:[hidden]@host:1/0"),
        ("postgresql+psycopg://me:secret@host/db", "postgresql+psycopg://me:[hidden]@host/db"),
        ("Authorization: Bearer abc123def456", "Authorization: Bearer [hidden]"),
        ("{'Authorization': 'Token 0123456789abcdef'}", "{'Authorization': 'Token [hidden]'}"),
        ("eyJhbGciOi.eyJzdWIiOi.c2ln", "[hidden]"),
        ("Incorrect API key provided: sk-123", "Incorrect API key provided: [hidden]"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "[hidden]", "n": 1}'),
        ("password=hunter2&user=me", "password=[hidden]&user=me"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert logs.redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "round 2: 812/1000 clean (gmm, p > 0.50)",
        "The token refused by Label Studio is a legacy token. Basic authentication is on.",
        "http://127.0.0.1:9090/health answered 200",
        "risk-taking is no key",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert logs.redact(text) == text


def test_the_values_of_the_settings_are_hidden_in_messages_arguments_and_tracebacks(log: io.StringIO) -> None:
    logger = logging.getLogger("test")
    logger.info("asked with %s", CANARY)
    text = f"header was <{CANARY}> and {unquote('p%40ss-word')}"
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("failed")
    written = log.getvalue()
    assert written.count("[hidden]") == 3
    assert "RuntimeError" in written
    assert CANARY not in written
    assert "p@ss-word" not in written


def test_a_short_secret_does_not_blank_every_text() -> None:
    assert "0" not in logs.secrets_of(Settings.load({"OPENAI_API_KEY": "0"}))


def test_a_foreign_exception_is_described_without_its_text() -> None:
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        told = logs.describe(error)
    assert CANARY not in told
    assert "ValueError" in told
    assert "test_logs.py" in told


def test_our_own_exception_is_described_with_its_text() -> None:
    error = LabelStudioError("Label Studio does not answer. Start it.")
    assert logs.describe(error) == "LabelStudioError: Label Studio does not answer. Start it."
