"""What did a round, and the corrections it learned from, change elsewhere? Its verdicts beside those of the round before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from coral_backend.exceptions import InputError, NotFoundError
from coral_backend.store import Store
from coral_backend.types import Change, Round, RoundStatus

__all__ = ["Effect", "before_of", "changes", "effect_of", "round_named"]


@dataclass(frozen=True)
class Effect:
    """How the verdicts of a round differ from those it was built on.

    Attributes
    ----------
    round, before : str
        Names of the two rounds.
    people : int
        Tasks that got, lost or changed a person's label between them: the cause.
    labels, flags : int
        Verdicts elsewhere, on tasks that no person labelled, whose label (or flag) is another now: the effect.
    tasks : int
        Tasks elsewhere with either.
    compared : int
        Tasks that both rounds judged, with the same text.
    """

    round: str
    before: str
    people: int
    labels: int
    flags: int
    tasks: int
    compared: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def round_named(store: Store, project_id: int, name: str | int | float | None = None) -> Round:
    """Return a project's round by its name (``"2"``, ``"1.2"``); None is the newest that is done.

    Raises
    ------
    NotFoundError
        If there is none; the message names those there are.
    """
    rounds = store.rounds(store.project(project_id).id)
    wanted = None if name is None else str(name).strip()
    for one in sorted(rounds, key=lambda one: -one.id):  # after a rollback the newest has not the highest number
        if one.name == wanted or (wanted is None and one.status is RoundStatus.DONE):
            return one
    there = ", ".join(f"{one.name} ({one.status})" for one in rounds[:20]) or "none"
    what = f"no round {wanted!r:.40}" if wanted is not None else "no finished round"
    raise NotFoundError(f"Project {project_id} has {what}. Its rounds: {there}.")


def effect_of(store: Store, one: Round) -> Effect | None:
    """Return what a finished round changed; None for a first one, and for one that has judged nothing."""
    before = before_of(store, one)
    if before is None or one.status is not RoundStatus.DONE:
        return None
    counts = one.metrics.get("effect") or store.count_changes(one.project_id, before.id, one.id)
    return Effect(round=one.name, before=before.name, **counts)


def changes(
    store: Store, project_id: int, name: str | int | float | None = None, *, limit: int | None = None
) -> tuple[Effect, Iterator[Change]]:
    """Return what a round changed, and the verdicts that did, most doubtful first.

    Parameters
    ----------
    name : str, optional
        The round; default: the newest that is done.
    limit : int, optional
        At most so many changes.

    Raises
    ------
    NotFoundError
        If there is no such round.
    InputError
        If there is none before it to compare with.
    """
    one = round_named(store, project_id, name)
    effect, before = effect_of(store, one), before_of(store, one)
    if effect is None or before is None:
        raise InputError(
            f"Round {one.name} ({one.status}) has nothing to be compared with: it must be done, and not the first. "
            "Changes show after a retraining: coral round --retrain."
        )
    return effect, store.verdict_changes(project_id, before.id, one.id, limit=limit)


def before_of(store: Store, one: Round) -> Round | None:
    """Return the round that `one` was built on; rounds of an older CORAL do not know it: the one that was done before."""
    if one.parent_id is not None:
        return store.round(one.parent_id)
    older = [r for r in store.rounds(one.project_id) if r.status is RoundStatus.DONE and r.id < one.id]
    return max(older, key=lambda r: r.id, default=None)
