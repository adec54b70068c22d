"""How do the answers about one sample become one label? One file a way; the registry is ``ANNOTATION``.

A strategy is called with the opinions that are there so far, oldest first, and either decides or says what to ask next.
What it needs beyond the sample (weights of the annotators, a threshold of confidence) it holds itself, so that the caller
only runs the loop::

    opinions = []
    while isinstance(step := strategy(opinions), Ask):
        opinions.append(ask(annotators[step.annotator], step.candidates))
    step.label, step.confidence, step.decided_by
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from strategies.registry import Registry

__all__ = ["ANNOTATION", "AnnotationStrategy", "Ask", "Decision", "Opinion"]


@dataclass(frozen=True)
class Opinion:
    """What one annotator said about one sample.

    Attributes
    ----------
    label : str or None
        None when it abstained.
    confidence : float or None
        In [0, 1], 1 = surely right; None when unknown.
    annotator : str
        Who said it.
    reason : str or None
        Why there is no label; None when there is one.
    """

    label: str | None
    confidence: float | None = None
    annotator: str = ""
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence is {self.confidence!r}; it must lie in [0, 1], or be None when unknown.")


@dataclass(frozen=True)
class Ask:
    """The strategy wants another opinion.

    Attributes
    ----------
    annotator : int
        Which of the round's annotators, by its place; 0 is the first.
    candidates : tuple of str or None
        The only labels to choose from; None for all of them.
    """

    annotator: int = 0
    candidates: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Decision:
    """The strategy's label for the sample.

    Attributes
    ----------
    label : str or None
        None when nobody gave a usable answer; then `reason` says why.
    confidence : float or None
        In [0, 1], 1 = surely right, not calibrated; None when unknown.
    decided_by : str
        The annotator, or annotators, that the label comes from.
    """

    label: str | None
    confidence: float | None = None
    decided_by: str = ""
    reason: str | None = None


class AnnotationStrategy(Protocol):
    """A pure function of the opinions on one sample."""

    def __call__(self, opinions: Sequence[Opinion]) -> Ask | Decision:
        """Return the decision, or what to ask next; must decide after finitely many opinions."""
        ...


ANNOTATION: Registry[AnnotationStrategy] = Registry("annotation strategy")

from strategies.annotation import single as _single  # noqa: E402, F401 - enters itself into the registry
