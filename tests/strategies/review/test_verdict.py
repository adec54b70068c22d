"""Does a decision hold together: label, score, source, flag, rank, pre-annotation?"""

import dataclasses
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from strategies.review.verdict import decide

Array: TypeAlias = npt.NDArray[Any]


def example(n: int = 300, k: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    llm = rng.integers(-1, k, n)
    return {
        "llm_labels": llm,
        "probs": rng.dirichlet(np.ones(k), n),
        "p_clean": np.where(llm < 0, np.nan, rng.random(n)),
        "human_labels": np.where(rng.random(n) < 0.1, rng.integers(0, k, n), -1),
    }


def test_every_array_has_a_value_for_every_sample() -> None:
    decision = decide(**example())
    for field in dataclasses.fields(decision):
        values = getattr(decision, field.name)
        assert values.shape == (300,), field.name
        if values.dtype.kind == "f":
            assert ((values >= 0) & (values <= 1)).all(), field.name
    assert sorted(decision.rank) == list(range(1, 301))
    assert (decision.label >= 0).all()


def test_a_person_is_never_overruled() -> None:
    parts = example()
    decision, human = decide(**parts), parts["human_labels"]
    done = human >= 0
    np.testing.assert_array_equal(decision.label[done], human[done])
    assert (decision.score[done] == 1.0).all()
    assert set(decision.source[done]) == {"human"}
    assert set(decision.flag[done]) == {"clean"}
    assert decision.rank[done].min() > decision.rank[~done].max()


def test_sources_say_whose_label_it_is() -> None:
    parts = example()
    decision = decide(**parts)
    by_llm, by_slm = decision.source == "llm", decision.source == "slm"
    np.testing.assert_array_equal(decision.label[by_llm], parts["llm_labels"][by_llm])
    assert (decision.label[by_slm] != parts["llm_labels"][by_slm]).all()


@pytest.mark.parametrize("p_threshold", [0.2, 0.5, 0.8])
def test_verdict_and_flag_share_their_threshold(p_threshold: float) -> None:
    """No LLM label that the mixture calls clean is overruled, whatever the threshold; a noisy one may be."""
    rng = np.random.default_rng(0)
    llm, p_clean = rng.integers(0, 2, 400), rng.random(400)
    probs = np.where(np.eye(2)[1 - llm] > 0, 0.999, 0.001)
    decision = decide(llm, probs, p_clean, np.full(400, -1), p_threshold=p_threshold)
    np.testing.assert_array_equal(decision.source == "slm", p_clean < p_threshold)


def test_the_form_is_filled_by_the_llm_and_by_the_slm_where_it_abstained() -> None:
    parts = example()
    parts["human_labels"][:] = -1
    decision = decide(**parts)
    asked = parts["llm_labels"] >= 0
    np.testing.assert_array_equal(decision.prediction_label[asked], parts["llm_labels"][asked])
    np.testing.assert_array_equal(decision.prediction_label[~asked], decision.slm_label[~asked])
    expected = parts["probs"][np.arange(300), decision.prediction_label]
    np.testing.assert_allclose(decision.prediction_score, expected)


def test_all_abstained_takes_the_slm() -> None:
    probs = np.array([[0.2, 0.8], [0.9, 0.1]])
    decision = decide(np.array([-1, -1]), probs, np.array([np.nan, np.nan]), np.array([-1, -1]))
    assert decision.label.tolist() == [1, 0]
    assert decision.flag.tolist() == ["noisy", "noisy"]
    assert decision.source.tolist() == ["slm", "slm"]


def test_no_samples() -> None:
    empty = np.zeros(0, dtype=int)
    assert decide(empty, np.zeros((0, 3)), np.zeros(0), empty).label.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probs": np.zeros((3, 2))}, r"\(3, 2\)"),
        ({"p_clean": np.zeros(3)}, r"\(3,\)"),
        ({"probs": np.full((300, 4), np.nan)}, "300 of 300 rows of probs are not finite"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decide(**(example() | change))
