"""Which labels apply to a text that may have any number of them? K questions with yes or no, with the parts that single labels have.

The cheap views, their blend, the split of the given answers by their losses, and the posterior of each answer. Two things differ from one
class of K. Nearly every answer is no: a mixture over all losses of a label would call every yes noisy, so that yes and no are divided apart
and their losses are taken against balanced odds. And the blend has a bias for each label, one set of weights for all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.exceptions import ConvergenceWarning

from strategies.distillation.blend import MAX_WEIGHT, PRIOR_STRENGTH
from strategies.distillation.frozen import FrozenModel, ridge_regression
from strategies.distillation.gmm_split import SPLITTERS, Split
from strategies.distillation.label_names import LabelNameModel
from strategies.distillation.lexical import LexicalModel, word_regression
from strategies.distillation.posterior import SUPPORT, bayes, noise_rates

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNLABELED = -1

FEWEST_VARIANCE = 0.02
"""The log-odds of a ridge score are the score over the variance of its answers, which is taken for at least this."""

FEWEST_DIVIDED = 40
"""Answers of a kind (yes, or no) to one question; with fewer, those of all such questions are divided together."""

MOST_DIVIDED = 3_000
"""So many losses, drawn at random, tell a mixture as much as all of them."""

OVERRULE = 20.0
"""The other answer must be so many times as probable as the LLM's to become the verdict. More than for one label of K: a wrong label that
is taken out is seldom the only thing that is wrong with a set, a right one that is taken out makes it wrong. Over four composed corpora
(``benchmarks/multilabel.py``, cheap views only): with 2, 145 of 255 that were taken out were wrong, and on one corpus whole right sets fell
from 47 to 41 %; with 20, 2 of 6, and they stay as they were. An answer that stays against the posterior is as doubtful as can be: of such tasks
those come first whose sets are least sure as a whole (which finds more than going on by the posterior)."""


# --- views ------------------------------------------------------------------------------------------------------------


def shares(answers: Ints) -> Floats:
    """Return the share of yes to each question, shape (K,), in (0, 1); of answers (N, K), rows of -1 where none are given."""
    given = answers[answers[:, 0] >= 0]
    return np.asarray((given.sum(axis=0) + 0.5) / (len(given) + 1.0))


def frozen_odds(embeddings: Floats, answers: Ints) -> tuple[Floats, FrozenModel]:
    """Score every text by ridge regressions on frozen embeddings, out of sample; the model's ``scores`` do so for new texts.

    Parameters
    ----------
    embeddings : ndarray
        Shape (N, D), rows of length 1.
    answers : ndarray
        Shape (N, K), 1 yes, 0 no; -1 in all of a row where nothing is given.

    Returns
    -------
    odds : ndarray
        Shape (N, K), log-odds of yes.
    """
    rows, prior = np.flatnonzero(answers[:, 0] >= 0), shares(answers)
    scores, weights, center = ridge_regression(embeddings, rows, answers[rows] - prior)
    scale = _odds_scale(prior)
    bias = logit(prior) - scale * (center @ weights)
    return logit(prior) + scale * scores, FrozenModel(
        (scale * weights).astype(np.float32), np.asarray(bias, dtype=np.float32)
    )


def lexical_odds(
    texts: Sequence[str],
    answers: Ints,
    *,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Floats, LexicalModel]:
    """Score every text by its words, as ``frozen_odds`` does by embeddings; see ``lexical_view``."""
    rows, prior = np.flatnonzero(answers[:, 0] >= 0), shares(answers)
    targets = (answers[rows] - prior).astype(np.float32)
    scores, columns, idf, weights = word_regression(texts, rows, targets, rng=rng, progress=progress)
    scale = _odds_scale(prior)
    model = LexicalModel(
        columns,
        idf,
        np.asarray(scale[:, None] * weights, dtype=np.float32),
        np.asarray(logit(prior), dtype=np.float32),
    )
    return logit(prior) + scale * scores, model


def name_odds(embeddings: Floats, label_vectors: Sequence[Floats]) -> tuple[Floats, LabelNameModel]:
    """Score every text by how near it is to each label's words; no answer of the corpus is used. See ``label_name_view``."""
    vectors = np.stack([np.mean(rows, axis=0) for rows in label_vectors]).astype(np.float32)
    model = LabelNameModel.of(vectors, embeddings)
    return model.scores(embeddings), model


