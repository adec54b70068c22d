"""What must a kind of answer be able to do? Learn from a corpus, judge every task of it, and judge tasks that come later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Progress, Project, Sample, Verdict

__all__ = ["Judged", "Kind", "Work"]


@dataclass(frozen=True)
class Work:
    """What a kind works with.

    Attributes
    ----------
    project : Project
        As it was when the labels were read.
    settings : Settings
        The round's.
    folder : Path
        The round's own, for the model (``model``) and the arrays; both are derived and may be lost.
    earlier : Path or None
        In a retraining the folder of the round that serves: what it learned may serve again.
    """

    store: Store
    project: Project
    settings: Settings
    folder: Path
    earlier: Path | None = None


@dataclass(frozen=True)
class Judged:
    """What was decided.

    Attributes
    ----------
    verdicts : list of Verdict
        One for every task; the most doubtful has rank 1.
    facts : mapping
        What the round keeps of it in its metrics.
    """

    verdicts: list[Verdict]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Kind(Protocol):
    """The seam: what differs between one label a task, a set of labels, and spans."""

    def distil(self, work: Work, progress: Progress) -> Mapping[str, Any]:
        """Train the SLM on the labels as they stand, write model and arrays into the folder, and return facts for the round.

        Raises
        ------
        TrainingError
            If there is too little to learn from.
        """
        ...

    def judge(self, work: Work) -> Judged | None:
        """Decide about every task; None when the round's arrays are missing."""
        ...

    def judge_new(self, work: Work, samples: Sequence[Sample]) -> list[Verdict] | None:
        """Score tasks that the SLM was not trained on, keep that with the round's arrays, and judge; None as ``judge``.

        Those of `samples` are among the verdicts that are returned; others may be.
        """
        ...
