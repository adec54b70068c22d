"""Is a slice routed to the SLM only where people's labels say so, and what becomes of its verdicts then?"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from strategies.review.routing import FEWEST_CHECKED, SURE, explaining_noise, route, sureness
from strategies.review.verdict import decide

Array: TypeAlias = npt.NDArray[Any]


def corpus(n: int = 600, llm_right: float = 0.5, slm_right: float = 0.85, seed: int = 0) -> dict[str, Array]:
    """Two slices: in "mr" the LLM is right as often as asked, in "en" in 95 %; the SLM the same in both, sure where it is right."""
    rng = np.random.default_rng(seed)
    names = np.where(np.arange(n) % 2 == 0, "mr", "en").astype(object)
    truth = rng.integers(0, 3, n)
    good = np.where(names == "mr", llm_right, 0.95)
    llm = np.where(rng.random(n) < good, truth, (truth + rng.integers(1, 3, n)) % 3)
    slm = np.where(rng.random(n) < slm_right, truth, (truth + rng.integers(1, 3, n)) % 3)
    sure = np.where(slm == truth, rng.uniform(0.6, 0.98, n), rng.uniform(0.4, 0.7, n))
    probs = np.where(np.eye(3)[slm] > 0, sure[:, None], (1 - sure[:, None]) / 2)
    human = np.where(np.arange(n) % 6 < 2, truth, -1)  # the same share of both
    p_clean = np.where(llm == slm, 0.9, 0.2)
    return {"names": names, "truth": truth, "llm": llm, "probs": probs, "human": human, "p_clean": p_clean}


def decided(parts: dict[str, Array], *, routed: bool) -> Any:
    routing = route(parts["names"].tolist(), parts["llm"], parts["probs"], parts["human"])
    noise = routing.noise if routed else None
    return decide(parts["llm"], parts["probs"], parts["p_clean"], parts["human"], slm_first=noise)


def test_only_the_slice_in_which_the_llm_is_worse_is_routed() -> None:
    parts = corpus()
    routing = route(parts["names"].tolist(), parts["llm"], parts["probs"], parts["human"])
    found = {one.name: one for one in routing.slices}
    assert (found["mr"].slm_first, found["en"].slm_first) == (True, False)
    assert (found["mr"].tasks, found["mr"].checked) == (300, 100)
    mr = parts["names"] == "mr"
    assert np.isnan(routing.noise[~mr]).all()
    assert (routing.noise[mr] == found["mr"].noise).all()
    one = found["mr"]
    assert one.slm_right - one.llm_right == one.slm_only - one.llm_only > 0
    assert one.noise is not None
    assert one.to_json()["slm_first"] is True


def test_a_routed_slice_takes_the_slms_labels_and_is_reviewed_more() -> None:
    parts = corpus()
    usual, routed = decided(parts, routed=False), decided(parts, routed=True)
    mr, free = parts["names"] == "mr", parts["human"] < 0

    def right(decision: Any, rows: Array) -> float:
        return float((decision.label == parts["truth"])[rows].mean())

    assert right(routed, mr & free) > right(usual, mr & free)
    np.testing.assert_array_equal(routed.prediction_label[mr & free], routed.label[mr & free])
    clean = [(one.flag == "clean")[mr & free].mean() for one in (usual, routed)]
    assert clean[1] <= clean[0]
    assert np.median(routed.rank[mr & free]) < np.median(usual.rank[mr & free]), "its tasks come earlier"
    assert routed.score[mr & free].mean() < routed.score[~mr & free].mean()


def test_the_other_slices_are_judged_as_if_the_routed_one_were_not_there() -> None:
    parts = corpus()
    en = parts["names"] == "en"
    alone = {name: values[en] for name, values in parts.items()}
    together, apart = decided(parts, routed=True), decided(alone, routed=True)
    np.testing.assert_array_equal(together.label[en], apart.label)
    np.testing.assert_allclose(together.score[en], apart.score)
    np.testing.assert_array_equal(together.flag[en], apart.flag)


def test_a_person_is_certain_and_the_machine_keeps_its_own_word() -> None:
    parts = corpus()
    decision = decided(parts, routed=True)
    done = parts["human"] >= 0
    np.testing.assert_array_equal(decision.label[done], parts["human"][done])
    assert (decision.machine_label[done] != parts["human"][done]).any()
    np.testing.assert_array_equal(decision.machine_label[~done], decision.label[~done])


def test_few_checked_tasks_route_nothing() -> None:
    parts = corpus(llm_right=0.0, slm_right=1.0)
    mr = np.flatnonzero(parts["names"] == "mr")

    def routed(n: int) -> list[str]:
        human = np.full(600, -1)
        human[mr[:n]] = parts["truth"][mr[:n]]
        found = route(parts["names"].tolist(), parts["llm"], parts["probs"], human)
        return [one.name for one in found.slices if one.slm_first]

    assert routed(FEWEST_CHECKED - 1) == []
    assert routed(FEWEST_CHECKED) == ["mr"]


def test_enough_random_tasks_count_alone() -> None:
    """The queue showed people where the LLM errs; a random check says that it does not err much."""
    parts = corpus(llm_right=0.95, slm_right=0.6)
    worst = (parts["llm"] != parts["truth"]) | (np.arange(600) % 20 == 1)
    human, drawn = np.where(worst, parts["truth"], -1), np.zeros(600, dtype=bool)
    parts["probs"][worst] = np.eye(3)[parts["truth"][worst]]

    def routed() -> list[bool]:
        found = route(parts["names"].tolist(), parts["llm"], parts["probs"], human, drawn).slices
        return [one.slm_first for one in found if one.name == "en"]

    assert routed() == [True]
    random = np.flatnonzero(parts["names"] == "en")[: 4 * FEWEST_CHECKED : 3]
    human[random], drawn[random] = parts["truth"][random], True
    assert routed() == [False]


def test_two_that_agree_are_not_overruled_however_bad_the_llm_is() -> None:
    probs = np.array([[0.55, 0.45], [0.45, 0.55]])
    llm, human = np.array([0, 0]), np.array([-1, -1])
    decision = decide(llm, probs, np.array([0.9, 0.1]), human, slm_first=np.array([0.9, 0.9]))
    assert decision.label.tolist() == [0, 1]
    assert decision.source.tolist() == ["llm", "slm"]


def test_equal_annotators_are_rarely_routed_and_a_better_llm_next_to_never() -> None:
    rng = np.random.default_rng(0)

    def share(llm_right: float, slm_right: float) -> float:
        llm, slm = rng.random((4000, 50)) < llm_right, rng.random((4000, 50)) < slm_right
        pairs = zip((llm & ~slm).sum(1), (slm & ~llm).sum(1), strict=True)
        return float(np.mean([sureness(np.array([a]), np.array([b]))[0] >= SURE for a, b in pairs]))

    assert share(0.8, 0.8) < 0.05
    assert share(0.8, 0.7) < 0.005
    assert share(0.55, 0.85) > 0.9


def test_what_is_true_of_others_routes_no_slice_and_hinders_a_lucky_one() -> None:
    alone = sureness(np.array([1]), np.array([6]))[0]
    beside_good_llms = sureness(np.array([1, 90]), np.array([6, 10]))[0]
    beside_bad_llms = sureness(np.array([1, 10]), np.array([6, 90]))[0]
    assert beside_good_llms < alone
    assert beside_bad_llms == pytest.approx(alone)
    assert sureness(np.array([0, 0]), np.array([0, 90]))[0] <= 0.5 + 1e-9


def test_tasks_in_no_slice_are_one_slice_and_an_empty_corpus_is_none() -> None:
    parts = corpus()
    [one] = route([None] * 600, parts["llm"], parts["probs"], parts["human"]).slices
    assert (one.name, one.tasks) == ("", 600)
    empty = np.zeros(0, dtype=int)
    assert route([], empty, np.zeros((0, 3)), empty).slices == ()
    with pytest.raises(ValueError, match="2 names of slices for 600"):
        route(["a", "b"], parts["llm"], parts["probs"], parts["human"])


def test_the_worse_the_llm_is_the_less_its_label_weighs() -> None:
    found = []
    for right in (0.95, 0.8, 0.5):
        parts = corpus(4000, llm_right=right)
        mr = parts["names"] == "mr"
        found.append(explaining_noise(parts["llm"][mr], parts["probs"][mr], parts["truth"][mr]))
    assert found == sorted(set(found)), found
