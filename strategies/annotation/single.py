"""What if there is one annotator? Its answer is the label."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.annotation import ANNOTATION, Ask, Decision, Opinion


@ANNOTATION.register("single")
def single(opinions: Sequence[Opinion]) -> Ask | Decision:
    """Ask the first annotator once; its label, or its abstention, is the decision."""
    if not opinions:
        return Ask(annotator=0)
    first = opinions[0]
    return Decision(first.label, first.confidence, decided_by=first.annotator, reason=first.reason)
