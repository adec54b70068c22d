"""Is what was said written so that equal answers are equal strings, and is only what we wrote read back?"""

from __future__ import annotations

import pytest

from coral_backend.labels import (
    MULTIPLE,
    SEVERAL,
    SPANS,
    Span,
    read_controls,
    read_set,
    read_spans,
    span_f1,
    write_controls,
    write_set,
    write_spans,
)
from coral_backend.types import LabelSpace

TAGS = LabelSpace("Choices", "tags", "text", "text", ("a", "b, c", "[]"), kind=MULTIPLE)
NAMES = LabelSpace("Labels", "names", "text", "text", ("PER", "LOC"), kind=SPANS)
MOOD = LabelSpace("Choices", "mood", "text", "text", ("good", "bad"))
BOTH = LabelSpace("Choices", "mood", "text", "text", ("good", "bad"), kind=SEVERAL, controls=(MOOD, TAGS))


def test_a_set_is_written_in_the_order_of_the_config() -> None:
    assert write_set(["[]", "a"], TAGS.labels) == write_set({"a", "[]"}, TAGS.labels) == '["a", "[]"]'
    assert read_set(write_set([], TAGS.labels)) == ()
    with pytest.raises(ValueError, match="'x' is not a label"):
        write_set(["x"], TAGS.labels)


def test_spans_are_written_in_the_order_of_the_text_and_once() -> None:
    spans = [Span(9, 15, "LOC"), Span(0, 3, "PER"), Span(9, 15, "LOC")]
    assert read_spans(write_spans(spans)) == (Span(0, 3, "PER"), Span(9, 15, "LOC"))
    assert read_spans(write_spans([])) == ()


@pytest.mark.parametrize("other", [None, "", "a", "{}", "[1]", '["a", "a"]', '"a"', "[" * 100_000, "null"])
def test_what_is_no_set_is_none(other: str | None) -> None:
    assert read_set(other) is None
    assert not TAGS.allows(other)


@pytest.mark.parametrize(
    "other",
    [
        "",
        "[[0, 3]]",
        '[[3, 3, "LOC"]]',
        '[[-1, 3, "LOC"]]',
        "[[0, 3, 4]]",
        '[[0, true, "LOC"]]',
        '[[0.0, 3, "LOC"]]',
        "{}",
    ],
)
def test_what_is_no_list_of_spans_is_none(other: str) -> None:
    assert read_spans(other) is None
    assert not NAMES.allows(other)


def test_controls_say_something_or_are_left_out() -> None:
    said = write_controls({"tags": '["a"]', "mood": None}, ["mood", "tags"])
    assert read_controls(said) == {"tags": '["a"]'}
    assert BOTH.allows(said)
    assert not BOTH.allows('{"mood": "middling"}')
    assert not BOTH.allows('{"other": "good"}')
    assert read_controls('{"mood": 1}') is None


def test_only_labels_of_the_config_are_allowed() -> None:
    assert TAGS.allows('["b, c"]')
    assert TAGS.allows("[]")
    assert not TAGS.allows('["b"]')
    assert NAMES.allows('[[0, 3, "PER"]]')
    assert not NAMES.allows('[[0, 3, "ORG"]]')
    assert MOOD.allows("good")
    assert not MOOD.allows('["good"]')


def test_people_read_the_labels_and_the_words_of_spans() -> None:
    assert TAGS.shown('["a", "b, c"]') == "a, b, c"
    assert TAGS.shown("[]") == NAMES.shown("[]") == "(none)"
    assert NAMES.shown('[[2, 6, "LOC"]]', "\U0001f600 Rome") == "LOC: Rome"
    assert NAMES.shown('[[2, 6, "LOC"]]') == "LOC"
    assert BOTH.shown('{"mood": "good", "tags": "[]"}') == "mood: good; tags: (none)"
    assert MOOD.shown("good") == "good"


@pytest.mark.parametrize("space", [TAGS, NAMES, MOOD, BOTH])
def test_a_label_space_comes_back_from_json(space: LabelSpace) -> None:
    assert LabelSpace.from_json(space.to_json()) == space


def test_a_label_space_of_before_has_the_same_json() -> None:
    assert set(MOOD.to_json()) == {"tag", "from_name", "to_name", "text_key", "labels", "definitions"}


def test_spans_are_compared_exactly_over_all_tasks_and_by_label() -> None:
    found = ['[[0, 3, "PER"], [9, 12, "LOC"]]', "[]", None]
    true = ['[[0, 3, "PER"], [9, 13, "LOC"]]', "[]", '[[0, 1, "PER"]]']
    assert span_f1(found, true) == 0.4
    assert span_f1(found, true, "PER") == 0.6667
    assert span_f1(found, true, "LOC") == 0.0
    assert span_f1(["[]"], [None]) is None
