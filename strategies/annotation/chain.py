"""Which of several models need to see a text? A chain, cheapest first; each forwards what it is least sure of to the next."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from strategies.annotation.base import ANNOTATION, Ask, Decision, Opinion, Team, asked_for, nobody, small_model

SHARES = (1 / 3, 1 / 2)
"""The share that the first link forwards, and that every later one does."""

UNSAID = 0.75
"""How sure an annotator is taken to be that does not say; only whether several agree matters then."""

SURENESS = (0.05, 0.99)
"""Whatever an annotator says of itself is moved into this range: none is absolutely sure."""

NO_NEWS = 1e-9
"""Certainties that differ by less are the same."""


@ANNOTATION.register("chain")
class Chain:
    """Ask the links in turn; a link keeps the samples it is surest of and forwards the least certain share of its own.

    The certainty about a sample joins what all links said so far, each as sure as it said, with the small model's opinion. A
    link that tells the samples apart in no way (no confidence, no small model, the first of its chain) forwards all of them: its
    agreement with the next is the first sign of certainty. Where certainties are equal, the share forwarded is the nearest one
    that does not part equals.

    References
    ----------
    Farr et al.: LLM Chain Ensembles for Scalable and Accurate Data Annotation, 2024: the least certain third, then half.
    """

    waits = True
    uses_small_model = True

    def __init__(self, team: Team, thresholds: Mapping[tuple[int, str], float] | None = None) -> None:
        self._team = team
        self._thresholds = dict(thresholds or {})

    def fit(self, wave: Sequence[Sequence[Opinion]]) -> Chain:
        """Find, for each link, the certainty that its least certain share stays below."""
        by_link: dict[tuple[int, str], list[float]] = defaultdict(list)
        for opinions in wave:
            known = [o for o in opinions if not o.asked]
            asked = asked_for(opinions)
            for i, opinion in enumerate(asked):
                if opinion.label is not None:
                    by_link[i, opinion.annotator].append(self._certainty([*known, *asked[: i + 1]]))
        return Chain(self._team, {key: threshold(values, self._share(key[0])) for key, values in by_link.items()})

    def __call__(self, opinions: Sequence[Opinion]) -> Ask | Decision:
        """Return the label that the chain is sure of, or the last link's."""
        asked = asked_for(opinions)
        link = len(asked) - 1
        if link < 0:
            return Ask(annotator=0)
        threshold = self._thresholds.get((link, asked[-1].annotator), math.inf)
        undecided = asked[-1].label is None or self._certainty(opinions) < threshold
        if undecided and link + 1 < self._team.size:
            return Ask(annotator=link + 1)
        return self._decision(opinions)

    def _decision(self, opinions: Sequence[Opinion]) -> Decision:
        """Return the last link's label; where it abstained the one before it."""
        asked = asked_for(opinions)
        while asked and asked[-1].label is None:
            asked.pop()
        if not asked:
            return nobody(asked_for(opinions))
        known = [o for o in opinions if not o.asked]
        last = asked[-1]
        informed = len(asked) > 1 or last.confidence is not None or small_model(known) is not None
        return Decision(last.label, self._certainty([*known, *asked]) if informed else None, decided_by=last.annotator)

    def _share(self, link: int) -> float:
        return SHARES[min(link, len(SHARES) - 1)]

    def _certainty(self, opinions: Sequence[Opinion]) -> float:
        """Return how probable the last link's label is, in [0, 1], as if all opinions were independent."""
        asked = asked_for(opinions)
        small = small_model(opinions)
        said = [o for o in (*asked, *([small] if small else [])) if o.label is not None]
        last = str(asked[-1].label)
        rivals = max(1, len(self._team.labels) - 1)
        score: dict[str, float] = defaultdict(float)
        for opinion in said:
            sure = min(max(UNSAID if opinion.confidence is None else opinion.confidence, SURENESS[0]), SURENESS[1])
            score[str(opinion.label)] += math.log(sure / (1.0 - sure) * rivals)
        top = max(score.values())
        others = (1 + rivals - len(score)) * math.exp(min(0.0, -top))
        total = sum(math.exp(value - top) for value in score.values()) + others
        return math.exp(score[last] - top) / total


def threshold(certainties: Sequence[float], share: float) -> float:
    """Return the certainty below which about `share` of `certainties` lie; infinity when all are the same.

    Never between equals: of the two cuts beside the quantile the one whose share is nearer.
    """
    values = np.sort(np.asarray(certainties, dtype=float))
    if values[-1] - values[0] < NO_NEWS:
        return math.inf
    cut = values[min(len(values) - 1, int(share * len(values)))]
    below = float(np.mean(values < cut - NO_NEWS))
    upto = float(np.mean(values <= cut + NO_NEWS))
    higher = values[values > cut + NO_NEWS]
    if higher.size and abs(upto - share) < abs(below - share):
        return float(higher[0])
    return float(cut)
