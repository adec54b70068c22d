"""Do classes of tokens and spans go over into each other without loss, and is a span as probable as its tokens say?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.distillation.bio import (
    Floats,
    Range,
    begins,
    decode,
    goes_on,
    likely,
    log_prob,
    mean_loss,
    n_classes,
    spread,
    targets,
)

TYPES = 2


def sure(classes: list[int], p: float = 0.9) -> Floats:
    """Return log-probabilities that give every token's class `p` and share the rest."""
    c = n_classes(TYPES)
    probs = np.full((len(classes), c), (1 - p) / (c - 1))
    probs[np.arange(len(classes)), classes] = p
    return np.asarray(np.log(probs))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 1)), max_size=6))
def test_spans_survive_the_way_through_classes(parts: list[tuple[int, int, int]]) -> None:
    at, ranges = 0, []
    for gap, length, kind in parts:
        ranges.append(Range(at + gap, at + gap + length, kind))
        at += gap + length + 1
    classes = targets(at + 1, ranges)
    assert decode(sure(classes.tolist()), np.zeros(at + 1, dtype=bool)) == ranges


def test_of_overlapping_spans_the_longest_is_learned() -> None:
    assert targets(5, [Range(1, 1, 0), Range(1, 3, 1), Range(3, 4, 0)]).tolist() == [0, 3, 4, 4, 0]


def test_a_span_is_as_probable_as_its_tokens_and_the_one_behind() -> None:
    log_probs = sure([0, begins(1), goes_on(1), 0])
    assert math.exp(log_prob(log_probs, Range(1, 2, 1))) == pytest.approx(0.9 * 0.9 * (1 - 0.025))
    too_short = math.exp(log_prob(log_probs, Range(1, 1, 1)))
    assert too_short == pytest.approx(0.9 * 0.1), "it goes on, so that its end is wrong"
    assert math.exp(log_prob(log_probs, Range(1, 2, 0))) < 0.001
    assert mean_loss(log_probs, Range(1, 2, 1)) == pytest.approx(-log_prob(log_probs, Range(1, 2, 1)) / 3)


def test_no_span_begins_or_ends_inside_a_word() -> None:
    inner = np.array([False, False, True, True, False])
    assert decode(sure([0, 0, begins(0), goes_on(0), 0]), inner) in ([], [Range(1, 3, 0)])
    assert decode(sure([0, begins(0), 0, 0, 0]), inner) in ([], [Range(1, 3, 0)])
    assert decode(sure([0, begins(0), goes_on(0), goes_on(0), 0]), inner) == [Range(1, 3, 0)]


def test_what_goes_on_was_begun() -> None:
    assert decode(sure([goes_on(0), goes_on(0), 0]), np.zeros(3, dtype=bool)) in ([], [Range(0, 1, 0)])
    assert decode(np.zeros((0, n_classes(TYPES))), np.zeros(0, dtype=bool)) == []


def test_a_span_that_the_best_path_passes_by_is_looked_at() -> None:
    log_probs = sure([0, 0, 0])
    log_probs[1] = np.log([0.7, 0.2, 0.03, 0.04, 0.03])
    inner, real = np.zeros(3, dtype=bool), np.array([False, True, False])
    assert decode(log_probs, inner) == []
    assert likely(log_probs, inner, real) == [Range(1, 1, 0)]
    assert likely(sure([0, 0, 0], p=0.99), inner, real) == []


def test_the_token_behind_a_span_is_a_part_of_what_it_says() -> None:
    assert spread([Range(1, 2, 0)], 5).tolist() == [False, True, True, True, False]
