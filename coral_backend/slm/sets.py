"""What does the SLM say where a text may have any number of labels? ``distil_sets``: ONE network with K outputs, K questions.

The training loop is the one of ``training.py``; ``SetTargets`` tells it which answers an epoch believes and what they cost. The views are
those of single labels, with log-odds of each label in place of log-probabilities of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, logit
from torch import Tensor

from coral_backend.exceptions import InputError, TrainingError
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.encoder import Encoder, Halves
from coral_backend.slm.learnable import log_odds, score
from coral_backend.slm.network import TextInputs, TextNetwork
from coral_backend.slm.set_model import SetModel
from coral_backend.slm.targets import Division, TrainingPlan, make_folds
from coral_backend.slm.training import Ticker, train
from coral_backend.slm.views import CHEAP_WEIGHT, NETWORKS_WEIGHT, Stopwatch, counter, frozen_layers
from coral_backend.types import UNLABELED, Floats, Ints, Progress
from strategies.distillation.fixmatch import FixMatchLoss, fixmatch_sets_loss
from strategies.distillation.frozen import FrozenModel
from strategies.distillation.label_names import LabelNameModel
from strategies.distillation.lexical import LexicalModel
from strategies.distillation.sets import (
    SetBlend,
    divide_sets,
    fit_set_blend,
    frozen_odds,
    lexical_odds,
    name_odds,
    shares,
)

__all__ = ["DistilledSets", "SetCorpus", "SetTargets", "distil_sets", "micro_f1"]

HELPFUL = 0.02
"""The SLM's micro-F1 on given sets must pass that of naming every text's most frequent set by this, or a note says so."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SetCorpus:
    """What the SLM learns from.

    Attributes
    ----------
    texts : sequence of str
        N texts.
    llm, human : ndarray
        Shape (N, K): 1 where the set of a sample has the label, 0 where not; -1 in all of a row without a set.
    label_sentences : sequence of sequence of str
        K entries, see ``Corpus``; empty when names say nothing.
    """

    texts: Sequence[str]
    llm: Ints
    human: Ints
    label_sentences: Sequence[Sequence[str]] = ()

    @property
    def n_labels(self) -> int:
        """K."""
        return int(self.llm.shape[1])

    @property
    def trusted(self) -> Bools:
        """Where a person labelled; shape (N,)."""
        return np.asarray(self.human[:, 0] != UNLABELED)

    @property
    def given(self) -> Ints:
        """The answers to learn, shape (N, K): the human's, else the LLM's, else -1."""
        return np.where(self.trusted[:, None], self.human, self.llm)

    def check(self) -> None:
        """Raise ``InputError`` unless the parts fit together."""
        n, k = len(self.texts), self.n_labels
        for name, answers in (("llm", self.llm), ("human", self.human)):
            if answers.shape != (n, k) or k < 1:
                raise InputError(
                    f"{name} has shape {answers.shape}; with {n} texts and {k} labels it must be ({n}, K)."
                )
            if not np.isin(answers, (UNLABELED, 0, 1)).all():
                raise InputError(f"{name} has other values than 1 (yes), 0 (no) and {UNLABELED} (no set).")
            none = answers == UNLABELED
            if (none.any(axis=1) != none.all(axis=1)).any():
                raise InputError(f"{name} has rows that are given in part; a sample has a set or none.")
        if self.label_sentences and len(self.label_sentences) != k:
            raise InputError(f"label_sentences has {len(self.label_sentences)} entries; there are {k} labels.")


@dataclass(frozen=True)
class SetTargets:
    """The answers as the training loop takes them; see ``Targets``."""

    answers: Ints
    trusted: Bools
    folds: Ints

    @property
    def n_folds(self) -> int:
        """How many folds there are."""
        return int(self.folds.max()) + 1

    @property
    def n_classes(self) -> int:
        """K."""
        return int(self.answers.shape[1])

    @property
    def is_given(self) -> Bools:
        """Where a set is given."""
        return np.asarray(self.answers[:, 0] != UNLABELED)

    def read(self, logits: Tensor) -> Tensor:
        """Return log-odds."""
        return log_odds(logits)

    def divide(self, scores: Floats | None, plan: TrainingPlan) -> Division:
        """Believe each answer or not, by its own loss; a kind of answer that would lose all keeps its cleanest ones."""
        clean = self.answers != UNLABELED
        if scores is not None:
            splits = divide_sets(scores, self.answers, self.trusted, splitter=plan.splitter, seed=plan.seed)
            p_clean = np.nan_to_num(splits.p_clean(scores, self.answers), nan=0.0)
            p_clean[self.trusted & self.is_given] = 1.0
            clean = _with_some_of_each(p_clean > plan.p_threshold, p_clean, self.answers)
        labelled = np.flatnonzero(self.is_given & clean.any(axis=1))
        return Division(labelled, np.flatnonzero(~clean.all(axis=1)), clean)

    def loss(
        self, logits_x_lb: Tensor, logits_w: Tensor, logits_s: Tensor, lb: Ints, ulb: Ints, *, clean: Bools, plan: TrainingPlan
    ) -> FixMatchLoss:  # fmt: skip
        """Return FixMatch's loss of the questions."""
        device = logits_x_lb.device
        return fixmatch_sets_loss(
            logits_x_lb,
            torch.as_tensor(np.maximum(self.answers[lb], 0), dtype=torch.float32, device=device),
            logits_w,
            logits_s,
            clean_lb=torch.as_tensor(clean[lb], device=device),
            open_ulb=torch.as_tensor(~clean[ulb], device=device),
            p_cutoff=plan.p_cutoff,
            lambda_u=plan.lambda_u,
        )

    def said(self, scores: Floats) -> npt.NDArray[Any]:
        """Return the sets, shape (N, K)."""
        return np.asarray(scores > 0)

    def told(self, scores: Floats, division: Division) -> dict[str, Any]:
        """Return what is to be told of an epoch; answers are counted, not samples."""
        rows = self.is_given
        losses = np.logaddexp(0.0, np.where(self.answers == 1, -scores, scores))
        return {
            "clean": int(division.clean[rows].sum()),
            "clean_share": float(division.clean[rows].mean()),
            "held_out_loss": float(np.where(division.clean, losses, 0.0)[rows].sum(axis=1).mean()),
        }


