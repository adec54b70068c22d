"""Which of two labels is right, the LLM's or the small model's? The LLM chooses between exactly these two."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.annotation.base import (
    ANNOTATION,
    SLM,
    Ask,
    Decision,
    Opinion,
    Team,
    asked_for,
    nobody,
    passed_on,
    small_model,
)

LARGE_LOSS = 0.5
"""The small model's probability of a label that it shares with the LLM, below which the two likeliest are put to the LLM."""


@ANNOTATION.register("two_candidates")
class TwoCandidates:
    """Keep the LLM's label where the small model shares it; else ask the last annotator to choose between the two.

    The LLM's label is the one it gave in an earlier round, where there is one, so that each doubtful sample costs one
    question with two candidates. Samples on which both agree are not asked about again: the paper found that to do harm.

    References
    ----------
    A Unified Framework for LLM-based ReLabel Method, section 2.2 and (what not to ask again) section 4.4.
    """

    waits = True
    uses_small_model = True

    def __init__(self, team: Team) -> None:
        self._last = team.size - 1

    def fit(self, wave: Sequence[Sequence[Opinion]]) -> TwoCandidates:  # noqa: ARG002 - one signature for all strategies
        """Learn nothing."""
        return self

    def __call__(self, opinions: Sequence[Opinion]) -> Ask | Decision:
        """Return the first label, or the one chosen of two."""
        asked, slm = asked_for(opinions), small_model(opinions)
        earlier = [o for o in opinions if not o.asked and o.annotator != SLM and o.label is not None]
        if not earlier and not asked:
            return Ask(annotator=0)
        first, *choices = [*earlier[-1:], *asked]
        pair = _candidates(first, slm)
        if pair is None:
            return passed_on(first) if first.label is not None else nobody([first])
        if not choices:
            return Ask(annotator=self._last, candidates=pair)
        return _chosen(choices[-1], first, slm)


def _candidates(first: Opinion, slm: Opinion | None) -> tuple[str, str] | None:
    """Return the two labels in question; None when there is no question."""
    if slm is None or slm.label is None:
        return None
    if first.label is not None and first.label != slm.label:
        return first.label, slm.label
    doubtful = first.label is None or (slm.confidence is not None and slm.confidence < LARGE_LOSS)
    return (slm.label, slm.rival) if doubtful and slm.rival is not None else None


def _chosen(choice: Opinion, first: Opinion, slm: Opinion | None) -> Decision:
    """Return the choice; without one the first label, then the small model's."""
    if choice.label is not None:
        return passed_on(choice)
    if first.label is not None:
        return passed_on(first)
    return passed_on(slm) if slm is not None else nobody([first, choice])
