"""What does every annotation strategy take and give?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from strategies.registry import Registry


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
    rival : str or None
        The next likely label, where it is known.
    asked : bool
        False for what was known before anybody was asked: the small model's opinion, an earlier round's label.
    """

    label: str | None
    confidence: float | None = None
    annotator: str = ""
    reason: str | None = None
    rival: str | None = None
    asked: bool = True

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence is {self.confidence!r}; it must lie in [0, 1], or be None when unknown.")


@dataclass(frozen=True)
class Ask:
    """The strategy wants another opinion.

    Attributes
    ----------
    annotator : int
        Which of the round's annotators, by its place; 0 is the first and cheapest.
    candidates : tuple of str or None
        The only labels to choose from; None for all of them.
    draw : int
        0 for the annotator's best answer; 1, 2, ... for further samples of the same question.
    """

    annotator: int = 0
    candidates: tuple[str, ...] | None = None
    draw: int = 0


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


@dataclass(frozen=True)
class Team:
    """Who can be asked.

    Attributes
    ----------
    size : int
        Number of annotators, >= 1, cheapest first.
    votes : int
        Opinions on each sample, for the strategies that count them.
    labels : tuple of str
        All labels, in the order of the label config.
    """

    size: int = 1
    votes: int = 3
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1 or self.votes < 1:
            raise ValueError(f"A team has {self.size} annotators and {self.votes} votes; both must be at least 1.")


class AnnotationStrategy(Protocol):
    """Decides from the opinions on one sample, or says whom to ask next. Pure: equal opinions, equal answer."""

    @property
    def waits(self) -> bool:
        """Whether it compares samples: all of them get their next opinion before any goes on, and ``fit`` is called between."""
        ...

    @property
    def uses_small_model(self) -> bool:
        """Whether the small model's opinion, where there is one, changes anything."""
        ...

    def fit(self, wave: Sequence[Sequence[Opinion]]) -> AnnotationStrategy:
        """Return this strategy, having seen the opinions on all samples of the round, those decided already among them.

        What it learns there must not depend on opinions that a later wave adds, so that a resumed round decides the same.
        """
        ...

    def __call__(self, opinions: Sequence[Opinion]) -> Ask | Decision:
        """Return the decision, or what to ask next; must decide after finitely many opinions.

        Parameters
        ----------
        opinions : sequence of Opinion
            Those known beforehand first, then those asked for, oldest first.
        """
        ...


Maker: TypeAlias = Callable[[Team], AnnotationStrategy]

ANNOTATION: Registry[Maker] = Registry("annotation strategy")

SLM = "slm"
"""The annotator of an opinion that is the small model's."""


def asked_for(opinions: Sequence[Opinion]) -> list[Opinion]:
    """Return the opinions that somebody was asked for, oldest first."""
    return [opinion for opinion in opinions if opinion.asked]


def small_model(opinions: Sequence[Opinion]) -> Opinion | None:
    """Return the small model's opinion, or None where there is none with a label."""
    return next((o for o in opinions if not o.asked and o.annotator == SLM and o.label is not None), None)


def passed_on(opinion: Opinion) -> Decision:
    """Return the decision that is one annotator's word."""
    return Decision(opinion.label, opinion.confidence, decided_by=opinion.annotator, reason=opinion.reason)


def nobody(opinions: Sequence[Opinion]) -> Decision:
    """Return the abstention of all who were asked, with all their reasons."""
    reasons = dict.fromkeys(opinion.reason or "no label" for opinion in opinions)
    names = dict.fromkeys(opinion.annotator for opinion in opinions)
    return Decision(None, decided_by="+".join(names), reason=" ".join(reasons) or "Nobody gave a label.")
