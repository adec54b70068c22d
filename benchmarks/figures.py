"""How good is what a method found? Figures from its ``Outcome`` and the gold labels; the only place where both meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.dataset import Gold
from coral_backend.types import UNLABELED, Floats, Ints

Bools: TypeAlias = npt.NDArray[np.bool_]
Figures: TypeAlias = dict[str, Any]

PERCENTS = (5, 10, 20)
"""Parts of the review queue that a person looks at, in percent of the corpus."""

BINS = 15
"""Bins of equal width of the calibration error (Guo et al., 2017)."""

METRICS = (
    "verdict_accuracy",
    "slm_accuracy",
    "test_accuracy",
    "auroc",
    "average_precision",
    "found_at",
    "accuracy_after",
    "ece",
    "clean_share",
    "clean_purity",
    "demo_purity",
    "seconds",
    "peak_mb",
)
"""What every method has an entry for, null where it has no such thing."""


@dataclass(frozen=True)
class Outcome:
    """What a method says about N samples and M test texts. None: it has no such thing.

    Attributes
    ----------
    verdict : ndarray
        Shape (N,): the label it would hand over, ``UNLABELED`` for none (counts as wrong).
    confidence : ndarray or None
        Shape (N,), in [0, 1]: the probability it gives to its verdict.
    order : ndarray or None
        Shape (N,): positions, those a person should look at first in front.
    suspicion : ndarray or None
        Shape (N,): the larger, the more likely the LLM's label is wrong; where the LLM abstained it is not read.
    slm_label : ndarray or None
        Shape (N,): what the SLM alone says.
    test_label : ndarray or None
        Shape (M,): what the SLM says about the test texts; None also when there are none.
    clean : ndarray or None
        Shape (N,), bool: verdicts it calls clean.
    demonstrations : ndarray or None
        Positions of the samples it would show to the LLM, labelled with its verdicts.
    seconds : mapping
        Of each stage.
    notes : sequence of str
        What it says about the corpus.
    """

    verdict: Ints
    confidence: Floats | None = None
    order: Ints | None = None
    suspicion: Floats | None = None
    slm_label: Ints | None = None
    test_label: Ints | None = None
    clean: Bools | None = None
    demonstrations: Ints | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


def figures_of(outcome: Outcome, llm_labels: Ints, gold: Gold) -> Figures:
    """Return everything of ``METRICS`` but ``peak_mb``, and ``seconds_by_stage``.

    Parameters
    ----------
    llm_labels : ndarray
        Shape (N,): the labels whose errors ``suspicion`` should find; ``UNLABELED`` rows are left out there.
    """
    right = outcome.verdict == gold.corpus
    answered = llm_labels != UNLABELED
    wrong_llm = (llm_labels != gold.corpus)[answered]
    suspicion = None if outcome.suspicion is None else outcome.suspicion[answered]
    seconds = {stage: float(value) for stage, value in outcome.seconds.items()}
    return {
        "verdict_accuracy": share(right),
        "slm_accuracy": None if outcome.slm_label is None else share(outcome.slm_label == gold.corpus),
        "test_accuracy": None if outcome.test_label is None else share(outcome.test_label == gold.test),
        "auroc": None if suspicion is None else auroc(suspicion, wrong_llm),
        "average_precision": None if suspicion is None else average_precision(suspicion, wrong_llm),
        "found_at": None if outcome.order is None else _by_percent(found_at, ~right, outcome.order),
        "accuracy_after": None if outcome.order is None else _by_percent(accuracy_after, ~right, outcome.order),
        "ece": None if outcome.confidence is None else calibration_error(outcome.confidence, right),
        "clean_share": None if outcome.clean is None else share(outcome.clean),
        "clean_purity": None if outcome.clean is None else share(right[outcome.clean]),
        "demo_purity": None if outcome.demonstrations is None else share(right[outcome.demonstrations]),
        "seconds": sum(seconds.values()) if seconds else None,
        "seconds_by_stage": seconds or None,
    }


def share(hits: Bools) -> float | None:
    """Return the share of True, None for nothing at all."""
    return float(hits.mean()) if hits.size else None


def auroc(suspicion: Floats, wrong: Bools) -> float | None:
    """Return the probability that a wrong label is more suspect than a right one, ties counted half; None without both."""
    return float(roc_auc_score(wrong, suspicion)) if 0 < wrong.sum() < wrong.size else None


def average_precision(suspicion: Floats, wrong: Bools) -> float | None:
    """Return the mean, over the wrong labels, of the share of wrong ones among those at least as suspect; None without any."""
    return float(average_precision_score(wrong, suspicion)) if wrong.any() else None


def looked_at(n: int, percent: float) -> int:
    """Return how many samples are `percent` % of `n`, at least one (of one)."""
    return min(n, max(1, math.floor(n * percent / 100 + 0.5)))


def found_at(wrong: Bools, order: Ints, percent: float) -> float | None:
    """Return the share of all wrong verdicts that lie in the first `percent` % of the queue; None when none is wrong."""
    return share_of(wrong[order[: looked_at(len(order), percent)]].sum(), wrong.sum())


def accuracy_after(wrong: Bools, order: Ints, percent: float) -> float | None:
    """Return the accuracy of the verdicts when those in the first `percent` % of the queue are put right."""
    return share_of(wrong.size - wrong.sum() + wrong[order[: looked_at(len(order), percent)]].sum(), wrong.size)


def share_of(part: Any, whole: Any) -> float | None:
    """Return `part` / `whole`, None when there is no whole."""
    return float(part) / float(whole) if whole else None


def calibration_error(confidence: Floats, right: Bools) -> float | None:
    """Return the expected calibration error: |accuracy - mean confidence| of each of ``BINS`` bins, weighted by its size.

    References
    ----------
    Naeini, Cooper, Hauskrecht: Obtaining Well Calibrated Probabilities Using Bayesian Binning, 2015.
    """
    if not right.size:
        return None
    bins = np.minimum((np.clip(confidence, 0.0, 1.0) * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / right.size)


def _by_percent(figure: Any, wrong: Bools, order: Ints) -> dict[str, float | None]:
    return {str(percent): figure(wrong, order, percent) for percent in PERCENTS}


def over_seeds(runs: Sequence[Figures]) -> Figures:
    """Return the mean of each figure, and beside it, as ``NAME_std``, the standard deviation (n - 1) of one seed's figure.

    A seed without the figure is left out; the deviation of fewer than two is None.
    """
    means: Figures = {}
    for name in runs[0]:
        values = [run[name] for run in runs if run[name] is not None]
        if values and isinstance(values[0], Mapping):
            inner = over_seeds([{key: value.get(key) for key in values[0]} for value in values])
            means[name] = {key: value for key, value in inner.items() if not key.endswith("_std")}
            means[f"{name}_std"] = {key[:-4]: value for key, value in inner.items() if key.endswith("_std")}
        else:
            means[name] = float(np.mean(values)) if values else None
            means[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return means
