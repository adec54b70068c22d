"""Is a wrong span doubted, a missing one noticed, and nothing that the LLM marked lost without good reason?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from strategies.review.spans import Candidates, decide_spans, doubtfulness


def candidates(*rows: dict[str, Any], many: int = 60) -> Candidates:
    """Return these candidates behind `many` well-behaved ones of the LLM's, so that labels are known and rates are usual."""
    usual = [{"task": 1000 + i, "p": 0.95, "said": True, "p_clean": 1.0} for i in range(many)]
    base = {
        "task": 0,
        "start": 0,
        "end": 4,
        "kind": 0,
        "said": False,
        "asked": True,
        "p_clean": np.nan,
        "checked": False,
        "right": False,
    }
    table = [{**base, **row} for row in [*rows, *usual]]
    kinds = {"said": bool, "asked": bool, "checked": bool, "right": bool, "p": float, "p_clean": float}
    columns = (*base, "p")
    return Candidates(**{k: np.array([row[k] for row in table], dtype=kinds.get(k, np.int64)) for k in columns})


def test_what_the_slm_confirms_is_clean_and_what_it_denies_is_left_out() -> None:
    found = decide_spans(
        candidates(
            {"p": 0.9, "said": True, "p_clean": 0.99},
            {"start": 9, "end": 12, "p": 0.001, "said": True, "p_clean": 0.01},
        )
    )
    assert found.kept[:2].tolist() == [True, False]
    assert (found.noisy[:2] | found.inconsistent[:2]).tolist() == [False, True]
    assert found.p_right[0] > 0.9
    assert found.p_right[1] < 0.3


def test_a_marked_span_stays_where_the_mixture_calls_it_clean_or_the_slm_only_hesitates() -> None:
    low = {"p": 0.001, "said": True, "p_clean": 0.9}
    hesitant = {"start": 9, "end": 12, "p": 0.4, "said": True, "p_clean": 0.1}
    found = decide_spans(candidates(low, hesitant))
    assert found.kept[:2].tolist() == [True, True]
    assert found.noisy[:2].tolist() == [False, True]


def test_a_missing_span_is_noticed_and_added_only_where_it_is_probable_and_its_label_known() -> None:
    sure, likely, unlikely = ({"start": 10 * i, "end": 10 * i + 4, "p": p} for i, p in enumerate((0.9999, 0.6, 0.1)))
    rare = {"start": 50, "end": 54, "p": 0.9999, "kind": 1}
    found = decide_spans(candidates(sure, likely, unlikely, rare))
    assert found.kept[:4].tolist() == [True, False, False, False]
    assert found.noisy[:4].tolist() == [True, True, False, True]
    assert found.inconsistent[0]


def test_machine_spans_do_not_overlap_and_a_persons_may() -> None:
    said = [
        {"start": 0, "end": 9, "p": 0.7, "said": True, "p_clean": 1.0},
        {"start": 4, "end": 12, "p": 0.9, "said": True, "p_clean": 1.0},
    ]
    assert decide_spans(candidates(*said)).kept[:2].tolist() == [False, True]
    people = [{**one, "checked": True, "right": True} for one in said]
    found = decide_spans(candidates(*people))
    assert found.kept[:2].tolist() == [True, True]
    assert found.p_right[:2].tolist() == [1.0, 1.0]
    assert not (found.noisy | found.inconsistent)[:2].any()


def test_a_task_is_as_doubtful_as_its_most_doubtful_span() -> None:
    found = candidates(
        {"p": 0.9, "said": True, "p_clean": 1.0},
        {"start": 9, "end": 12, "p": 0.3, "said": True, "p_clean": 0.2},
        {"task": 2, "p": 0.6},
        many=0,
    )
    decision = decide_spans(found)
    scores = doubtfulness(found.task, 3, decision, [0.98, 0.98, 0.98])
    assert scores[0] == pytest.approx(decision.score[1])
    assert scores[1] == pytest.approx(0.98)
    assert scores[2] == pytest.approx(1.0 - decision.p_right[2])


def test_people_who_find_many_wrong_spans_make_the_others_more_doubtful() -> None:
    rows = [{"task": i, "p": 0.6, "said": True, "p_clean": 0.6} for i in range(40)]
    before = decide_spans(candidates(*rows, many=0)).p_right[-1]
    seen = [{**row, "checked": True, "right": False} for row in rows[:20]]
    after = decide_spans(candidates(*seen, *rows[20:], many=0)).p_right[-1]
    assert after < before


def test_where_the_llm_did_not_answer_the_slms_word_counts() -> None:
    found = decide_spans(
        candidates({"p": 0.7, "asked": False, "kind": 3}, {"start": 8, "end": 9, "p": 0.2, "asked": False})
    )
    assert found.kept[:2].tolist() == [True, False]


def test_no_candidates_are_no_error() -> None:
    assert decide_spans(candidates(many=0)).kept.shape == (0,)
