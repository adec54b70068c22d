"""What is to be learned of N samples, and which labels does an epoch believe? One of K classes; ``sets.py`` asks K questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coral_backend.slm.learnable import log_softmax
from coral_backend.types import UNLABELED, Floats, Ints
from strategies.distillation.fixmatch import FixMatchLoss, fixmatch_loss
from strategies.distillation.gmm_split import SPLITTERS, Split
from strategies.distillation.posterior import refuted

__all__ = [
    "Division",
    "Labels",
    "Targets",
    "TrainingPlan",
    "divide",
    "given_losses",
    "labelled_and_not",
    "make_folds",
    "spared",
]


@dataclass(frozen=True)
class TrainingPlan:
    """What a training is told; the defaults of ``SLMConfig`` are measured, see there.

    Attributes
    ----------
    n_folds : int
        Networks; each is trained on all folds but one.
    warmup_epochs, epochs : int
        Epochs of plain training, then at most so many with split and FixMatch.
    p_threshold : float
        In (0, 1): ``p_clean`` above it puts a sample among the labelled ones.
    p_cutoff, lambda_u : float
        FixMatch's, see there.
    batch_size, learning_rate, head_learning_rate, weight_decay, dropout : float
        The optimizer's and the network's.
    weak_cutoff, strong_cutoff : float
        Shares of a sample that the two augmentations hide: tokens of a text, columns of a row.
    splitter : str
        Name in ``SPLITTERS``.
    passes : int
        How often an epoch goes through its samples. Small networks on small samples take more steps, and need no split so often.
    """

    n_folds: int
    warmup_epochs: int
    epochs: int
    p_threshold: float
    p_cutoff: float
    lambda_u: float
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    dropout: float
    weak_cutoff: float
    strong_cutoff: float
    splitter: str
    seed: int
    passes: int = 1


@dataclass(frozen=True)
class Division:
    """Which labels an epoch learns from.

    Attributes
    ----------
    labelled, unlabelled : ndarray
        Rows with something to learn from by its label, and rows with something to learn from without; a row may be among both.
    clean : ndarray
        Shape (N,), or (N, K) where each label of a sample is judged by itself; bool: the label is learned from.
    split : Split or None
        Of the losses; None where nothing was divided.
    """

    labelled: Ints
    unlabelled: Ints
    clean: npt.NDArray[np.bool_]
    split: Split | None = None


class Targets(Protocol):
    """What is to be learned of N samples: the seam between one of K classes and K questions with yes or no."""

    @property
    def folds(self) -> Ints:
        """Shape (N,), 0 ... n_folds - 1."""

    @property
    def n_folds(self) -> int:
        """How many folds there are."""

    @property
    def n_classes(self) -> int:
        """K, outputs of a network."""

    @property
    def is_given(self) -> npt.NDArray[np.bool_]:
        """Shape (N,): where a label is given."""

    def read(self, logits: Tensor) -> Tensor:
        """Return what is kept of logits (B, K) as the score of a sample."""

    def divide(self, scores: Floats | None, plan: TrainingPlan) -> Division:
        """Return what to learn from, by out-of-sample scores (N, K); None in the warm-up, when all labels are believed."""

    def loss(
        self, logits_x_lb: Tensor, logits_w: Tensor, logits_s: Tensor, lb: Ints, ulb: Ints, *, clean: npt.NDArray[np.bool_],
        plan: TrainingPlan,
    ) -> FixMatchLoss:  # fmt: skip
        """Return the loss of rows `lb` and `ulb`."""

    def said(self, scores: Floats) -> npt.NDArray[Any]:
        """Return what scores (N, K) say of each sample: training ends when it no longer changes."""

    def told(self, scores: Floats, division: Division) -> dict[str, Any]:
        """Return ``clean``, ``clean_share`` and ``held_out_loss`` of an epoch that came to `scores`."""


@dataclass(frozen=True)
class Labels:
    """What is known about N samples, each of one class.

    Attributes
    ----------
    given : ndarray
        Shape (N,): the label to learn, ``UNLABELED`` where there is none.
    trusted : ndarray
        Shape (N,), bool: the label is a person's; always among the labelled ones.
    folds : ndarray
        Shape (N,), from ``make_folds``.
    n_classes : int
        K.
    """

    given: Ints
    trusted: npt.NDArray[np.bool_]
    folds: Ints
    n_classes: int

    @property
    def n_folds(self) -> int:
        """How many folds there are."""
        return int(self.folds.max()) + 1

    @property
    def is_given(self) -> npt.NDArray[np.bool_]:
        """Where a label is given."""
        return np.asarray(self.given != UNLABELED)

    def read(self, logits: Tensor) -> Tensor:
        """Return log-probabilities."""
        return log_softmax(logits)

    def divide(self, scores: Floats | None, plan: TrainingPlan) -> Division:
        """Divide by the losses of the labels."""
        p_clean, split = np.where(self.is_given, 1.0, np.nan), None
        if scores is not None:
            p_clean, split = divide(given_losses(scores, self.given), self.trusted, plan)
            p_clean = spared(p_clean, self.given, self.trusted, scores, plan.p_threshold)
        labelled, unlabelled = labelled_and_not(p_clean, self.given, plan.p_threshold)
        return Division(labelled, unlabelled, np.isin(np.arange(len(self.given)), labelled), split)

    def loss(
        self, logits_x_lb: Tensor, logits_w: Tensor, logits_s: Tensor, lb: Ints, ulb: Ints, *,  # noqa: ARG002 - all is known of ulb
        clean: npt.NDArray[np.bool_], plan: TrainingPlan,  # noqa: ARG002 - lb are clean
    ) -> FixMatchLoss:  # fmt: skip
        """Return FixMatch's loss."""
        y_lb = torch.as_tensor(self.given[lb], dtype=torch.long, device=logits_x_lb.device)
        return fixmatch_loss(logits_x_lb, y_lb, logits_w, logits_s, p_cutoff=plan.p_cutoff, lambda_u=plan.lambda_u)

    def said(self, scores: Floats) -> npt.NDArray[Any]:
        """Return the most probable class."""
        return np.asarray(scores.argmax(axis=1))

    def told(self, scores: Floats, division: Division) -> dict[str, Any]:
        """Return what is to be told of an epoch."""
        return {
            "clean": len(division.labelled),
            "clean_share": len(division.labelled) / int(self.is_given.sum()),
            "held_out_loss": float(given_losses(scores, self.given)[division.labelled].mean()),
        }


