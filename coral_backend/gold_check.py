"""How good are the labels? A few random tasks of each slice, for people to label first, in a tab of Label Studio.

What people correct on their way through the review queue says little about the corpus, because the queue begins with what is doubtful. A
gold check is random: what is found on it is true of the slice, within its interval. The tasks of a slice are ordered by a digest of
their ids and a seed, and the first N are drawn: the same N tasks each time, and a larger N adds to them. The order of the tab goes
round the slices, so that people may stop anywhere.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from typing import Any

from coral_backend import review
from coral_backend.exceptions import InputError
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.rounds import settings_for
from coral_backend.settings import Settings
from coral_backend.store import Store, checks
from coral_backend.sync import refresh_project, sync_samples
from coral_backend.types import Sample

__all__ = ["PER_SLICE", "GoldCheck", "choose", "draw_check"]

PER_SLICE = 30
"""Tasks of each slice: a share of 80 % is then known to within 17 points below and 10 above; with 100 to within 9 and 7."""

FEWEST_TASKS = 20
"""Smaller slices are passed over unless they are named: languages that a detector saw in two short texts, mostly."""


@dataclass(frozen=True)
class GoldCheck:
    """What was drawn.

    Attributes
    ----------
    drawn : mapping of str to int
        Tasks drawn by now from each slice; ``""`` is the slice of tasks that are in none.
    new : int
        Tasks that were not drawn before.
    to_do : int
        Tasks drawn that nobody has labelled.
    passed_over : int
        Slices that were too small.
    tab : int or None
        Id of the tab in Label Studio.
    """

    drawn: Mapping[str, int]
    new: int
    to_do: int
    passed_over: int
    tab: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def draw_check(
    store: Store,
    settings: Settings,
    client: LabelStudioClient,
    project_id: int,
    *,
    per_slice: int = PER_SLICE,
    only: Collection[str] = (),
) -> GoldCheck:
    """Read the tasks from Label Studio, draw `per_slice` of each slice at random, and put them into the tab "Gold check".

    Parameters
    ----------
    per_slice : int
        At least 1; those drawn and labelled before count.
    only : collection of str
        Names of slices; default: all that are large enough.

    Raises
    ------
    InputError
        If a slice that is named does not exist, or no task can be labelled.
    LabelStudioError
        If Label Studio is away or does not take the column; what was drawn is kept.
    """
    project = refresh_project(store, client, project_id)
    own = settings_for(settings, project)
    sync_samples(store, client, own, project, lambda _done, _total, _detail: None)
    samples = [sample for sample in store.samples(project_id) if sample.problem is None]
    chosen, passed_over = choose(samples, own.seed, per_slice=per_slice, only=only)
    new = checks.draw(store, project_id, chosen)
    tabs = review.show_check(store, client, store.project(project_id))
    pulled, done = checks.drawn(store, project_id), store.human_labels(project_id)
    counts: dict[str, int] = defaultdict(int)
    for one in pulled:
        counts[one.slice] += 1
    tab = next((view for title, view in tabs.items() if title.startswith("Gold check")), None)
    return GoldCheck(dict(counts), len(new), sum(one.task_id not in done for one in pulled), passed_over, tab)


def choose(
    samples: Sequence[Sample], seed: int, *, per_slice: int, only: Collection[str] = ()
) -> tuple[dict[int, str], int]:
    """Return the tasks drawn, task id -> slice, in the order in which people see them; and how many slices were too small.

    Raises
    ------
    InputError
        If a slice in `only` does not exist.
    """
    slices: dict[str, list[int]] = defaultdict(list)
    for sample in samples:
        slices[sample.slice or ""].append(sample.task_id)
    unknown = sorted(set(only) - set(slices))
    if unknown:
        there = ", ".join(sorted(name or "(none)" for name in slices)[:20]) or "none"
        raise InputError(
            f"There is no slice {', '.join(map(repr, unknown))}. There are: {there}. CORAL_SLICE_KEY says by what tasks are parted."
        )
    largest = max(map(len, slices.values()), default=0)
    wanted = set(only) or {n for n, tasks in slices.items() if len(tasks) >= min(FEWEST_TASKS, largest)}
    columns = [
        [(task_id, name) for task_id in sorted(slices[name], key=lambda task_id: _digest(seed, task_id))[:per_slice]]
        for name in sorted(wanted)
    ]
    in_turn = (one for one in chain.from_iterable(zip_longest(*columns)) if one is not None)
    return dict(in_turn), len(slices) - len(wanted)


def _digest(seed: int, task_id: int) -> bytes:
    return hashlib.sha256(f"{seed} {task_id}".encode()).digest()
