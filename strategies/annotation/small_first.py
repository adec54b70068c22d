"""Which texts need the large model at all? Small models label first; only where they differ or doubt is the large one asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from strategies.annotation.base import ANNOTATION, Ask, Decision, Opinion, Team, asked_for, nobody, small_model

SURE = 0.9
"""A small model alone decides when it is at least so sure."""

DOUBT = 0.5
"""Small models that agree do not decide when one of them is less sure than this."""


@ANNOTATION.register("small_first")
class SmallFirst:
    """Let the small model and all annotators but the last label; ask the last where these differ or doubt.

    With one annotator and no small model yet, which is so in a first round, it is asked about everything.

    References
    ----------
    AutoAnnotator (multi-model cooperative annotation), 2025: small models vote, the large model reviews the hard samples.
    """

    waits = True
    uses_small_model = True

    def __init__(self, team: Team) -> None:
        self._last = team.size - 1

    def fit(self, wave: Sequence[Sequence[Opinion]]) -> SmallFirst:  # noqa: ARG002 - one signature for all strategies
        """Learn nothing."""
        return self

    def __call__(self, opinions: Sequence[Opinion]) -> Ask | Decision:
        """Return what the small ones agree on, else what the last one says."""
        asked, slm = asked_for(opinions), small_model(opinions)
        small = [slm] if slm else []
        for answer in asked:
            step = self._next(small, slm)
            if isinstance(step, Decision):
                return step
            if step.annotator == self._last:
                return self._after_the_last(answer, small)
            small.append(answer)
        return self._next(small, slm)

    def _next(self, small: Sequence[Opinion], slm: Opinion | None) -> Ask | Decision:
        """Return what follows the small ones' opinions: the next of them, the last annotator, or their decision."""
        asked = len(small) - (slm is not None)
        if small and _differ(small):
            return Ask(annotator=self._last)
        if _is_sure(small) and (asked == self._last or len(small) == 1):
            return _together(small)
        return Ask(annotator=min(asked, self._last))

    def _after_the_last(self, last: Opinion, small: Sequence[Opinion]) -> Decision:
        """Return the last one's label; where it abstained the most frequent of the small ones'."""
        if last.label is not None:
            return Decision(last.label, last.confidence, decided_by=last.annotator)
        said = [o for o in small if o.label is not None]
        if not said:
            return nobody([*(o for o in small if o.asked), last])
        label = Counter(str(o.label) for o in said).most_common(1)[0][0]
        return _together([o for o in said if o.label == label])


def _differ(small: Sequence[Opinion]) -> bool:
    return len({o.label for o in small}) > 1 or small[0].label is None


def _is_sure(small: Sequence[Opinion]) -> bool:
    if not small:
        return False
    if len(small) == 1:
        return small[0].confidence is not None and small[0].confidence >= SURE
    return all(o.confidence is None or o.confidence >= DOUBT for o in small)


def _together(agreeing: Sequence[Opinion]) -> Decision:
    """Return the label of small models that agree, as sure as the least sure of them that says."""
    said = [o.confidence for o in agreeing if o.confidence is not None]
    names = "+".join(dict.fromkeys(o.annotator for o in agreeing))
    return Decision(agreeing[0].label, min(said) if said else None, decided_by=names)
