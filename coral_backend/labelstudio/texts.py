"""Which text does a task's data hold? Of a pair, a page or a dialogue too; everything in it is untrusted."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from typing import Any

from coral_backend.types import LabelSpace

__all__ = ["EXACT", "clean", "kind", "listed_keys", "plain", "text_of"]

EXACT = "exact"
"""How a text is read in which spans are marked: every character stays where it is, blanks at the beginning too."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*)[^<>]*>")
_ONE_LINE = re.compile(r"\s+")
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|br|d[dlt]|div|fieldset|figcaption|figure|footer|form|h[1-6r]|header|li|main|nav|"
    "ol|option|p|pre|section|table|t[dhr]|title|ul"
)
_UNSEEN = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "template", "noscript")}


def text_of(space: LabelSpace, data: Mapping[str, Any], max_chars: int) -> tuple[str, str | None]:
    """Return the text of a task and None, or ``""`` and the problem that it has.

    Several texts stand below each other, each under its title and with ``> `` before every line, so that no text can pass for
    the title or the end of another; each may be as long as the others.

    Parameters
    ----------
    max_chars : int
        Longer texts are cut, in characters; titles and marks are not counted.
    """
    texts = []
    for key in space.text_keys:
        text, problem = _text_under(key, data, space.forms.get(key, ()))
        if problem is not None:
            return "", problem
        texts.append(text)
    if not space.parts:
        return texts[0][:max_chars], None
    return "\n\n".join(
        f"{title}:\n" + "\n".join(f"> {line}" for line in text[: max_chars // len(texts)].splitlines())
        for (title, _), text in zip(space.parts, texts, strict=True)
    ), None


def plain(value: object) -> str | None:
    """Return a cleaned text, ``""`` for a blank one, None for what is no text."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(value) if isinstance(value, int) or math.isfinite(value) else None


def clean(text: str) -> str:
    """Return `text` without characters that no database, JSON parser or tokenizer agrees on."""
    return _in_place(text).strip()


def _in_place(text: str) -> str:
    """Return `text` with one character for each that nobody agrees on, so that offsets stay."""
    return _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", text))


def kind(value: object) -> str:
    """Return what a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "true or false" if isinstance(value, bool) else f"a {type(value).__name__}"


def listed_keys(data: Mapping[str, Any]) -> str:
    """Return the first keys of a task's data, in words."""
    return ", ".join(repr(clean(str(one))[:40]) for one in list(data)[:8]) or "none"


def _text_under(key: str, data: Mapping[str, Any], form: tuple[str, ...]) -> tuple[str, str | None]:
    if key not in data:
        return "", f"the task has no key {key!r}; it has {listed_keys(data)}"
    value = data[key]
    if form and form[0] == "dialogue":
        text, wanted = _dialogue(value, *form[1:]), f"a list of objects with {form[2]!r}"
    elif form == (EXACT,):
        text, wanted = _in_place(value) if isinstance(value, str) else None, "a text"
    else:
        text, wanted = plain(value), "a text"
    if text is None:
        return "", f"{key!r} is {kind(value)}; it must be {wanted}"
    if form == ("html",):
        text = _shown(text)
    return (text, None) if text.strip() else ("", f"{key!r} is empty")


def _dialogue(value: object, name_key: str, text_key: str) -> str | None:
    """Return a ``<Paragraphs>`` as lines of ``name: text``; None where it is none."""
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return None
    lines = []
    for turn in value:
        text, name = plain(turn.get(text_key)), plain(turn.get(name_key))
        if text is None:
            return None
        if text:
            lines.append(f"{name}: {text}" if name else text)
    return "\n".join(lines)


def _shown(page: str) -> str:
    """Return what a browser would show of HTML, as lines; a broken page is read as far as it goes.

    A scan of our own: the standard library's parser takes quadratic time on some input, and raises on other.
    """
    pieces, at = [], 0
    while (start := page.find("<", at)) >= 0:
        pieces.append(_ONE_LINE.sub(" ", page[at:start]))
        tag = _TAG.match(page, start)
        if page.startswith("<!--", start):
            end = page.find("-->", start + 4)
            at = end + 3 if end >= 0 else len(page)
        elif tag is None:
            pieces.append("<")
            at = start + 1
        else:
            name, at = tag[2].lower(), tag.end()
            if not tag[1] and name in _UNSEEN:
                closing = _UNSEEN[name].search(page, at)
                at = closing.start() if closing else len(page)
            elif _BLOCK.fullmatch(name):
                pieces.append("\n")
    pieces.append(_ONE_LINE.sub(" ", page[at:]))
    lines = (" ".join(html.unescape(line).split()) for line in "".join(pieces).split("\n"))
    return clean("\n".join(line for line in lines if line))