def _odds_scale(prior: Floats) -> Floats:
    """Return what turns a ridge score into log-odds: for two classes of one covariance the score is p (1 - p) times these."""
    return np.asarray(1.0 / np.maximum(prior * (1.0 - prior), FEWEST_VARIANCE))


# --- blend ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetBlend:
    """A fitted pool: log-odds ``sum_v weights[v] * view[v] + bias``.

    Attributes
    ----------
    weights : ndarray
        Shape (V,), one a view, >= 0.
    bias : ndarray
        Shape (K,), nats.
    """

    weights: Floats
    bias: Floats

    def odds(self, views: Sequence[Floats]) -> Floats:
        """Return blended log-odds, shape (N, K), of views of that shape."""
        pooled = sum((w * view for w, view in zip(self.weights, views, strict=True)), start=np.zeros_like(views[0]))
        return np.asarray(pooled + self.bias)


def fit_set_blend(views: Sequence[Floats], answers: Ints, prior_weights: Sequence[float]) -> SetBlend:
    """Fit the pool by maximum likelihood of the given answers, held near `prior_weights` where there are few.

    Parameters
    ----------
    views : sequence of ndarray
        V arrays of shape (n, K): log-odds, each out of sample.
    answers : ndarray
        Shape (n, K), 1 yes, 0 no.
    prior_weights : sequence of float
        V weights to start from and to shrink to.

    References
    ----------
    As ``blend.fit_blend``.
    """
    stacked, prior = np.stack(views).astype(np.float64), np.asarray(prior_weights, dtype=np.float64)
    n_views, n_labels = len(views), answers.shape[1]

    def objective(theta: Floats) -> tuple[float, Floats]:
        weights, bias = theta[:n_views], theta[n_views:]
        odds = np.tensordot(weights, stacked, axes=1) + bias
        residual = expit(odds) - answers
        deviation = weights - prior
        loss = (np.logaddexp(0.0, odds) - answers * odds).sum()
        loss += PRIOR_STRENGTH * (deviation @ deviation) + 0.5 * PRIOR_STRENGTH * (bias @ bias)
        gradient = np.concatenate(
            [
                np.einsum("nk,vnk->v", residual, stacked) + 2 * PRIOR_STRENGTH * deviation,
                residual.sum(0) + PRIOR_STRENGTH * bias,
            ]
        )
        return float(loss), gradient

    bounds = [(0.0, MAX_WEIGHT)] * n_views + [(-8.0, 8.0)] * n_labels
    found = minimize(objective, np.concatenate([prior, np.zeros(n_labels)]), jac=True, method="L-BFGS-B", bounds=bounds)
    return SetBlend(found.x[:n_views], found.x[n_views:])


# --- split ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetSplits:
    """How the answers of each kind to each question are divided.

    Attributes
    ----------
    components : ndarray
        Shape (2, K, 6): of no and yes, of each question, the two components' means, variances and weights, clean first.
    prior : ndarray
        Shape (K,), share of yes: losses are taken against balanced odds.
    """

    components: Floats
    prior: Floats

    def p_clean(self, odds: Floats, answers: Ints) -> Floats:
        """Return the posterior that each answer is clean, shape (N, K), in [0, 1]; NaN where none is given."""
        losses = balanced_losses(odds, answers, self.prior)
        found = np.full(losses.shape, np.nan)
        for said in (0, 1):
            for k in range(losses.shape[1]):
                rows = answers[:, k] == said
                found[rows, k] = _split_of(self.components[said, k]).posterior(losses[rows, k])
        return found


def balanced_losses(odds: Floats, answers: Ints, prior: Floats) -> Floats:
    """Return the cross-entropy in nats of given answers, were yes and no equally frequent; shape (N, K), NaN where none is given.

    So a yes to a rare question is not suspect because the question is rare, and losses of different questions compare.
    """
    balanced = odds - logit(prior)
    return np.where(answers < 0, np.nan, np.logaddexp(0.0, np.where(answers == 1, -balanced, balanced)))


