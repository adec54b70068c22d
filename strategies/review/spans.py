"""Which spans would be exported now, how sure are we of each, and who said it? The posterior of single labels, for spans.

Candidates are the spans that the LLM marked and those that the SLM sees. With p the SLM's out-of-sample probability of exactly
this span, the odds that a span is right are ``factor * (p / (1 - p)) ** TEMPER``, with one factor for spans that the LLM marked and one
for those that it did not. A small model gives few spans the probability that they deserve, and its errors at the ends of spans make all
of them too low; so the factors are set by what they must come to: of the marked spans a share of nu is wrong, of all right spans a share of
omega was left out. Neither is known without people: a share of what the SLM doubts is laid at the LLM's door, within bounds.

Do no harm: a marked span stays unless the mixture calls it noisy and its odds are low enough; a span that was not marked is added
only where it is probable enough, its label well known, and no better span stands in its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.distillation.posterior import NOISE_RANGE, PRIOR_ERRORS, SUPPORT

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]

CERTAIN = 1e-4
"""No probability of the SLM's is nearer to 0 or 1 than this."""

LEFT_OUT = 0.1
"""A marked span stays unless it is less probable than this. A span is worth keeping for exact F1 down to half of that F1: on biodiversity
texts, where real LLMs reach 0.25 and an SLM learns little from 229 sentences, leaving out what is below a third cost 1.1 points."""

OMITTED_RANGE = (0.02, 0.4)
"""The LLM's assumed share of spans that it leaves out stays within this."""

BLAME, TEMPER = 0.6, 0.7
"""They mean what they mean in ``posterior.py``, where other values serve whole texts; spans were measured with these (``benchmarks.entities``)."""

MOST_SHIFT = float(np.log(100.0))
"""The logarithm of a factor stays within this."""

UNKNOWN = 0.5
"""The SLM's probability of a span that it cannot judge: it lies on no tokens of its own, or behind what is read."""


@dataclass(frozen=True)
class Candidates:
    """Spans that may be right, M of them.

    Attributes
    ----------
    task : ndarray
        Shape (M,), the row of the task.
    start, end, kind : ndarray
        Shape (M,); kind is the index of the label.
    p : ndarray
        Shape (M,), the SLM's out-of-sample probability that exactly this span is there, in [0, 1]; NaN where it is not known.
    said : ndarray
        Shape (M,), bool: the LLM marked it.
    asked : ndarray
        Shape (M,), bool: the LLM said something about the task at all.
    p_clean : ndarray
        Shape (M,), the mixture's posterior that a marked span is clean; NaN of others.
    checked : ndarray
        Shape (M,), bool: a person labelled the task.
    right : ndarray
        Shape (M,), bool: the person marked it.
    """

    task: Ints
    start: Ints
    end: Ints
    kind: Ints
    p: Floats
    said: Bools
    asked: Bools
    p_clean: Floats
    checked: Bools
    right: Bools


@dataclass(frozen=True)
class SpanDecision:
    """What is decided about M candidates; all arrays have shape (M,).

    Attributes
    ----------
    p_right : ndarray
        The probability that the span is right; 0 or 1 where a person said so.
    kept : ndarray
        Bool: it is in the verdict.
    noisy, inconsistent : ndarray
        Bool: the mixture calls a marked span noisy, or it may well be missing; the SLM says otherwise than the LLM.
    machine : ndarray
        Bool: it would be in the verdict without a person's word about its task.
    """

    p_right: Floats
    kept: Bools
    noisy: Bools
    inconsistent: Bools
    machine: Bools

    @property
    def score(self) -> Floats:
        """The probability that what is decided about each is right: that it is there, or that it is not."""
        return np.where(self.kept, self.p_right, 1.0 - self.p_right)


