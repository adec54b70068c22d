"""Which labels of each text would be exported now, how sure are we of each, and which should people look at? ``decide`` for sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.distillation.sets import combine_sets
from strategies.review.flags import CLEAN, INCONSISTENT, NOISY, Strings, flag_samples
from strategies.review.verdict import HUMAN, LLM, SLM

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

UNLABELED = -1

DOUBT = 0.1
"""A label that the mixture calls noisy is shown as noisy only where the verdict on it is wrong with at least this probability: of the
many labels that a text does not have, nearly all of the larger losses are harmless."""


@dataclass(frozen=True)
class SetDecision:
    """What is decided about N samples with K labels each.

    Attributes
    ----------
    label, slm_label, prediction : ndarray
        Shape (N, K), 1 where the label is in the set: of the verdict; of the SLM; of what pre-fills the form (the person's set, else
        the LLM's, else the SLM's).
    machine_label : ndarray
        Shape (N, K), 1 where the label would be in the set of the verdict without a person's word about the sample.
    label_score, slm_label_score : ndarray
        Shape (N, K), probability in [0, 1] that the verdict's yes or no is right; that the SLM's is.
    label_flag, label_source : ndarray
        Shape (N, K), of each label by itself.
    score, slm_score, prediction_score : ndarray
        Shape (N,), probability in [0, 1] that the whole set is right: the product over its labels; the latter two by the SLM alone.
    flag, source : ndarray
        Shape (N,): inconsistent where any label is, else noisy where any is; ``"llm"`` where the verdict is the LLM's whole set.
    rank : ndarray
        1 ... N, 1 = the sample with the most doubtful label; those with a person's set come last.
    """

    label: Ints
    slm_label: Ints
    prediction: Ints
    machine_label: Ints
    label_score: Floats
    slm_label_score: Floats
    label_flag: Strings
    label_source: Strings
    score: Floats
    slm_score: Floats
    prediction_score: Floats
    flag: Strings
    source: Strings
    rank: Ints


def decide_sets(
    llm: Ints,
    probs: Floats,
    p_clean: Floats,
    human: Ints,
    llm_confidence: Floats | None = None,
    *,
    p_threshold: float = 0.5,
    required: bool = False,
) -> SetDecision:
    """Decide about every sample.

    Parameters
    ----------
    llm, human : ndarray
        Shape (N, K): 1 in the set, 0 not; -1 in all of a row without a set.
    probs : ndarray
        Shape (N, K), out-of-sample SLM probabilities that each label applies.
    p_clean : ndarray
        Shape (N, K), NaN where there is no LLM answer.
    llm_confidence : ndarray, optional
        Shape (N,), the LLM's own confidence in its set, NaN where unknown.
    required : bool
        Whether a set has at least one label: then an empty one gets its likeliest.

    Raises
    ------
    ValueError
        If the shapes do not fit or a probability is not finite.
    """
    _check(llm, probs, p_clean, human)
    machine = combine_sets(llm, llm_confidence, probs, p_clean, human, p_threshold=p_threshold)
    asked, seen = llm[:, :1] != UNLABELED, human[:, :1] != UNLABELED
    machine_label = _filled((machine >= 0.5).astype(np.int64), machine, required=required)
    yes = np.where(seen, human, machine)
    slm_label = _filled((probs >= 0.5).astype(np.int64), probs, required=required)
    label, prediction = np.where(seen, human, machine_label), np.where(seen, human, np.where(asked, llm, slm_label))
    label_score, slm_label_score = np.where(label == 1, yes, 1.0 - yes), _of(slm_label, probs)
    # Of the many labels that a text does not have, nearly all of the larger losses are harmless; see ``DOUBT``.
    doubted = np.where((llm != UNLABELED) & (label_score > 1.0 - DOUBT), 1.0, p_clean)
    label_flag = _flags(llm, probs, doubted, human, p_threshold)
    flag = np.select([(label_flag == name).any(axis=1) for name in (INCONSISTENT, NOISY)], [INCONSISTENT, NOISY], CLEAN)
    whole = np.select([seen[:, 0], (label == llm).all(axis=1)], [HUMAN, LLM], default=SLM)
    return SetDecision(
        label=label,
        slm_label=slm_label,
        prediction=prediction,
        machine_label=machine_label,
        label_score=label_score,
        slm_label_score=slm_label_score,
        label_flag=label_flag,
        label_source=np.select([np.broadcast_to(seen, label.shape), label == llm], [HUMAN, LLM], default=SLM),
        score=label_score.prod(axis=1),
        slm_score=slm_label_score.prod(axis=1),
        prediction_score=np.where(seen[:, 0], 1.0, _of(prediction, probs).prod(axis=1)),
        flag=flag,
        source=whole,
        rank=_order(label_score, seen[:, 0]),
    )


def _of(label: Ints, probs: Floats) -> Floats:
    return np.asarray(np.where(label == 1, probs, 1.0 - probs))


def _filled(label: Ints, yes: Floats, *, required: bool) -> Ints:
    """Give the likeliest label to each sample that has none, where one is required."""
    if required:
        empty = np.flatnonzero(~label.any(axis=1))
        label[empty, yes[empty].argmax(axis=1)] = 1
    return label


def _flags(llm: Ints, probs: Floats, p_clean: Floats, human: Ints, p_threshold: float) -> Strings:
    """Flag each label by the rules of a single one; see ``flag_samples``."""
    slm = (probs >= 0.5).astype(np.int64)
    margin = np.log(np.maximum(_of(slm, probs), 1e-12)) - np.log(np.maximum(_of(np.maximum(llm, 0), probs), 1e-12))
    flat = flag_samples(
        llm.ravel(), slm.ravel(), margin.ravel(), p_clean.ravel(), human.ravel(), p_threshold=p_threshold
    )
    return flat.reshape(llm.shape)


def _order(label_score: Floats, done: npt.NDArray[np.bool_]) -> Ints:
    """Return each sample's place in the queue: by its least sure label, of equals by the whole set; a person's come last."""
    order = np.lexsort((label_score.prod(axis=1), label_score.min(axis=1), done))
    ranks = np.empty(len(done), dtype=np.int64)
    ranks[order] = np.arange(1, len(done) + 1)
    return ranks


def _check(llm: Ints, probs: Floats, p_clean: Floats, human: Ints) -> None:
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise ValueError(f"probs has shape {probs.shape}; it must be (N, K).")
    for name, values in (("llm", llm), ("p_clean", p_clean), ("human", human)):
        if values.shape != probs.shape:
            raise ValueError(f"{name} has shape {values.shape}; probs has {probs.shape}, they must be the same.")
    if not np.isfinite(probs).all():
        raise ValueError(
            f"{int((~np.isfinite(probs)).any(axis=1).sum())} of {len(probs)} rows of probs are not finite."
        )