def divide_sets(odds: Floats, answers: Ints, trusted: Bools, *, splitter: str, seed: int) -> SetSplits:
    """Divide the answers by their losses: each question by itself, yes and no apart, rare kinds of answer together.

    Parameters
    ----------
    odds : ndarray
        Shape (N, K), out of sample.
    answers : ndarray
        Shape (N, K), 1 yes, 0 no, -1 none given.
    trusted : ndarray
        Shape (N,), bool: a person's answers, which no mixture is fitted on.

    References
    ----------
    Li, Socher, Hoi: DivideMix, ICLR 2020, section 3.1, for each question.
    """
    prior = shares(answers)
    losses, rng = balanced_losses(odds, answers, prior), np.random.default_rng(seed)
    doubted = (answers >= 0) & ~trusted[:, None]
    components = np.zeros((2, answers.shape[1], 6))
    for said in (0, 1):
        kind = doubted & (answers == said)
        few = kind.sum(axis=0) < FEWEST_DIVIDED
        rare = _components(losses[:, few][kind[:, few]], splitter, seed, rng)
        for k in range(answers.shape[1]):
            components[said, k] = rare if few[k] else _components(losses[kind[:, k], k], splitter, seed, rng)
    return SetSplits(components, prior)


def _components(losses: Floats, splitter: str, seed: int, rng: np.random.Generator) -> Floats:
    if losses.size < 2:
        return np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.0])  # one heap: nothing speaks against it
    if losses.size > MOST_DIVIDED:
        losses = rng.choice(losses, MOST_DIVIDED, replace=False)
    with warnings.catch_warnings():  # of the many small mixtures some go on creeping; they divide as well
        warnings.simplefilter("ignore", ConvergenceWarning)
        split = SPLITTERS.get(splitter)(losses, seed=seed)
    return np.array([*split.means, *split.variances, *split.weights])


def _split_of(parts: Floats) -> Split:
    m0, m1, v0, v1, w0, w1 = parts.tolist()
    return Split(np.zeros(0), (m0, m1), (v0, v1), (w0, w1))


# --- posterior --------------------------------------------------------------------------------------------------------


def combine_sets(
    llm: Ints,
    llm_confidence: Floats | None,
    probs: Floats,
    p_clean: Floats,
    human: Ints,
    *,
    p_threshold: float = 0.5,
) -> Floats:
    """Return the probability that each label applies, given what LLM and SLM say of a sample; ``posterior.combine`` for sets.

    What a person says of a sample tells how often the LLM errs, and not what the machines would say of that sample.

    The LLM's share of errors is assumed for its yes and for its no apart: it names wrong labels and forgets right ones, and of the many
    that it does not name few are forgotten.

    Parameters
    ----------
    llm, human : ndarray
        Shape (N, K), 1 yes, 0 no; -1 where nothing was said.
    llm_confidence : ndarray or None
        Shape (N,), the LLM's own confidence in the whole set, in [0, 1], NaN where unknown.
    probs : ndarray
        Shape (N, K), out-of-sample SLM probabilities of yes.
    p_clean : ndarray
        Shape (N, K), posterior that the LLM's answer is clean, NaN where unknown.
    p_threshold : float
        In (0, 1): an answer of the LLM whose ``p_clean`` reaches it is clean and stays.

    Returns
    -------
    ndarray
        Shape (N, K), probability of yes; from 0.5 on the label belongs to the verdict.
    """
    posterior = np.zeros(probs.shape)
    known = (llm == 1).sum(axis=0) >= SUPPORT
    for said in (0, 1, UNLABELED):
        rows, columns = np.nonzero(llm == said)
        answers = llm[rows, columns]
        two = np.stack([1.0 - probs[rows, columns], probs[rows, columns]], axis=1)
        sure = None if llm_confidence is None else llm_confidence[rows]
        noise = noise_rates(answers, sure, two, human[rows, columns])
        yes = bayes(answers, two, noise)[:, 1]
        if said != UNLABELED:
            rival = 1.0 - yes if said else yes
            doubted = np.nan_to_num(p_clean[rows, columns], nan=1.0) < p_threshold
            free = doubted & known[columns] & (rival >= OVERRULE * (1.0 - rival))
            kept = np.where(free, rival, np.minimum(rival, 0.499))
            yes = 1.0 - kept if said else kept
        posterior[rows, columns] = yes
    return posterior
