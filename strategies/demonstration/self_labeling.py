"""Round 1: which samples does the LLM label for itself, without examples, to become its first examples?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strategies.demonstration.base import DEMONSTRATIONS, Bools, Floats, Ints, candidates


@DEMONSTRATIONS.register("self_labeling")
def self_labeling(
    *,
    texts: Sequence[str],
    labels: Ints,  # noqa: ARG001 - one signature for all strategies
    eligible: Bools,
    features: Floats | None,  # noqa: ARG001
    n: int,
    n_classes: int,  # noqa: ARG001
    rng: np.random.Generator,
) -> Ints:
    """Select `n` samples at random; see ``Demonstration``.

    They need no label: the caller has the LLM label them zero-shot and shows these answers in all later prompts of the round.

    References
    ----------
    CORAL, PVLDB 2024, section 3, "Self-Labeling".
    """
    pool = candidates(texts, eligible)
    return np.asarray(rng.permutation(pool)[: max(0, n)], dtype=np.int64)
