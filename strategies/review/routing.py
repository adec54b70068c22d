"""In which slices of the corpus do people say that the LLM is worse than the SLM? These are labelled SLM-first.

A slice is a part of the corpus that the LLM may know less well: a language, a source, a customer. On the tasks of a slice that people
checked, only those tell the two apart on which exactly one of them is right. With s of them the SLM's and l the LLM's, the share theta
that the SLM gets has the posterior Beta(W m + s, W (1 - m) + l), and the slice is SLM-first where theta > 1/2 is sure enough. m is what
the other slices say, and never more than 1/2: so one lucky slice among fifty needs more evidence, and none is routed by what is true of
others.

Both are compared on the same tasks, the SLM by probabilities of networks that did not learn the task's own label. People check doubtful
tasks first, which are no sample of the slice; so those drawn at random count alone as soon as there are enough of them. What the LLM
says there is its answer of the time before: a person's task is not sent to it again.

SLM-first means that the LLM's assumed share of errors is what explains the checked tasks best (``bayes`` in ``posterior.py``), however
high, and that its label has no right to stay. A slice that is not routed is judged as if there were none. On eight files with real LLM
labels, of which 15 to 50 % were replaced by wrong ones, and 30 to 120 random checks, verdicts were right 6.7 points more often where
they were routed, and 1.6 less at worst: as if the SLM's label were taken always, but with a score that weighs both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from strategies.distillation.posterior import bayes

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNLABELED = -1

FEWEST_CHECKED = 20
"""With fewer checked tasks that the LLM had labelled, a slice is never routed."""

SURE = 0.95
"""Probability of theta > 1/2 from which a slice is SLM-first."""

PRIOR = 4.0
"""W: how many tasks on which exactly one is right the prior is worth."""

NOISES = np.linspace(0.05, 0.95, 19)
"""Shares of errors that are tried."""

NOISE_PRIOR = 1.0
"""How many errors, and how many right answers, that are certain to be found the prior of the LLM's share of errors is worth."""


@dataclass(frozen=True)
class Slice:
    """How LLM and SLM do in one slice, by the labels of people.

    Attributes
    ----------
    name : str
        Empty for tasks that are in no slice.
    tasks : int
        Tasks in it.
    checked : int
        Tasks that people labelled and on which the LLM had said something; those drawn at random, where there are enough.
    llm_right, slm_right : int
        On how many of these each is right.
    llm_only, slm_only : int
        On how many exactly this one is.
    sureness : float
        Probability in [0, 1] that the SLM is right more often than the LLM.
    noise : float or None
        The LLM's share of errors as the verdicts of the slice assume it: the more, the less its label weighs. None where the slice is
        not SLM-first.
    """

    name: str
    tasks: int
    checked: int
    llm_right: int
    slm_right: int
    llm_only: int
    slm_only: int
    sureness: float
    noise: float | None = None

    @property
    def slm_first(self) -> bool:
        """Whether the SLM's label goes first here."""
        return self.noise is not None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "slm_first": self.slm_first}


@dataclass(frozen=True)
class Routing:
    """What is decided about each slice and, by it, about each sample.

    Attributes
    ----------
    slices : tuple of Slice
        The largest first.
    noise : ndarray
        Shape (N,): the LLM's assumed share of errors where the sample is routed SLM-first, else NaN.
    """

    slices: tuple[Slice, ...]
    noise: Floats


def route(
    names: Sequence[str | None], llm_labels: Ints, probs: Floats, human_labels: Ints, drawn: Bools | None = None
) -> Routing:
    """Decide which slices are SLM-first.

    Parameters
    ----------
    names : sequence of str or None
        The slice of each of N samples; None for no slice.
    llm_labels, human_labels : ndarray
        Shape (N,), -1 where there is none.
    probs : ndarray
        Shape (N, K), out-of-sample SLM probabilities.
    drawn : ndarray, optional
        Shape (N,), True where the sample was drawn at random to be checked.

    Raises
    ------
    ValueError
        If `names` has not N entries.
    """
    if len(names) != len(llm_labels):
        raise ValueError(f"There are {len(names)} names of slices for {len(llm_labels)} samples.")
    found, place = np.unique(np.array([name or "" for name in names], dtype=object).astype(str), return_inverse=True)
    slm_labels = probs.argmax(axis=1) if len(probs) else np.zeros(0, dtype=np.int64)
    checked = (human_labels != UNLABELED) & (llm_labels != UNLABELED)
    if drawn is not None:
        enough = np.bincount(place[checked & drawn], minlength=len(found)) >= FEWEST_CHECKED
        checked &= drawn | ~enough[place]
    llm, slm = llm_labels == human_labels, slm_labels == human_labels

    def count(which: npt.NDArray[np.bool_]) -> Ints:
        return np.asarray(np.bincount(place[checked & which], minlength=len(found)))

    llm_right, slm_right, llm_only, slm_only = count(llm), count(slm), count(llm & ~slm), count(slm & ~llm)
    sure = sureness(llm_only, slm_only)
    n = count(np.ones(len(place), dtype=bool))
    noise: Floats = np.full(len(place), np.nan)
    slices = []
    for i, name in enumerate(found.tolist()):
        here = place == i
        share = None
        if n[i] >= FEWEST_CHECKED and sure[i] >= SURE:
            rows = here & checked
            share = explaining_noise(llm_labels[rows], probs[rows], human_labels[rows])
            noise[here] = share
        slices.append(
            Slice(
                name,
                tasks=int(here.sum()),
                checked=int(n[i]),
                llm_right=int(llm_right[i]),
                slm_right=int(slm_right[i]),
                llm_only=int(llm_only[i]),
                slm_only=int(slm_only[i]),
                sureness=round(float(sure[i]), 4),
                noise=share,
            )
        )
    return Routing(tuple(sorted(slices, key=lambda one: (-one.tasks, one.name))), noise)


def sureness(llm_only: Ints, slm_only: Ints) -> Floats:
    """Return the probability that the SLM is right more often, for each of S slices.

    Parameters
    ----------
    llm_only, slm_only : ndarray
        Shape (S,): checked tasks on which exactly this one is right.
    """
    others = slm_only.sum() - slm_only + 1.0
    against = llm_only.sum() - llm_only + 1.0
    usual = np.minimum(0.5, others / (others + against))
    return np.asarray(1.0 - betainc(PRIOR * usual + slm_only, PRIOR * (1.0 - usual) + llm_only, 0.5))


def explaining_noise(llm_labels: Ints, probs: Floats, human_labels: Ints) -> float:
    """Return the LLM's share of errors under which what people said of the checked tasks is likeliest, of ``NOISES``.

    Parameters
    ----------
    llm_labels, human_labels : ndarray
        Shape (n,), no -1.
    probs : ndarray
        Shape (n, K).
    """
    rows = np.arange(len(llm_labels))
    likelihoods = [
        np.log(bayes(llm_labels, probs, np.full(len(rows), noise), mild=True)[rows, human_labels]).sum()
        + NOISE_PRIOR * (np.log(noise) + np.log(1.0 - noise))
        for noise in NOISES
    ]
    return round(float(NOISES[int(np.argmax(likelihoods))]), 4)
