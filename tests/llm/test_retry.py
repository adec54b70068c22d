"""Are refusals judged rightly, and waits bounded?"""

from __future__ import annotations

import random
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral_backend.llm.retry import LONGEST_BACKOFF_S, Pace, Verdict, judge, retry_after, scrub


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (429, "slow down", Verdict.RETRY),
        (429, '{"error": {"code": "insufficient_quota"}}', Verdict.STOP),
        (402, "Insufficient Balance", Verdict.STOP),
        (408, "", Verdict.RETRY),
        (409, "", Verdict.RETRY),
        (500, "insufficient_quota", Verdict.RETRY),
        (529, "", Verdict.RETRY),
        (400, "", Verdict.REQUEST),
        (413, "", Verdict.REQUEST),
        (422, "", Verdict.REQUEST),
        (401, "", Verdict.STOP),
        (403, "", Verdict.STOP),
        (404, "", Verdict.STOP),
        (301, "", Verdict.STOP),
    ],
)
def test_refusals(status: int, body: str, verdict: Verdict) -> None:
    assert judge(status, body) is verdict


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": formatdate(1_090.0, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(10.0, usegmt=True)}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=1_000.0) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_none_or_a_finite_wait(value: str) -> None:
    seconds = retry_after({"retry-after": value}, now=1_000.0)
    assert seconds is None or 0.0 <= seconds < float("inf")


@given(st.integers(0, 10_000), st.integers(0, 99))
def test_backoff_is_bounded(attempt: int, seed: int) -> None:
    assert 0.0 <= Pace(rng=random.Random(seed)).backoff(attempt) <= LONGEST_BACKOFF_S


def test_scrub_hides_keys_and_leaves_words() -> None:
    said = "Incorrect API key provided: secret-77. Authorization: Bearer abc.def-123 sk-abcd****wxyz\nagain"
    assert scrub(said, "secret-77") == "Incorrect API key provided: [key]. Authorization: [key] [key] again"
    assert scrub("none of them", "none") == "none of them"
    assert len(scrub("x" * 9_999, "secret-77")) == 300
