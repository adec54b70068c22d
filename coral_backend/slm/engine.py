"""What does the SLM say about every sample, and how sure is it? ``distil`` learns from noisy labels, ``Model`` serves what was learned."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from coral_backend.exceptions import TrainingError
from coral_backend.slm.corpus import Corpus, SLMConfig
from coral_backend.slm.earlier import Earlier, Kept
from coral_backend.slm.families import FAMILIES, LearnedViews
from coral_backend.slm.model import Model, probabilities
from coral_backend.slm.training import Ticker, TrainingPlan, divide, given_losses
from coral_backend.slm.views import Stopwatch, pool
from coral_backend.types import UNLABELED, Floats, Ints, Progress
from strategies.distillation.class_prior import shares
from strategies.distillation.gmm_split import Split

logger = logging.getLogger(__name__)

HELPFUL = 0.1
"""An SLM must explain this share of the given labels, or a note says that it could not help. Of 107 recorded labelings of 13 files, the 17 below
it have a mean AUROC for wrong labels of 0.60 (14 are of texts that the encoder cannot read), the others of 0.73."""


@dataclass(frozen=True)
class Distilled:
    """What the SLM knows about the corpus.

    Attributes
    ----------
    probs : ndarray
        Shape (N, K): out-of-sample probabilities, finite, rows sum to 1, calibrated on the given labels.
    losses : ndarray
        Shape (N,), nats: cross-entropy of the given label (human's, else LLM's), out of sample; NaN without a label.
    p_clean : ndarray
        Shape (N,), in [0, 1]: the mixture's posterior that the LLM's label is clean, 1 = surely; NaN without an LLM label.
    features : ndarray
        Shape (N, D), float32: of the first network, so that all lie in one space.
    history : list of dict
        One an epoch: loss, clean share, mask rate, seconds ...
    gmm : dict
        ``means``, ``variances``, ``weights`` of the two components, clean first; empty when there was nothing to divide.
    seconds : dict
        Of each stage: of texts ``embedding``, ``frozen``, ``lexical``, of rows ``columns``, ``additive``, ``forest``; of both ``warm-up``,
        ``training``, ``scoring``.
    notes : list of str
        What a person should know, in sentences.
    kept : Kept or None
        What a later training of the same samples need not do again.
    """

    probs: Floats
    losses: Floats
    p_clean: Floats
    features: Floats
    history: list[dict[str, Any]]
    gmm: dict[str, Any]
    seconds: dict[str, float]
    notes: list[str]
    kept: Kept | None = None


def distil(
    corpus: Corpus, config: SLMConfig, *, progress: Progress, save_to: Path, earlier: Earlier | None = None
) -> Distilled:
    """Learn from the corpus, score every sample out of sample, and write the model for new texts.

    Parameters
    ----------
    corpus : Corpus
        N texts and their labels.
    config : SLMConfig
        The same seed gives the same result on the same CPU.
    progress : callable
        ``progress(done, total, detail)`` in units of samples passed; called about twice a second; may raise to stop, then
        nothing is written.
    save_to : Path
        Folder of the model; replaced only when the new one is complete.
    earlier : Earlier, optional
        An earlier training of the same samples: its networks are kept, and only what takes seconds is learned anew.

    Returns
    -------
    Distilled
        A corpus in which only one class was given is no error: the SLM says that class, and a note says so.

    Raises
    ------
    TrainingError
        If fewer than two samples are labelled.
    InputError
        If the arrays do not fit together.
    ModelFileError
        If the encoder cannot be loaded.
    """
    corpus.check()
    given, n_labelled = corpus.given, corpus.n_labelled
    if n_labelled < 2:
        more = (
            " Of rows of a table the embedded annotator labels none; an LLM does." if corpus.family == "tabular" else ""
        )
        raise TrainingError(
            f"{n_labelled} of {len(corpus.texts)} samples have a label; the SLM needs at least 2. "
            f"Label some by hand, or let the annotator answer more of them.{more}"
        )
    watch = Stopwatch()
    slm = FAMILIES[corpus.family](corpus, config)
    n_passes = _work(len(given), n_labelled, slm.plan) if earlier is None else 1
    ticker = Ticker(progress, n_passes)
    learned: LearnedViews = slm.learn(ticker, watch) if earlier is None else slm.relearn(earlier, ticker, watch)
    trained, cheap = learned.trained, list(learned.cheap.values())
    told = {"named": learned.named, "shifted": learned.shifted}
    _, log_probs = pool(trained.views, cheap, given, **told)
    log_probs = slm.of_the_truth(log_probs)
    # New samples are read by the networks as they are at the end.
    blend, _ = pool(trained.views[-1:], cheap, given, **told)
    p_clean, split = _p_clean(corpus, log_probs, slm.plan)
    slm.model(learned, blend, split).save(save_to)
    watch.lap("scoring")
    return Distilled(
        probs=probabilities(log_probs),
        losses=given_losses(log_probs, given),
        p_clean=p_clean,
        features=learned.features,
        history=trained.history,
        gmm=split.to_json() if split is not None else {},
        seconds={k: round(v, 3) for k, v in {**watch.seconds, **trained.seconds}.items()},
        notes=[*slm.notes, *_notes(corpus, log_probs)],
        kept=_kept(learned, given, earlier),
    )


def _kept(learned: LearnedViews, given: Ints, earlier: Earlier | None) -> Kept:
    """Return what a later training of the same samples need not do again."""
    if earlier is not None:
        return earlier.kept
    seconds = sum(learned.trained.seconds.values())
    return Kept(np.stack(learned.trained.views).astype(np.float32), learned.embeddings, given, seconds)


def _work(n: int, n_labelled: int, plan: TrainingPlan) -> int:
    """Return about how many samples will be passed: read, learned in each epoch by all networks but one, and scored."""
    return 3 * n + (plan.warmup_epochs + plan.epochs) * plan.passes * (plan.n_folds - 1) * n_labelled


def _p_clean(corpus: Corpus, log_probs: Floats, plan: TrainingPlan) -> tuple[Floats, Split | None]:
    """Return the posterior that the LLM's label is clean, where a person spoke too: by the loss, not by what the person said."""
    losses = given_losses(log_probs, corpus.llm_labels)
    return divide(losses, np.zeros(len(losses), dtype=bool), plan)