def make_folds(given: Ints, n_folds: int, rng: np.random.Generator) -> Ints:
    """Return a fold for each sample, 0 ... n_folds - 1, every class (and the unlabelled) spread evenly.

    Counting goes on from class to class, so that folds are equal in size even when most classes have one sample.
    """
    folds = np.zeros(len(given), dtype=np.int64)
    shuffled = rng.permutation(len(given))
    by_class = shuffled[np.argsort(given[shuffled], kind="stable")]
    folds[by_class] = np.arange(len(given)) % n_folds
    return folds


def given_losses(log_probs: Floats, given: Ints) -> Floats:
    """Return the cross-entropy in nats of the given labels, shape (N,), NaN where there is none."""
    losses = -log_probs[np.arange(len(given)), np.maximum(given, 0)]
    return np.where(given == UNLABELED, np.nan, losses)


def divide(losses: Floats, trusted: npt.NDArray[np.bool_], plan: TrainingPlan) -> tuple[Floats, Split | None]:
    """Return p_clean (N,): NaN without a label, 1 for trusted samples, else the splitter's; and the split itself.

    Parameters
    ----------
    losses : ndarray
        Shape (N,), NaN where there is no label.
    trusted : ndarray
        Shape (N,), bool: labelled by a person.
    """
    p_clean = np.where(np.isnan(losses), np.nan, 1.0)
    doubted = np.flatnonzero(~np.isnan(losses) & ~trusted)
    if doubted.size < 2:
        return p_clean, None
    split = SPLITTERS.get(plan.splitter)(losses[doubted], seed=plan.seed)
    p_clean[doubted] = split.p_clean
    return p_clean, split


def spared(p_clean: Floats, given: Ints, trusted: npt.NDArray[np.bool_], log_probs: Floats, threshold: float) -> Floats:
    """Return `p_clean` with 1 for every label that the mixture calls noisy and that is more likely right all the same.

    The mixture's noisy heap holds hard samples with right labels too, and there is most to learn from these. On ``mr`` the heap has 21 % of
    the labels, 13 % of them wrong; networks that learn without it are right less often by 2 points.
    """
    return np.where(np.isnan(p_clean) | refuted(log_probs, given, trusted, p_clean, threshold), p_clean, 1.0)


def labelled_and_not(p_clean: Floats, given: Ints, threshold: float) -> tuple[Ints, Ints]:
    """Return rows with a clean label and all others. A class that would lose every label keeps its cleanest ones."""
    clean = np.nan_to_num(p_clean, nan=0.0) > threshold
    for k in np.unique(given[given != UNLABELED]):
        rows = np.flatnonzero(given == k)
        if not clean[rows].any():
            clean[rows[np.argsort(-p_clean[rows], kind="stable")[: max(1, len(rows) // 2)]]] = True
    return np.flatnonzero(clean), np.flatnonzero(~clean)
