"""Which samples must a round still ask about? Read a page at a time, so that a chunk of a large corpus costs only itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from coral_backend.store import Store
from coral_backend.store.asked import Known
from coral_backend.types import Flag, Project, Round, Sample

__all__ = ["Unanswered"]

PAGE = 1000


@dataclass(frozen=True)
class Unanswered:
    """What a round asks about.

    A first round and a retraining ask for what has no label yet. A later round asks again about everything that is neither
    clean nor labelled by a person (the paper's refinery, section 2, component 4).
    """

    store: Store
    project: Project
    round: Round

    def first(self, limit: int, *, after: int) -> list[Sample]:
        """Return the first `limit` samples behind the task `after` that must still be asked about, by task id."""
        left = (known.sample for known in self._known(after) if self._is_left(known))
        return list(itertools.islice(left, limit))

    def count(self, limit: int | None = None) -> tuple[list[Sample], int, int]:
        """Look at all samples once.

        Returns
        -------
        samples : list of Sample
            The first `limit` that must still be asked about, by task id; all of them if it is None.
        left : int
            How many must still be asked about.
        total : int
            How many the round asks about in all.
        """
        samples: list[Sample] = []
        left = total = 0
        for known in self._known(0):
            total += self._counts(known)
            if self._is_left(known):
                left += 1
                if limit is None or left <= limit:
                    samples.append(known.sample)
        return samples, left, total

    def _known(self, after: int) -> Iterator[Known]:
        serving = self.project.active_round if self._asks_again else None
        while page := self.store.asked.page(self.project.id, after, PAGE, serving=serving):
            yield from page
            after = page[-1].sample.task_id

    @property
    def _asks_again(self) -> bool:
        return self.round.number > 1 and self.round.revision == 0 and self.project.active_round is not None

    def _is_left(self, known: Known) -> bool:
        if known.by_person or (self.round.number in known.answers and self._asks_again):
            return False
        newest = known.answers[max(known.answers)] if known.answers else None
        told = bool(known.answers) and (newest is None or self.project.label_space.allows(newest))
        return not told or (self._asks_again and not self._is_clean(known))

    def _counts(self, known: Known) -> bool:
        return not self._asks_again or not (known.by_person or self._is_clean(known))

    def _is_clean(self, known: Known) -> bool:
        return known.flag == Flag.CLEAN and self.project.label_space.allows(known.label)