@dataclass(frozen=True)
class DistilledSets:
    """What the SLM knows about the corpus; as ``Distilled``, with probabilities, losses and ``p_clean`` of shape (N, K).

    Attributes
    ----------
    probs : ndarray
        Shape (N, K): out-of-sample probability that each label applies, in [0, 1], calibrated on the given answers.
    losses : ndarray
        Shape (N, K), nats: cross-entropy of each given answer, out of sample; NaN without one.
    p_clean : ndarray
        Shape (N, K): the mixtures' posterior that each of the LLM's answers is clean; NaN without one.
    """

    probs: Floats
    losses: Floats
    p_clean: Floats
    features: Floats
    history: list[dict[str, Any]]
    seconds: dict[str, float]
    notes: list[str]


@dataclass(frozen=True)
class _Views:
    """The views of a corpus, log-odds of shape (N, K), out of sample, and what scores new texts."""

    cheap: list[Floats]
    frozen: FrozenModel
    lexical: LexicalModel
    names: LabelNameModel


def distil_sets(corpus: SetCorpus, config: SLMConfig, *, progress: Progress, save_to: Path) -> DistilledSets:
    """Learn from the corpus, score every sample out of sample, and write the model for new texts; see ``engine.distil``.

    Raises
    ------
    TrainingError
        If fewer than two samples have a set.
    InputError
        If the arrays do not fit together.
    ModelFileError
        If the encoder cannot be loaded.
    """
    corpus.check()
    given = corpus.given
    rows = given[:, 0] != UNLABELED
    n_labelled = int(rows.sum())
    if n_labelled < 2:
        raise TrainingError(
            f"{n_labelled} of {len(corpus.texts)} samples have a set of labels; the SLM needs at least 2. "
            "Label some by hand, or let the annotator answer more of them."
        )
    watch = Stopwatch()
    encoder = Encoder.load(config.model, config.max_length)
    plan = config.plan(n_labelled, encoder.width)
    work = 3 * len(given) + (plan.warmup_epochs + plan.epochs) * (plan.n_folds - 1) * n_labelled
    ticker = Ticker(progress, work)
    halves = encoder.halves(frozen_layers(encoder, config.frozen_share))
    inputs = TextInputs(encoder, halves, corpus.texts, counter(ticker, "embedding"))
    watch.lap("embedding")
    views = _cheap_views(corpus, config, encoder, ticker, watch)
    folds = make_folds(_strata(given), plan.n_folds, np.random.default_rng(plan.seed))
    targets = SetTargets(given, corpus.trusted, folds)
    prior = torch.as_tensor(logit(shares(given)), dtype=torch.float32)
    trained = train(inputs, lambda: _network(halves, prior, plan.dropout), targets, plan, ticker)
    watch.lap(None)
    odds = _pool(trained.views, views.cheap, given).odds([*trained.views, *views.cheap])
    blend = _pool(trained.views[-1:], views.cheap, given)  # new texts are read by the networks as they are at the end
    splits = divide_sets(odds, corpus.llm, np.zeros(len(given), dtype=bool), splitter=plan.splitter, seed=plan.seed)
    _, features = score(
        trained.networks[0], inputs, range(len(inputs)), lambda n: ticker.tick(n, stage="scoring"), log_odds
    )
    SetModel(
        encoder,
        halves,
        trained.networks,
        frozen=views.frozen,
        lexical=views.lexical,
        names=views.names,
        blend=blend,
        splits=splits,
        config=config,
    ).save(save_to)
    watch.lap("scoring")
    return DistilledSets(
        probs=expit(odds),
        losses=np.where(rows[:, None], np.logaddexp(0.0, np.where(given == 1, -odds, odds)), np.nan),
        p_clean=splits.p_clean(odds, corpus.llm),
        features=features,
        history=trained.history,
        seconds={k: round(v, 3) for k, v in {**watch.seconds, **trained.seconds}.items()},
        notes=_notes(given, odds),
    )


