"""Which rule decides a flag?"""

import numpy as np

from strategies.review.flags import flag_samples


def flags(llm: list[int], slm: list[int], margin: list[float], p_clean: list[float], human: list[int]) -> list[str]:
    arrays = [np.array(a) for a in (llm, slm, margin, p_clean, human)]
    return [str(flag) for flag in flag_samples(*arrays, p_threshold=0.5)]


def test_each_rule_and_their_order() -> None:
    assert flags(
        llm=[0, -1, 0, 0, 0, 0, 0],
        slm=[1, 1, 1, 1, 0, 0, 1],
        margin=[9, 0, 2, 0.1, 0, 0, 0.1],
        p_clean=[0.0, np.nan, 0.9, 0.9, 0.2, 0.9, 0.2],
        human=[1, -1, -1, -1, -1, -1, -1],
    ) == ["clean", "noisy", "inconsistent", "clean", "noisy", "clean", "noisy"]


def test_unknown_p_clean_is_no_reason_to_flag() -> None:
    assert flags([0], [0], [0.0], [np.nan], [-1]) == ["clean"]


def test_the_threshold_is_used() -> None:
    arrays = [np.array([0]), np.array([0]), np.array([0.0]), np.array([0.6]), np.array([-1])]
    assert flag_samples(*arrays, p_threshold=0.5).tolist() == ["clean"]
    assert flag_samples(*arrays, p_threshold=0.7).tolist() == ["noisy"]
