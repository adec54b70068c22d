"""What if one annotator is asked? Its answer is the label."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.annotation.base import ANNOTATION, Ask, Decision, Opinion, Team, asked_for, passed_on


@ANNOTATION.register("single")
class Single:
    """Ask the first annotator once; its label, or its abstention, is the decision."""

    waits = False
    uses_small_model = False

    def __init__(self, team: Team) -> None:
        self._team = team

    def fit(self, wave: Sequence[Sequence[Opinion]]) -> Single:  # noqa: ARG002 - one signature for all strategies
        """Learn nothing."""
        return self

    def __call__(self, opinions: Sequence[Opinion]) -> Ask | Decision:
        """Return the annotator's word."""
        asked = asked_for(opinions)
        return passed_on(asked[0]) if asked else Ask(annotator=0)
