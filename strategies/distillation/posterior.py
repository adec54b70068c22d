"""What is the true label, given what the LLM said and what the SLM thinks? Bayes over an annotator that errs.

The SLM's out-of-sample probabilities p are the prior, the LLM's answer is the evidence. An LLM that errs says something plausible, and
rather one of its favourites, so that a wrong answer l is likely in proportion to favoured[l] * p[l] (``habits.py``)::

    P(LLM says l | truth k) = 1 - missed[k]                                                       if l = k
                              missed[k] * favoured[l] * p[l] / sum_{j != k} favoured[j] * p[j]    otherwise

so that the odds of k against l are ``missed[k] / (1 - missed[l]) * favoured[l] * p[k] / sum_{j != k} favoured[j] * p[j]``, the factors with p
tempered. With no favourites and one share of errors they are ``noise / (1 - noise) * p[k] / (1 - p[k])``. How often the LLM errs is not
known without people; a share of what the SLM doubts is laid at its door. What people corrected corrects that guess.

Where the LLM abstained p itself is the posterior, flattened (``ABSTAINED_TEMPER``).

Do no harm: an SLM that knows little doubts everything a little and overrules nothing, because the LLM's label stays unless the mixture
calls it noisy *and* another label, one that the SLM has seen often enough, is clearly more probable.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.distillation.habits import MOST, Habits, even, habits

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNLABELED = -1

FLOOR = 1e-4
"""No probability is smaller than this when it is multiplied: one source alone is never absolutely sure."""

BLAME = 0.5
"""Share of the SLM's doubt in the LLM's labels that is taken for errors of the LLM; the rest is ignorance of the SLM. With 0.3, 0.4 and 0.5, over half of
106 recorded labelings: AUROC for wrong labels 0.726, 0.727, 0.726; calibration error of the score 0.139, 0.127, 0.118; the worst labeling loses 0.4, 0.6 and 0.8
points by what the SLM overrules. With more it overrules wrongly where it knows less than the LLM (``mr``: 0.3 points with 0.6)."""

NOISE_RANGE = (0.01, 0.4)
"""The LLM's assumed share of errors stays within this, whatever the SLM doubts."""

PRIOR_ERRORS = 5.0
"""How many errors found by people the assumed noise is worth."""

TEMPER = 0.85
"""Power of the SLM's odds: where the SLM is sure, the task is easy and the LLM errs less than on average. 0.7 orders held-out labelings worse (AUROC 0.720
instead of 0.727); 1.0 a little better, and is too sure of itself (calibration error 0.154 instead of 0.136)."""

ABSTAINED_TEMPER = 0.5
"""Power of the SLM's probabilities where the LLM abstained: what the LLM finds hard is hard for the SLM too (on ``mr`` it is right in 62 % of
them and in 84 % of the others). With it 38 % of ``mr``'s wrong verdicts lie in the first tenth of the queue, without it 34 %."""

OVERRULE = 1.25
"""Another label must be so many times as probable as the LLM's to become the verdict. With 2.0, 1.25 and 1.0 verdicts are 1.7, 2.3 and 2.7 points better than
the LLM's labels on 13 files; but with 1.0 an SLM that cannot read the texts does harm (``toxicity_zh``: up to 2.3 points)."""

SUPPORT = 20
"""A label that was given less often than this overrules nothing: the SLM has seen too few of it to know better than the LLM."""


def combine(
    llm_labels: Ints,
    llm_confidence: Floats | None,
    probs: Floats,
    p_clean: Floats,
    human_labels: Ints,
    *,
    p_threshold: float = 0.5,
    slm_first: Floats | None = None,
) -> tuple[Floats, Ints]:
    """Return the probability of each label being the true one, and the verdict, before a person's own word about a sample.

    Parameters
    ----------
    llm_labels : ndarray
        Shape (N,), -1 where the LLM abstained.
    llm_confidence : ndarray or None
        Shape (N,), the LLM's own confidence in [0, 1], NaN where unknown. It is not calibrated: only answers that are less sure
        than the median count for less.
    probs : ndarray
        Shape (N, K), out-of-sample SLM probabilities.
    p_clean : ndarray
        Shape (N,), posterior that the LLM's label is clean, NaN where unknown.
    human_labels : ndarray
        Shape (N,), -1 where there is none: they tell how often the LLM errs.
    p_threshold : float
        In (0, 1): an LLM label whose ``p_clean`` reaches it is clean and stays.
    slm_first : ndarray, optional
        Shape (N,): the LLM's share of errors in (0, 1) where people found it worse than the SLM (``review/routing.py``), else NaN.
        There its label has no right to stay; the other samples are judged as if these were not there.

    Returns
    -------
    posterior : ndarray
        Shape (N, K), rows sum to 1.
    label : ndarray
        Shape (N,): the most probable label, or the LLM's where that must stay; it may then be the less probable one.

    References
    ----------
    Dawid, Skene: Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, 1979.
    """
    routed = np.zeros(len(llm_labels), dtype=bool) if slm_first is None else np.isfinite(slm_first)
    usual = np.where(routed, UNLABELED, llm_labels)
    noise = noise_rates(usual, llm_confidence, probs, human_labels)
    posterior = bayes(usual, probs, noise, habits(usual, probs, float(noise.mean()) if noise.size else 0.0))
    if slm_first is not None:  # what the LLM is usually like says nothing about where it fails
        posterior[routed] = bayes(llm_labels[routed], probs[routed], slm_first[routed], mild=True)
    label = np.where(_stays(posterior, usual, p_clean, p_threshold), llm_labels, posterior.argmax(axis=1))
    return posterior, label