def _notes(corpus: Corpus, log_probs: Floats) -> list[str]:
    """Say what is odd about a corpus, and whether the SLM could help."""
    notes = []
    given = corpus.given
    counts = np.bincount(given[given != UNLABELED], minlength=corpus.n_classes)
    if (counts > 0).sum() == 1:
        notes.append("Only one class was given: the SLM can say nothing else, and finds no wrong label.")
    elif (counts == 0).any():
        notes.append(
            f"{int((counts == 0).sum())} of {corpus.n_classes} classes were never given: the SLM cannot find them."
        )
    known = explained(log_probs, given) if (counts > 0).sum() > 1 else 1.0
    if known < HELPFUL:
        notes.append(
            f"The SLM could not help: it explains {max(known, 0.0):.0%} of the given labels, where {HELPFUL:.0%} is little. "
            "The order of review says little."
            + (" Another CORAL_SLM_MODEL may know more." if corpus.family == "text" else "")
        )
    if (given == UNLABELED).any():
        notes.append(
            f"{int((given == UNLABELED).sum())} of {len(given)} samples have no label; they were learned from without one."
        )
    return notes


def explained(log_probs: Floats, given: Ints) -> float:
    """Return how much the SLM's word tells about the given labels, of two or more classes: 1 for all, 0 for no more than their shares.

    One minus cross-entropy over entropy (McFadden 1974). The shares of the classes are put back as they were given: what was taken
    back of an LLM's favourites is no lack of knowledge.
    """
    rows = np.flatnonzero(given != UNLABELED)
    usual = np.bincount(given[rows], minlength=log_probs.shape[1]) + 0.5
    usual /= usual.sum()
    as_given = log_softmax(log_probs + np.log(usual / shares(log_probs)), axis=1)
    return 1.0 - float(given_losses(as_given, given)[rows].mean()) / float(-(usual * np.log(usual)).sum())


__all__ = ["Corpus", "Distilled", "Earlier", "Kept", "Model", "SLMConfig", "distil", "explained"]
