"""Which machine labels are clean, noisy or inconsistent? The paper's three flags."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Strings: TypeAlias = npt.NDArray[np.str_]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNLABELED = -1

CLEAN, NOISY, INCONSISTENT = "clean", "noisy", "inconsistent"


def flag_samples(
    llm_labels: Ints,
    slm_labels: Ints,
    slm_margin: Floats,
    p_clean: Floats,
    human_labels: Ints,
    *,
    p_threshold: float,
    slm_first: Bools | None = None,
) -> Strings:
    """Flag each sample; the first rule that holds decides.

    1. a person labelled it: ``clean``;
    2. the LLM abstained: ``noisy``, for its only label is a guess of the SLM;
    3. LLM and SLM differ, and the SLM gives its own label at least twice the probability of the LLM's: ``inconsistent``.
       A smaller difference is no contradiction but the SLM's own indecision; the next rule looks at it;
    4. ``p_clean`` is below the threshold, the mixture counts the label's loss among the noisy ones: ``noisy``;
    5. else ``clean``.

    Parameters
    ----------
    llm_labels, human_labels : ndarray
        Shape (N,), -1 where there is none.
    slm_labels : ndarray
        Shape (N,), the SLM's most probable label, out of sample.
    slm_margin : ndarray
        Shape (N,), nats >= 0: log of the SLM's probability of its own label over that of the LLM's.
    p_clean : ndarray
        Shape (N,), in [0, 1], NaN where unknown (counts as clean).
    p_threshold : float
        In (0, 1).
    slm_first : ndarray, optional
        Shape (N,), True where people found the LLM worse than the SLM: there any difference is a contradiction, and a label counts as
        clean only halfway between the threshold and 1.

    Returns
    -------
    ndarray
        Shape (N,), of ``"clean"``, ``"noisy"``, ``"inconsistent"``.

    References
    ----------
    CORAL, PVLDB 2024, section 4, step 4.
    """
    abstained = llm_labels == UNLABELED
    careful = np.zeros(len(llm_labels), dtype=bool) if slm_first is None else slm_first
    differ = (llm_labels != slm_labels) & ((slm_margin >= np.log(2.0)) | careful)
    low = np.nan_to_num(p_clean, nan=1.0) < np.where(careful, (1.0 + p_threshold) / 2.0, p_threshold)
    rules = [human_labels != UNLABELED, abstained, differ, low]
    return np.select(rules, [CLEAN, NOISY, INCONSISTENT, NOISY], default=CLEAN)
