"""Is a task's slice read from its data, and its language told from its text, the same each time?"""

from __future__ import annotations

from typing import Any

import pytest

from coral_backend.labelstudio import columns
from coral_backend.labelstudio.slices import language_of, slice_of

MARATHI = "हा चित्रपट खूप छान आहे आणि सर्वांनी पाहावा"


@pytest.mark.parametrize(
    ("data", "key", "name"),
    [
        ({"source": "shop"}, "source", "shop"),
        ({"source": "  two \n words "}, "source", "two words"),
        ({"source": 7}, "source", "7"),
        ({"source": "x" * 200}, "source", "x" * 80),
        ({"source": ["a"]}, "source", None),
        ({"source": True}, "source", None),
        ({"source": ""}, "source", None),
        ({}, "source", None),
        ({"source": "shop"}, None, None),
        ({"language": "Danish"}, "language", "Danish"),
        ({}, "language", "mr"),
        ({"language": None}, "language", "mr"),
    ],
)
def test_the_slice_is_what_the_key_says(data: dict[str, Any], key: str | None, name: str | None) -> None:
    assert slice_of(data, MARATHI, key) == name


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The committee shall report to the council within thirty days", "en"),
        ("Lov om ændring af lov om social service og lov om retssikkerhed", "da"),
        ("Ley de medidas urgentes para la reforma del mercado de trabajo", "es"),
        ("这部电影非常好看，我很喜欢它的故事", "zh"),
        (MARATHI, "mr"),
        ("", None),
        ("12 / 34 ?!", None),
        ("ok", None),
        ("\ud800 broken surrogate in an English sentence that goes on", "en"),
    ],
)
def test_the_language_is_told_from_the_text(text: str, code: str | None) -> None:
    assert language_of(text) == code
    assert language_of(text) == code, "the same text, the same code"


def test_the_column_says_where_the_slm_goes_first() -> None:
    values = columns.slice_values({1: "mr", 2: "en", 3: None}, {"mr"})
    assert values == {1: "mr · SLM first", 2: "en", 3: ""}
    assert columns.slice_values({1: None, 2: None}, {""}) == {1: "SLM first", 2: "SLM first"}
    assert columns.slice_values({1: None, 2: None}, set()) == {1: "", 2: ""}, "nobody asked: what stood there goes"
