"""What do several answers say together? Each counts by how often its annotator is right, estimated without gold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from strategies.annotation.base import ANNOTATION, Ask, Decision, Opinion, Team, asked_for, nobody
from strategies.annotation.dawid_skene import UNASKED, Annotators, Ints, estimate, uninformed


@ANNOTATION.register("vote")
class Vote:
    """Ask every annotator once, and again in turn until there are enough votes; a second question is a new sample.

    Several samples of one model count as several annotators: what one model always says is not made truer by saying it thrice,
    but the estimate sees only agreement, so that the confidence of such a vote is too high until it is calibrated.
    """

    waits = True
    uses_small_model = False

    def __init__(self, team: Team, known: Annotators | None = None) -> None:
        self._team = team
        self._seats = max(team.size, team.votes)
        self._known = known

    def fit(self, wave: Sequence[Sequence[Opinion]]) -> Vote:
        """Estimate the annotators from the samples on which all votes are in."""
        complete = [asked for opinions in wave if len(asked := asked_for(opinions)) >= self._seats]
        known = (
            estimate(np.stack([self._row(asked) for asked in complete]), len(self._team.labels)) if complete else None
        )
        return Vote(self._team, known)

    def __call__(self, opinions: Sequence[Opinion]) -> Ask | Decision:
        """Return the most probable label once all votes are in."""
        asked = asked_for(opinions)
        if len(asked) < self._seats:
            seat = len(asked)
            return Ask(annotator=seat % self._team.size, draw=seat // self._team.size)
        row = self._row(asked)
        if (row == UNASKED).all():
            return nobody(asked)
        known = self._known or uninformed(self._seats, len(self._team.labels))
        chances = known.posterior(row[None])[0]
        label = self._team.labels[int(chances.argmax())]
        backers = Counter(o.annotator for o in asked if o.label == label) or Counter(o.annotator for o in asked)
        return Decision(label, float(min(1.0, chances.max())), decided_by="+".join(sorted(backers)))

    def _row(self, asked: Sequence[Opinion]) -> Ints:
        """Return the votes of one sample, shape (A,)."""
        index = {label: k for k, label in enumerate(self._team.labels)}
        votes = [index.get(o.label, UNASKED) if o.label is not None else UNASKED for o in asked[: self._seats]]
        return np.asarray(votes, dtype=np.int64)
