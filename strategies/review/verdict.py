"""Which label would be exported now, how sure are we, and who said it? Pure glue between the posterior, the flags and the order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.distillation.posterior import certain, combine
from strategies.review.flags import Strings, flag_samples
from strategies.review.ranking import review_order

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

UNLABELED = -1

HUMAN, LLM, SLM = "human", "llm", "slm"


@dataclass(frozen=True)
class Decision:
    """What is decided about N samples; all arrays have shape (N,).

    Attributes
    ----------
    label : ndarray
        The verdict, 0 ... K-1.
    score : ndarray
        Probability in [0, 1] that `label` is right; 1 = surely, as for a person's. Low where the LLM's label stays although another is
        as probable.
    source : ndarray
        ``"human"``, ``"llm"`` or ``"slm"``: whose label the verdict is. ``"slm"`` only where it is not the LLM's.
    flag : ndarray
        ``"clean"``, ``"noisy"`` or ``"inconsistent"``.
    rank : ndarray
        1 ... N, 1 = the most doubtful; samples with a person's label come last.
    slm_label, slm_score : ndarray
        The SLM's most probable label and its out-of-sample probability.
    prediction_label : ndarray
        What pre-fills the form: the person's, else the LLM's, else the SLM's. SLM-first: the person's, else the verdict.
    prediction_score : ndarray
        The SLM's out-of-sample confidence in `prediction_label`, in [0, 1]; 1 where it is a person's.
    machine_label : ndarray
        What the verdict would be without a person's word about the sample.
    """

    label: Ints
    score: Floats
    source: Strings
    flag: Strings
    rank: Ints
    slm_label: Ints
    slm_score: Floats
    prediction_label: Ints
    prediction_score: Floats
    machine_label: Ints


def decide(
    llm_labels: Ints,
    probs: Floats,
    p_clean: Floats,
    human_labels: Ints,
    llm_confidence: Floats | None = None,
    *,
    p_threshold: float = 0.5,
    slm_first: Floats | None = None,
) -> Decision:
    """Decide about every sample.

    Parameters
    ----------
    llm_labels, human_labels : ndarray
        Shape (N,), -1 where there is none.
    probs : ndarray
        Shape (N, K), out-of-sample SLM probabilities.
    p_clean : ndarray
        Shape (N,), NaN where there is no LLM label.
    llm_confidence : ndarray, optional
        Shape (N,), the LLM's own confidence, NaN where unknown.
    p_threshold : float
        In (0, 1): a label whose ``p_clean`` is below it is noisy, and may be overruled.
    slm_first : ndarray, optional
        Shape (N,): the LLM's share of errors where the sample is routed SLM-first (``routing.Routing.noise``), else NaN.

    Raises
    ------
    ValueError
        If the shapes do not fit or a probability is not finite.
    """
    _check(llm_labels, probs, p_clean, human_labels)
    rows = np.arange(len(llm_labels))
    routed = np.zeros(len(llm_labels), dtype=bool) if slm_first is None else np.isfinite(slm_first)
    machine, machine_label = combine(
        llm_labels, llm_confidence, probs, p_clean, human_labels, p_threshold=p_threshold, slm_first=slm_first
    )
    posterior, slm_label = certain(machine, human_labels), probs.argmax(axis=1)
    human, asked = human_labels != UNLABELED, llm_labels != UNLABELED
    label = np.where(human, human_labels, machine_label)
    said = [human, routed, asked]
    prediction_label = np.select(said, [human_labels, machine_label, llm_labels], default=slm_label)
    prediction_score = np.where(human, 1.0, probs[rows, prediction_label])
    slm_score = probs[rows, slm_label]
    margin = np.log(np.maximum(slm_score, 1e-12)) - np.log(np.maximum(probs[rows, np.maximum(llm_labels, 0)], 1e-12))
    score = posterior[rows, label]
    return Decision(
        label=label,
        score=score,
        source=np.select([human, label == llm_labels], [HUMAN, LLM], default=SLM),
        flag=flag_samples(
            llm_labels, slm_label, margin, p_clean, human_labels, p_threshold=p_threshold, slm_first=routed
        ),
        rank=review_order(score, human),
        slm_label=slm_label,
        slm_score=slm_score,
        prediction_label=prediction_label,
        prediction_score=prediction_score,
        machine_label=machine_label,
    )


def _check(llm_labels: Ints, probs: Floats, p_clean: Floats, human_labels: Ints) -> None:
    n = len(llm_labels)
    if probs.ndim != 2 or probs.shape[0] != n or probs.shape[1] < 1:
        raise ValueError(f"probs has shape {probs.shape}; with {n} LLM labels it must be ({n}, K).")
    if p_clean.shape != (n,) or human_labels.shape != (n,):
        raise ValueError(f"p_clean {p_clean.shape} and human_labels {human_labels.shape} must have shape ({n},).")
    if not np.isfinite(probs).all():
        raise ValueError(f"{int((~np.isfinite(probs)).any(axis=1).sum())} of {n} rows of probs are not finite.")
