"""Are composed tasks what their parts are, and are methods scored by gold rightly?"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.multilabel import Composed, Found, compose, figures, one_vs_rest
from coral_backend.exceptions import InputError

TOPICS = ("sport", "bank", "rain")


def records(n: int = 90) -> list[dict[str, str]]:
    rows = []
    for i in range(n):
        gold = TOPICS[i % 3]
        said = "" if i % 10 == 0 else TOPICS[(i + 1) % 3] if i % 7 == 0 else gold
        row = {"id": str(i), "text": f"about {gold} {gold} {i}", "gold": gold, "llm_label": said, "llm_name": "x"}
        rows.append({**row, "split": "train"})
    return [*rows, {"id": "t", "text": "test", "gold": "rain", "llm_label": "", "llm_name": "", "split": "test"}]


def test_every_text_is_used_once_and_sets_are_unions() -> None:
    data = compose(records(), seed=0)
    lines = [line for text in data.texts for line in text.split("\n")]
    assert sorted(lines) == sorted(row["text"] for row in records()[:-1])
    assert {len(text.split("\n")) for text in data.texts} == {1, 2, 3}
    by_text = {row["text"]: row for row in records()}
    for text, llm, gold in zip(data.texts, data.llm, data.gold, strict=True):
        parts = [by_text[line] for line in text.split("\n")]
        assert {data.labels[k] for k in np.flatnonzero(gold)} == {row["gold"] for row in parts}
        said = {row["llm_label"] for row in parts} - {""}
        assert (llm[0] == -1) == (not said)
        assert {data.labels[k] for k in np.flatnonzero(llm == 1)} == said
    assert compose(records(), seed=0).texts == data.texts != compose(records(), seed=1).texts


def test_a_file_without_answers_is_refused() -> None:
    with pytest.raises(InputError, match="no column 'llm__other'"):
        compose(records(), 0, "llm__other")
    with pytest.raises(InputError, match="No row"):
        compose(records()[-1:], 0)


def test_figures_are_right_by_hand() -> None:
    llm = np.array([[1, 0], [0, 1], [1, 1], [1, 0]] * 5)
    gold = llm.copy()
    gold[0] = [0, 1]
    data = Composed([""] * 20, llm, gold, ("a", "b"))
    right = np.where(llm == gold, 0.9, 0.1)
    found = figures(data, Found(gold, right, right.min(axis=1), gold, (llm != gold).any(axis=1).astype(int)))
    assert found["wrong_sets"] == pytest.approx(0.05)
    assert found["found_first"] == 1.0
    assert found["wrong_of_first"] == 0.5
    assert found["auroc_sets"] == found["auroc_answers"] == found["auroc_yes"] == 1.0
    assert (found["verdict_f1"], found["verdict_exact"], found["slm_f1"]) == (1.0, 1.0, 1.0)
    assert (found["flagged"], found["wrong_among_clean"]) == (0.05, 0.0)
    named = int(llm.sum() + gold.sum())
    assert found["llm_f1"] == pytest.approx((named - 2) / named)


def test_one_vs_rest_doubts_what_is_wrong() -> None:
    data = compose(records(240), seed=0)
    found = figures(data, one_vs_rest(data, 0))
    assert (found["auroc_answers"] or 0) > 0.9