def refuted(log_probs: Floats, given: Ints, trusted: Bools, p_clean: Floats, p_threshold: float) -> Bools:
    """Say which labels are more likely wrong than right, shape (N,), by the mixture and by Bayes; never a trusted one, nor a missing one.

    Parameters
    ----------
    log_probs : ndarray
        Shape (N, K), out of sample.
    given, trusted, p_clean : ndarray
        Shape (N,): labels (-1 for none), where they are a person's, and how surely they are clean.
    """
    said = np.where(trusted, UNLABELED, given)  # a person's label says nothing about how often the LLM errs
    posterior, _ = combine(said, None, np.exp(log_probs), p_clean, np.full(len(given), UNLABELED))
    own = posterior[np.arange(len(given)), np.maximum(said, 0)]
    return np.asarray((said != UNLABELED) & (np.nan_to_num(p_clean, nan=1.0) < p_threshold) & (own < 0.5))


def certain(posterior: Floats, human_labels: Ints) -> Floats:
    """Return `posterior`, shape (N, K), with what people said as certain."""
    said = human_labels != UNLABELED
    found = posterior.copy()
    found[said] = np.eye(posterior.shape[1])[human_labels[said]]
    return found


def bayes(
    llm_labels: Ints, probs: Floats, noise: Floats, spread: Habits | None = None, *, mild: bool = False
) -> Floats:
    """Return the posterior of every label, shape (N, K), given the LLM's share of errors `noise`, shape (N,).

    `spread` tells how the mean of `noise` is spread over the classes; None: evenly. With `mild` an LLM that errs much says nothing for
    its label, but nothing against it either: the SLM's word decides. Without this, two that agree would be overruled.
    """
    n_classes, usual = probs.shape[1], float(noise.mean()) if noise.size else 0.0
    spread = even(n_classes, usual) if spread is None else spread
    posterior = np.clip(probs, FLOOR, 1.0 - FLOOR)
    rows = np.flatnonzero(llm_labels != UNLABELED)
    own, prior, favoured = llm_labels[rows], posterior[rows], spread.favoured
    missed = np.minimum(spread.missed * (noise[rows] / max(usual, FLOOR))[:, None], MOST)
    mean = float((prior @ favoured).mean()) if rows.size else 1.0
    others = np.maximum((prior @ favoured)[:, None] - prior * favoured, FLOOR * mean)  # sum_{j != k} favoured[j] * p[j]
    rivals = (prior * mean / others) ** TEMPER * missed * (favoured[own] / mean)[:, None]
    said = 1.0 - missed[np.arange(len(rows)), own]  # both divided by the prior of the LLM's label
    if mild:
        said = np.maximum(said, rivals[np.arange(len(rows)), own])
    rivals[np.arange(len(rows)), own] = said
    posterior[rows] = rivals
    posterior[llm_labels == UNLABELED] **= ABSTAINED_TEMPER
    return np.asarray(posterior / posterior.sum(axis=1, keepdims=True))


def noise_rates(llm_labels: Ints, llm_confidence: Floats | None, probs: Floats, human_labels: Ints) -> Floats:
    """Return the LLM's assumed share of errors for each sample, shape (N,), within ``NOISE_RANGE``.

    ``BLAME`` times the SLM's mean doubt in the LLM's labels, times what people found over what was expected *on the tasks they
    saw*: they see the doubtful ones first, so that their plain share of corrections would say too much. Answers of which the
    LLM is less sure than the median count as up to twice as noisy.
    """
    rows = np.flatnonzero(llm_labels != UNLABELED)
    doubt = float((1.0 - probs[rows, llm_labels[rows]]).mean()) if rows.size else 0.0
    noise: Floats = np.full(len(llm_labels), np.clip(BLAME * doubt, *NOISE_RANGE))
    seen = rows[human_labels[rows] != UNLABELED]
    expected = float((1.0 - bayes(llm_labels, probs, noise)[seen, llm_labels[seen]]).sum())
    found = float((human_labels[seen] != llm_labels[seen]).sum())
    noise = noise * (found + PRIOR_ERRORS) / (expected + PRIOR_ERRORS) / _sureness(llm_confidence, len(noise))
    return np.asarray(np.clip(noise, *NOISE_RANGE))


def _sureness(confidence: Floats | None, n: int) -> Floats:
    """Return how sure the LLM was compared with its median, in [0.5, 1], shape (n,); 1 where it did not say."""
    if confidence is None or not np.isfinite(confidence).any():
        return np.ones(n)
    usual = float(np.nanmedian(confidence))
    return np.asarray(np.clip(np.nan_to_num(confidence, nan=usual) / max(usual, 1e-6), 0.5, 1.0))


def _stays(posterior: Floats, llm_labels: Ints, p_clean: Floats, p_threshold: float) -> Bools:
    """Say where the LLM's label stays, shape (N,): the mixture calls it clean, or no well-known rival is probable enough."""
    rows, said = np.arange(len(llm_labels)), np.maximum(llm_labels, 0)
    best = posterior.argmax(axis=1)
    clean = np.nan_to_num(p_clean, nan=1.0) >= p_threshold
    rare = np.bincount(said[llm_labels != UNLABELED], minlength=posterior.shape[1])[best] < SUPPORT
    near = posterior[rows, best] < OVERRULE * posterior[rows, said]
    return np.asarray((llm_labels != UNLABELED) & (clean | rare | near))
