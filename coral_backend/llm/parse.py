"""Which label did an endpoint's reply name? Exactly one of the label set, or none with the reason; never the nearest string."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MAX_RAW_CHARS = 2_000
"""So much of an answer is kept."""

CUT = "the answer was cut at the token limit (finish_reason length); raise CORAL_LLM_MAX_TOKENS"
"""The reason of an answer that ended too early."""

_FENCE = re.compile(r"^```\w*\s*\n?(.*?)\n?\s*```$", re.DOTALL)
_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"


class ReplyError(ValueError):
    """The endpoint's reply is not a chat completion; the message says what it is instead."""


@dataclass(frozen=True)
class Completion:
    """What matters of a chat completion.

    Attributes
    ----------
    text : str
        The model's answer; empty when it gave none.
    unusable : str or None
        Why the answer must not be read although there is one: cut off, filtered, refused.
    logprobs : tuple of dict
        What the endpoint says about each token of the answer, unchecked (``token``, ``logprob``, ``top_logprobs``); empty
        when it says nothing.
    """

    text: str
    unusable: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: tuple[dict[str, Any], ...] = ()


def json_of(body: bytes) -> object:
    """Return the JSON that a reply holds; None if it holds none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def read_reply(body: bytes, data: object = None) -> Completion:
    """Read the body of a reply with status 200; `data` is what ``json_of`` made of it, where that is known.

    Raises
    ------
    ReplyError
        If it is no chat completion: a web page, truncated JSON, an error object, no choices.
    """
    if data is None:
        data = json_of(body)
    if data is None and body.strip() != b"null":
        kind = "a web page" if body.lstrip()[:1] == b"<" else "no JSON" if body.strip() else "nothing"
        raise ReplyError(
            f"the endpoint answered with {kind}: {plain(body[:160].decode('utf-8', 'replace'))!r}"
        ) from None
    if not isinstance(data, dict):
        raise ReplyError(f"the endpoint answered with a JSON {type(data).__name__}, not with a chat completion")
    if data.get("error"):
        raise ReplyError(
            f"the endpoint answered with an error in place of a completion: {plain(str(data['error']))[:160]}"
        )
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ReplyError(f"the endpoint's completion has no choice (choices = {plain(str(choices))[:80]})")
    return _completion(choice, message, data.get("usage"))


def read_label(text: str, labels: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the label that a model's answer names, and None; or None and the reason why it names none.

    Accepted are the label itself and JSON like ``{"label": "..."}``; case, blanks, quotes, a code fence and a final stop do
    not matter.
    """
    answer = unwrapped(text)
    if not answer:
        return None, "the answer is empty"
    label = match_label(answer, labels)
    if label is not None:
        return label, None
    named, reason = _from_json(answer)
    if named is None:
        return None, reason or f"the answer is none of the {len(labels)} labels: {plain(answer)[:80]!r}"
    label = match_label(named, labels)
    return (label, None) if label is not None else (None, f"{plain(named)[:80]!r} is none of the {len(labels)} labels")


def read_sureness(text: str) -> float | None:
    """Return the ``confidence`` of an answer's JSON in [0, 1], given in per cent; None where it has none in 0 to 100."""
    try:
        data = json.loads(unwrapped(text), object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return None
    values = [value for key, value in data if key.strip().casefold() == "confidence"] if isinstance(data, Pairs) else []
    if len(values) != 1 or isinstance(values[0], bool) or not isinstance(values[0], int | float):
        return None
    return float(values[0]) / 100.0 if 0 <= values[0] <= 100 else None


def match_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the one of `labels` that `text` is, up to case, blanks, quotes and a final stop; None where none or two are."""
    if text in labels:
        return text
    for form in (str.strip, _bare):
        key = _fold(form(text))
        found = [label for label in labels if _folded(form, label) == key]
        exact = [label for label in found if label.strip() == form(text)]
        if len(exact or found) == 1:
            return (exact or found)[0]
    return None


def plain(text: str) -> str:
    """Return `text` on one line, without control characters and lone surrogates, at most ``MAX_RAW_CHARS`` long."""
    visible = "".join(c if c.isprintable() else " " for c in text[: 2 * MAX_RAW_CHARS])
    return " ".join(visible.split())[:MAX_RAW_CHARS]


def _completion(choice: dict[str, Any], message: dict[str, Any], usage: object) -> Completion:
    text = _content(message.get("content"))
    finish = choice.get("finish_reason")
    refusal = message.get("refusal")
    unusable = None
    if refusal:
        unusable = f"the model refused: {plain(str(refusal))[:160]!r}"
    elif finish == "length":
        unusable = CUT
    elif finish == "content_filter":
        unusable = "the endpoint's content filter withheld the answer (finish_reason content_filter)"
    return Completion(
        text or (str(refusal) if refusal else ""),
        unusable,
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
        _logprobs(choice.get("logprobs")),
    )


def _logprobs(said: object) -> tuple[dict[str, Any], ...]:
    content = said.get("content") if isinstance(said, dict) else None
    return tuple(token for token in content if isinstance(token, dict)) if isinstance(content, list) else ()


def _content(content: object) -> str:
    """Return the text of a message; some endpoints send a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _count(usage: object, key: str) -> int:
    value = usage.get(key) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0


def unwrapped(text: str) -> str:
    """Drop a reasoning model's thoughts and a code fence."""
    answer = _THOUGHTS.sub("", text, count=1).strip()
    fence = _FENCE.match(answer)
    return fence.group(1).strip() if fence else answer


def _from_json(answer: str) -> tuple[str | None, str | None]:
    """Return the label that JSON names, or None with the reason (None when it is no JSON at all)."""
    try:
        data = json.loads(answer, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return None, f"the answer is broken JSON: {plain(answer)[:80]!r}" if answer[0] in "{[" else None
    if isinstance(data, Pairs):
        values = [value for key, value in data if key.strip().casefold() == "label"]
        if len(values) != 1:
            return None, f"the answer's JSON has {len(values)} labels, not one: {plain(answer)[:80]!r}"
        data = values[0]
    if isinstance(data, str):
        return data, None
    if isinstance(data, (bool, int, float)):
        return json.dumps(data), None
    return None, f"the answer's JSON names no label: {plain(answer)[:80]!r}"


class Pairs(list[tuple[str, Any]]):
    """A JSON object with every key it was written with: of two labels neither is the answer."""


def _bare(text: str) -> str:
    """Return `text` without the quotes and the final stop around it."""
    return text.strip().rstrip(".").strip().strip(_QUOTES).strip().rstrip(".").strip()


@lru_cache(maxsize=4096)
def _folded(form: Callable[[str], str], label: str) -> str:
    """Return how a label is compared; all answers of a round are compared with the same ones."""
    return _fold(form(label))


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