def _with_some_of_each(clean: Bools, p_clean: Floats, answers: Ints) -> Bools:
    clean = clean.copy()
    for said in (0, 1):
        for k in range(answers.shape[1]):
            rows = np.flatnonzero(answers[:, k] == said)
            if rows.size and not clean[rows, k].any():
                best = np.argsort(-p_clean[rows, k], kind="stable")[: max(1, len(rows) // 2)]
                clean[rows[best], k] = True
    return clean


def _strata(answers: Ints) -> Ints:
    """Return what the folds are dealt by, shape (N,): each set's rarest label, so that a rare one is in every fold; K for no label."""
    k = answers.shape[1]
    counts = np.maximum(answers, 0).sum(axis=0)
    rarest = np.where(answers == 1, counts, np.iinfo(np.int64).max).argmin(axis=1)
    strata = np.where((answers == 1).any(axis=1), rarest, k)
    return np.where(answers[:, 0] == UNLABELED, UNLABELED, strata)


def _network(halves: Halves, prior: Tensor, dropout: float) -> TextNetwork:
    """Return a network that begins with the shares of the labels: rare ones need not first be learned to be rare."""
    network = TextNetwork(halves, len(prior), dropout)
    network.head.bias.data.copy_(prior)
    return network


def _cheap_views(corpus: SetCorpus, config: SLMConfig, encoder: Encoder, ticker: Ticker, watch: Stopwatch) -> _Views:
    """Score the corpus by frozen embeddings, words, and the labels' names; a view that shall not vote says nothing."""
    n, k, given = len(corpus.texts), corpus.n_labels, corpus.given
    silent = np.zeros((n, k))
    frozen = FrozenModel(np.zeros((encoder.width, k), dtype=np.float32), np.zeros(k, dtype=np.float32))
    names = LabelNameModel(np.zeros((k, encoder.width), dtype=np.float32), np.zeros(k, dtype=np.float32))
    by_embedding: Floats = silent
    by_name: Floats = silent
    if config.frozen_view:
        embeddings = encoder.embed(corpus.texts, counter(ticker, "embedding"))
        by_embedding, frozen = frozen_odds(embeddings, given)
        if corpus.label_sentences:
            by_name, names = name_odds(embeddings, [encoder.embed(words) for words in corpus.label_sentences])
    else:
        ticker.tick(n, stage="embedding")
    watch.lap("frozen")
    rng = np.random.default_rng([config.seed, 1])
    by_words, lexical = lexical_odds(corpus.texts, given, rng=rng, progress=counter(ticker, "lexical"))
    watch.lap("lexical")
    return _Views([by_embedding, by_words, by_name], frozen, lexical, names)


def _pool(networks: Sequence[Floats], cheap: Sequence[Floats], given: Ints) -> SetBlend:
    """Fit a blend on all given answers."""
    rows = given[:, 0] != UNLABELED
    prior = [NETWORKS_WEIGHT / max(len(networks), 1)] * len(networks) + [CHEAP_WEIGHT] * len(cheap)
    return fit_set_blend([view[rows] for view in (*networks, *cheap)], given[rows], prior)


def _notes(given: Ints, odds: Floats) -> list[str]:
    """Say what is odd about a corpus, and whether the SLM could help."""
    rows = given[:, 0] != UNLABELED
    answers, notes = given[rows], []
    never = int((answers.sum(axis=0) == 0).sum())
    if never:
        notes.append(f"{never} of {given.shape[1]} labels were never given: the SLM cannot find them.")
    usual = np.broadcast_to((answers.mean(axis=0) >= 0.5).astype(int), answers.shape)
    found, plain = micro_f1((odds[rows] > 0).astype(int), answers), micro_f1(usual, answers)
    if found < plain + HELPFUL:
        notes.append(
            f"The SLM could not help: its sets meet the given ones with a micro-F1 of {found:.2f}, naming the same set always "
            f"would reach {plain:.2f}. The order of review says little. Another CORAL_SLM_MODEL may know more."
        )
    if not rows.all():
        notes.append(
            f"{int((~rows).sum())} of {len(given)} samples have no set of labels; they were learned from as texts only."
        )
    return notes


def micro_f1(said: Ints, true: Ints) -> float:
    """Return the micro-averaged F1 of sets as arrays of 0 and 1, shape (N, K); 1 where both are empty everywhere."""
    both, either = float((said & true).sum()), float(said.sum() + true.sum())
    return 2 * both / either if either else 1.0
