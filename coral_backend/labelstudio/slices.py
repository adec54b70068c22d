"""Which part of the corpus does a task belong to? A key of its data says so, or the language that its text is in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from coral_backend.labelstudio.texts import plain

__all__ = ["LANGUAGE", "language_of", "slice_of"]

LANGUAGE = "language"
"""The key that need not be there: the language of the text stands for it."""

MAX_NAME = 80
"""Characters of a slice's name; what is longer is a text and no name."""

READ = 1_000
"""Characters of a text from which its language is told."""

FEWEST_LETTERS = 4
"""A text with fewer has no language that could be told."""


def slice_of(data: Mapping[str, Any], text: str, key: str | None) -> str | None:
    """Return the name of the slice of a task; None where there is no `key`, or nothing under it.

    Parameters
    ----------
    data : mapping
        The task's data.
    text : str
        What is labelled.
    key : str or None
        A key of `data`. ``"language"`` is told from the text where `data` has no such key: an ISO 639 code such as ``"mr"``.
    """
    if key is None:
        return None
    name = plain(data.get(key))
    if name:
        return " ".join(name.split())[:MAX_NAME]
    return language_of(text) if key == LANGUAGE else None


def language_of(text: str) -> str | None:
    """Return the ISO 639 code of the language of `text`; None where it has too few letters. The same text gives the same code."""
    read = text[:READ]
    if sum(letter.isalpha() for letter in read) < FEWEST_LETTERS:
        return None
    code: str = _identifier().classify(read)[0]
    return code


@cache
def _identifier() -> Any:
    """Load the identifier once: half a second and some 100 MB, only where languages are asked for."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
