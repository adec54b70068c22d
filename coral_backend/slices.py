"""How do the slices of a project stand, in words and lines? What a round decided about each, and what people say of it by now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from coral_backend.labelstudio import columns
from coral_backend.store import Store
from coral_backend.store.checks import Found, found_in_slices
from coral_backend.types import Project

if TYPE_CHECKING:
    from strategies.review.routing import Slice

__all__ = ["SliceLine", "interval", "said_of", "slice_column", "slice_lines", "told_of_slices", "worth_showing"]

MOST_KEPT = 50
"""So many slices of a round are kept in its metrics, beside all that are SLM-first."""

MOST_SHOWN = 12
"""So many are shown by name; the others are one line, unless people checked them."""

OTHERS = "(others)"
NO_SLICE = "(all)"
"""Name of the slice of tasks that are in none."""

Z = 1.959964
"""Standard normal quantile of a 95 % interval."""


@dataclass(frozen=True)
class SliceLine:
    """One line of the table of slices.

    Attributes
    ----------
    name : str
        What people read.
    tasks, checked, llm_right, slm_right, drawn, drawn_checked, machine_right : int
        As in ``store.checks.Found``.
    slm_first : bool
        Whether the round that serves puts the SLM's label first.
    sureness : float or None
        How sure that round was, in [0, 1], that the SLM is right more often; None where it did not compare.
    interval : tuple of float or None
        95 % interval for the share of right machine verdicts in the slice, from the tasks drawn at random; None without any.
    """

    name: str
    tasks: int
    checked: int
    llm_right: int
    slm_right: int
    drawn: int
    drawn_checked: int
    machine_right: int
    slm_first: bool
    sureness: float | None
    interval: tuple[float, float] | None

    @property
    def llm(self) -> float | None:
        """Share of the checked tasks on which the LLM is right."""
        return self.llm_right / self.checked if self.checked else None

    @property
    def slm(self) -> float | None:
        """Share of them on which the SLM is right."""
        return self.slm_right / self.checked if self.checked else None

    @property
    def machine(self) -> float | None:
        """Share of the drawn and checked tasks on which the machine's verdict is right."""
        return self.machine_right / self.drawn_checked if self.drawn_checked else None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "llm": self.llm, "slm": self.slm, "machine": self.machine}


def told_of_slices(slices: Sequence[Slice]) -> dict[str, Any]:
    """Return what a round keeps of its slices in its metrics."""
    kept = [one for place, one in enumerate(slices) if place < MOST_KEPT or one.slm_first]
    return {"slices": [one.to_json() for one in kept], "n_slices": len(slices)}


def said_of(decided: Mapping[str, Any]) -> str:
    """Say in a sentence why a slice, as a round keeps it, is SLM-first."""
    n = decided["checked"]
    name = f"{decided['name'] or NO_SLICE}{', ' + str(decided['control']) if 'control' in decided else ''}"
    return (
        f"{name}: of {n} tasks that people checked the LLM is right on {decided['llm_right']}, the SLM on "
        f"{decided['slm_right']} ({decided['sureness']:.1%} sure that the SLM is better): its {decided['tasks']:,} tasks are "
        "labelled SLM-first, and more of them are flagged for review"
    )


def slice_column(
    store: Store, project_id: int, round_id: int, task_ids: Sequence[int] | None = None
) -> dict[int, columns.Value]:
    """Return what stands in Label Studio's column of slices for the tasks, as a round decided about the slices."""
    decided = store.round(round_id).metrics.get("slices") or ()
    slices = {sample.task_id: sample.slice for sample in store.samples(project_id, task_ids)}
    return columns.slice_values(slices, {str(one["name"]) for one in decided if one.get("slm_first")})


def slice_lines(store: Store, project: Project, *, most: int | None = MOST_SHOWN) -> list[SliceLine]:
    """Return the lines of a project's slices, the largest first; small ones that nobody checked are one line at the end.

    Parameters
    ----------
    most : int or None
        So many are named in any case; None names all.
    """
    metrics = store.round(project.active_round).metrics if project.active_round is not None else {}
    decided = {str(one["name"]): one for one in metrics.get("slices") or ()}
    found = found_in_slices(store, project.id, project.active_round)
    named = [
        one
        for place, one in enumerate(found)
        if most is None or place < most or one.checked or one.drawn or _first(decided, one)
    ]
    rest = [one for one in found if one not in named]
    lines = [_line(one, one.slice or NO_SLICE, decided.get(one.slice, {})) for one in named]
    if rest:
        lines.append(_line(Found("", sum(one.tasks for one in rest)), f"{OTHERS[:-1]}: {len(rest)})", {}))
    return lines


def worth_showing(lines: Sequence[SliceLine]) -> bool:
    """Say whether there is anything to tell: parts of the corpus, a gold check, or a corpus that is SLM-first."""
    return len(lines) > 1 or any(line.name != NO_SLICE or line.drawn or line.slm_first for line in lines)


def _first(decided: Mapping[str, Mapping[str, Any]], one: Found) -> bool:
    return bool(decided.get(one.slice, {}).get("slm_first"))


def _line(one: Found, name: str, decided: Mapping[str, Any]) -> SliceLine:
    numbers = {key: value for key, value in asdict(one).items() if key != "slice"}
    return SliceLine(
        name=name,
        **numbers,
        slm_first=bool(decided.get("slm_first")),
        sureness=decided.get("sureness") if decided.get("checked") else None,
        interval=interval(one.machine_right, one.drawn_checked) if one.drawn_checked else None,
    )


def interval(right: int, n: int) -> tuple[float, float] | None:
    """Return Wilson's 95 % interval for a share of which `right` of `n` random ones were seen; None where n is 0.

    References
    ----------
    Wilson: Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    if n == 0:
        return None
    share, z2 = right / n, Z * Z / n
    middle = (share + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)