def decide_spans(found: Candidates, *, p_threshold: float = 0.5) -> SpanDecision:
    """Decide about every candidate span of all tasks together.

    Parameters
    ----------
    p_threshold : float
        In (0, 1): a marked span whose ``p_clean`` is below it is noisy, and may be left out.
    """
    p = np.clip(np.nan_to_num(found.p, nan=UNKNOWN), CERTAIN, 1.0 - CERTAIN)
    odds = (p / (1.0 - p)) ** TEMPER
    factor = np.where(found.said, *_factors(found, p, odds))
    factor[~found.asked] = 1.0  # nothing was left out: the SLM's own word, flattened, is all there is
    p_machine = np.asarray(factor * odds / (1.0 + factor * odds))
    low = np.nan_to_num(found.p_clean, nan=1.0) < p_threshold
    doubted = found.said & low & (p_machine < LEFT_OUT)
    known = np.bincount(found.kind[found.said], minlength=int(found.kind.max(initial=0)) + 1)[found.kind] >= SUPPORT
    added = ~found.said & (p_machine > 0.5) & (known | ~found.asked)
    machine = _without_overlaps(found, (found.said & ~doubted) | added, p_machine)
    kept = np.where(found.checked, found.right, machine)  # a person's may overlap as they please
    return SpanDecision(
        p_right=np.where(found.checked, found.right, p_machine),
        kept=kept,
        noisy=~found.checked & ((found.said & low) | (~found.said & (p >= 0.5))),
        inconsistent=~found.checked & np.where(found.said, found.said & ~kept, kept & found.asked),
        machine=machine,
    )


def _factors(found: Candidates, p: Floats, odds: Floats) -> tuple[float, float]:
    """Return the factors of the odds of marked spans, and of those that the LLM did not mark."""
    said, quiet = found.said, ~found.said & found.asked
    doubt = float((1.0 - p[said]).mean()) if said.any() else 0.0
    wrong = float(np.clip(BLAME * doubt, *NOISE_RANGE))
    missing, there = float(p[quiet].sum()), float(p[said].sum())
    omitted = float(np.clip(BLAME * missing / max(missing + there, 1e-9), *OMITTED_RANGE))
    factors = _both(odds, said, quiet, wrong, omitted)
    # What people found on the tasks they saw, over what was expected there, corrects both guesses.
    seen, looked = said & found.checked, quiet & found.checked
    expected = float((1.0 / (1.0 + factors[0] * odds[seen])).sum())
    wrong *= (float((~found.right[seen]).sum()) + PRIOR_ERRORS) / (expected + PRIOR_ERRORS)
    expected = float((factors[1] * odds[looked] / (1.0 + factors[1] * odds[looked])).sum())
    omitted *= (float(found.right[looked].sum()) + PRIOR_ERRORS) / (expected + PRIOR_ERRORS)
    return _both(odds, said, quiet, float(np.clip(wrong, *NOISE_RANGE)), float(np.clip(omitted, *OMITTED_RANGE)))


def _both(odds: Floats, said: Bools, quiet: Bools, wrong: float, omitted: float) -> tuple[float, float]:
    """Return both factors for these shares of errors; that the LLM did not mark a span never speaks for it."""
    right = (1.0 - wrong) * float(said.sum())
    return _factor(odds[said], right), min(1.0, _factor(odds[quiet], right * omitted / (1.0 - omitted)))


def _factor(odds: Floats, total: float) -> float:
    """Return the factor, at most 100 either way, at which these odds come to `total` right spans; 1 where there are none."""
    if not odds.size:
        return 1.0
    low, high = -MOST_SHIFT, MOST_SHIFT
    for _ in range(40):
        middle = (low + high) / 2
        raised = np.exp(middle) * odds
        low, high = (middle, high) if float((raised / (1.0 + raised)).sum()) < total else (low, middle)
    return float(np.exp(low))


def _without_overlaps(found: Candidates, wanted: Bools, p_right: Floats) -> Bools:
    """Keep of machine spans that overlap the most probable."""
    kept = np.zeros_like(wanted)
    taken: dict[int, list[tuple[int, int]]] = {}
    order = np.flatnonzero(wanted)
    for i in order[np.lexsort((-found.said[order].astype(int), -p_right[order]))].tolist():
        others = taken.setdefault(int(found.task[i]), [])
        start, end = int(found.start[i]), int(found.end[i])
        if all(end <= a or b <= start for a, b in others):
            others.append((start, end))
            kept[i] = True
    return kept


def doubtfulness(task: Ints, n_tasks: int, decision: SpanDecision, usual: Sequence[float] | float = 1.0) -> Floats:
    """Return the probability that a task's most doubtful span is decided right, shape (N,); `usual` of a task without candidates."""
    lowest: Floats = np.broadcast_to(np.asarray(usual, dtype=float), (n_tasks,)).copy()
    np.minimum.at(lowest, task, decision.score)
    return lowest
