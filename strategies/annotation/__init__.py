"""How do the answers about one sample become one label? One file a way; the registry is ``ANNOTATION``.

A strategy is called with the opinions that are there so far, oldest first, and either decides or says what to ask next. What
it needs beyond the sample (weights of the annotators, a threshold of confidence) it learns in ``fit`` from all samples
together, so that the caller only runs the loop::

    strategy = ANNOTATION.get("chain")(Team(size=3))
    while open:
        strategy = strategy.fit(all_opinions)
        for sample in open:
            step = strategy(opinions[sample])     # Ask: put the question. Decision: it is done.
"""

from __future__ import annotations

from strategies.annotation.base import (
    ANNOTATION,
    SLM,
    AnnotationStrategy,
    Ask,
    Decision,
    Opinion,
    Team,
)
from strategies.annotation.chain import Chain
from strategies.annotation.sampled import Sampled
from strategies.annotation.single import Single
from strategies.annotation.small_first import SmallFirst
from strategies.annotation.two_candidates import TwoCandidates
from strategies.annotation.vote import Vote

__all__ = [
    "ANNOTATION",
    "SLM",
    "AnnotationStrategy",
    "Ask",
    "Chain",
    "Decision",
    "Opinion",
    "Sampled",
    "Single",
    "SmallFirst",
    "Team",
    "TwoCandidates",
    "Vote",
]
