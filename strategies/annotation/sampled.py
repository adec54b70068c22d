"""How sure is a model that does not say? Ask it several times: the share of its samples that agree is its confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from strategies.annotation.base import AnnotationStrategy, Ask, Decision, Opinion, asked_for


class Sampled:
    """Any strategy, each of its questions asked `samples` times; it sees one opinion for them, the most frequent label.

    Abstentions count as disagreement. Costs `samples` times the requests.

    References
    ----------
    Wang et al.: Self-Consistency Improves Chain of Thought Reasoning in Language Models, 2022.
    """

    def __init__(self, inner: AnnotationStrategy, samples: int) -> None:
        if samples < 1:
            raise ValueError(f"{samples} samples of an answer; there must be at least 1.")
        self._inner, self._samples = inner, samples
        self.waits, self.uses_small_model = inner.waits, inner.uses_small_model

    def fit(self, wave: Sequence[Sequence[Opinion]]) -> Sampled:
        """Fit the strategy on the joined opinions."""
        return Sampled(self._inner.fit([self._joined(opinions)[0] for opinions in wave]), self._samples)

    def __call__(self, opinions: Sequence[Opinion]) -> Ask | Decision:
        """Ask on until the samples are complete, then as the strategy says."""
        joined, begun = self._joined(opinions)
        step = self._inner(joined)
        if isinstance(step, Decision):
            return step
        return replace(step, draw=step.draw * self._samples + begun)

    def _joined(self, opinions: Sequence[Opinion]) -> tuple[list[Opinion], int]:
        """Return the opinions of which all samples are in, joined, and the number of samples of the next one."""
        known = [o for o in opinions if not o.asked]
        asked, k = asked_for(opinions), self._samples
        complete = [asked[i : i + k] for i in range(0, len(asked) - k + 1, k)]
        return [*known, *map(_join, complete)], len(asked) % k


def _join(samples: Sequence[Opinion]) -> Opinion:
    votes = Counter(o.label for o in samples if o.label is not None)
    if not votes:
        return samples[0]
    (label, count), *others = votes.most_common()
    rival = others[0][0] if others else None
    return replace(samples[0], label=label, confidence=count / len(samples), reason=None, rival=rival)
