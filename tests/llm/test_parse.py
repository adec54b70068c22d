"""Is an answer read as the label it names, and as nothing else?"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral_backend.llm.parse import MAX_RAW_CHARS, ReplyError, match_label, plain, read_label, read_reply

LABELS = ("positive", "negative", "Not sure", "N.A.", "C++", "IT", "it")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        ("  NEGATIVE \n", "negative"),
        ("'positive'.", "positive"),
        ("“Positive.”", "positive"),
        ("not  SURE", "Not sure"),
        ("N.A.", "N.A."),
        ("n.a", "N.A."),
        ("c++", "C++"),
        ("IT", "IT"),
        ('"it"', "it"),
        ("ｐｏｓｉｔｉｖｅ", "positive"),
        ('{"label": "positive"}', "positive"),
        ('{"Label": " Negative. ", "why": "dull"}', "negative"),
        ('```json\n{"label": "C++"}\n```', "C++"),
        ('"positive"', "positive"),
        ("<think>negative? no.</think>\npositive", "positive"),
    ],
)
def test_label_is_read(text: str, label: str) -> None:
    assert read_label(text, LABELS) == (label, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("<think>positive</think>", "empty"),
        ("```\n```", "empty"),
        ("positiv", "none of the 7"),
        ("positive or negative", "none of the 7"),
        ("The answer is positive.", "none of the 7"),
        ("not positive", "none of the 7"),
        ("iT", "none of the 7"),
        ('{"label": "great"}', "'great' is none of the 7"),
        ('{"label": "positive", "label": "negative"}', "2 labels, not one"),
        ('{"sentiment": "positive"}', "0 labels, not one"),
        ('{"label": ["positive"]}', "names no label"),
        ('{"label": null}', "names no label"),
        ('{"label": "positive"', "broken JSON"),
        ('["positive"]', "names no label"),
        ("[" * 100_000, "broken JSON"),
        ("null", "names no label"),
    ],
)
def test_anything_else_is_no_label(text: str, reason: str) -> None:
    label, why = read_label(text, LABELS)
    assert label is None
    assert reason in (why or "")


def test_numbers_and_truth_values_can_be_labels() -> None:
    assert read_label('{"label": 1}', ("0", "1")) == ("1", None)
    assert read_label('{"label": true}', ("true", "false")) == ("true", None)


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5, unique=True))
def test_any_answer_is_read_without_an_error_and_stays_in_the_set(text: str, labels: list[str]) -> None:
    for answer in (text, json.dumps({"label": text})):
        label, reason = read_label(answer, labels)
        assert (label in labels and reason is None) or (label is None and reason)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5, unique=True), st.data())
def test_every_label_is_read_as_itself(labels: list[str], data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(labels))
    assert match_label(label, labels) == label


def test_reply_with_parts_and_without_usage() -> None:
    parts = [{"type": "text", "text": "posi"}, {"type": "text", "text": "tive"}, "noise"]
    body = json.dumps({"choices": [{"message": {"content": parts}}]}).encode()
    completion = read_reply(body)
    assert (completion.text, completion.unusable, completion.prompt_tokens) == ("positive", None, 0)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b"3", b'{"choices": [{"message": "x"}]}']
)
def test_reply_that_is_no_completion(body: bytes) -> None:
    with pytest.raises(ReplyError, match="the endpoint"):
        read_reply(body)


def test_plain_is_one_short_line_without_signs_that_break_a_database() -> None:
    line = plain("a\x00b\ud800c\n\n" + "x" * 9_999)
    assert line.startswith("a b c x")
    assert len(line) <= MAX_RAW_CHARS
    line.encode()
