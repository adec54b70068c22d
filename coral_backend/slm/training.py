"""How do the networks learn from noisy labels? The one training loop: warm-up, then GMM split and FixMatch in every epoch.

The corpus is cut into folds and each fold has a network that never sees the labels of its own fold. All networks go through their
epochs side by side; after each epoch every sample is scored by the network of its fold. Those out-of-sample losses are what the
mixture divides: a network cannot have memorised a label that it never saw. That is DivideMix's co-dividing, with folds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coral_backend.slm.learnable import Inputs, Network, score
from coral_backend.slm.targets import (
    Division,
    Labels,
    Targets,
    TrainingPlan,
    divide,
    given_losses,
    labelled_and_not,
    make_folds,
)
from coral_backend.types import Floats, Ints, Progress

__all__ = [
    "TRAINING", "WARM_UP", "Epoch", "Labels", "Learner", "Ticker", "Trained", "TrainingPlan", "batches", "divide", "given_losses",
    "labelled_and_not", "make_folds", "paired", "train",
]  # fmt: skip

logger = logging.getLogger(__name__)

NetworkT = TypeVar("NetworkT", bound=Network)

BUCKET = 32
"""Batches that are sorted by length together: little padding, still shuffled."""

WARM_UP, TRAINING = "warm-up", "training"
"""The two stages."""

CONVERGED = 0.002
"""Training ends when an epoch changes the out-of-sample label of a smaller share of the samples than this."""

TOLD = ("epoch", "stage", "loss", "clean", "changed")
"""What the log says of an epoch."""

RAMP = 0.1
"""Share of the steps in which the learning rate rises; after it, it falls to 0."""


@dataclass
class Trained(Generic[NetworkT]):
    """What came out of a training.

    Attributes
    ----------
    networks : list of Network
        One a fold.
    views : list of ndarray
        One an epoch, shape (N, K): log-probabilities (of sets: log-odds), out of sample. Early epochs are less sure and know
        other things.
    history : list of dict
        One an epoch.
    seconds : dict
        Of ``warm-up`` and ``training``.
    """

    networks: list[NetworkT]
    views: list[Floats] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def log_probs(self) -> Floats:
        """Shape (N, K): the mean of all epochs' views."""
        return np.asarray(np.mean(self.views, axis=0))


class Learner(Generic[NetworkT]):
    """One network with its optimizer: epoch by epoch, step by step."""

    def __init__(self, network: NetworkT, plan: TrainingPlan, n_steps: int, inputs: Inputs, targets: Targets) -> None:
        self.plan, self.inputs, self.targets, self.n_steps = plan, inputs, targets, max(n_steps, 1)
        self.network = network.to(inputs.device)
        groups = [
            {"params": list(self.network.body.parameters()), "lr": plan.learning_rate},
            {"params": list(self.network.head.parameters()), "lr": plan.head_learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def _rate(self, step: int) -> float:
        """Rise, then fall linearly; never quite 0, for FixMatch's epochs may take a few steps more than planned."""
        rise = max(1.0, RAMP * self.n_steps)
        return min((step + 1) / rise, max(0.02, (self.n_steps - step) / max(1.0, self.n_steps - rise)))

    def step(
        self, lb: Ints, ulb: Ints, clean: npt.NDArray[np.bool_], generator: torch.Generator
    ) -> tuple[float, float]:
        """Learn from labelled rows `lb` and unlabelled rows `ulb`; return the loss and the share of the mask."""
        self.network.train()
        x_lb = self.inputs.batch(lb.tolist())
        with self.inputs.autocast():
            logits_x_lb, _ = self.network(*self.inputs.augmented(x_lb, self.plan.weak_cutoff, generator))
            logits_w, logits_s = self._unlabelled(ulb, logits_x_lb, generator)
        loss = self.targets.loss(logits_x_lb, logits_w, logits_s, lb, ulb, clean=clean, plan=self.plan)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss.total)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.total.detach()), float(loss.mask.mean()) if len(loss.mask) else math.nan

    def _unlabelled(self, ulb: Ints, like: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return logits of the weakly and of the strongly augmented unlabelled rows; shape (0, K) when there are none."""
        if not len(ulb):
            empty = like.detach()[:0]
            return empty, empty
        x_ulb = self.inputs.batch(ulb.tolist())
        with torch.no_grad():
            x_ulb_w = self.inputs.augmented(x_ulb, self.plan.weak_cutoff, generator)
            logits_w, _ = self.network(*x_ulb_w)
        x_ulb_s = self.inputs.augmented(x_ulb, self.plan.strong_cutoff, generator)
        logits_s, _ = self.network(*x_ulb_s)
        return logits_w, logits_s


class Ticker:
    """Count steps and tell them on, at most a few times a second."""

    def __init__(self, progress: Progress, total: int, every: float = 0.5) -> None:
        self.progress, self.total, self.every = progress, max(total, 1), every
        self.done, self.last = 0, -math.inf
        self.detail: dict[str, Any] = {}

    def tick(self, steps: int = 1, **detail: Any) -> None:
        """Add `steps`; whatever ``progress`` raises ends the training."""
        self.done = min(self.done + steps, self.total)
        self.detail.update(detail)
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self.progress(self.done, self.total, dict(self.detail))


def batches(rows: Ints, lengths: Sequence[int], size: int, rng: np.random.Generator) -> list[Ints]:
    """Cut shuffled `rows` into batches of similar length, in random order."""
    rows = rng.permutation(rows)
    cut: list[Ints] = []
    for start in range(0, len(rows), size * BUCKET):
        chunk = rows[start : start + size * BUCKET]
        chunk = chunk[np.argsort([lengths[i] for i in chunk], kind="stable")]
        cut.extend(chunk[i : i + size] for i in range(0, len(chunk), size))
    return [cut[i] for i in rng.permutation(len(cut))]


def paired(labelled: list[Ints], unlabelled: list[Ints]) -> Iterator[tuple[Ints, Ints]]:
    """Go through the labelled batches; the unlabelled ones are dealt out among them, each at most once an epoch."""
    none = np.zeros(0, dtype=np.int64)
    every = max(1, len(labelled) // len(unlabelled)) if unlabelled else 0
    waiting = iter(unlabelled)
    for i, batch in enumerate(labelled):
        yield batch, next(waiting, none) if every and i % every == 0 else none


def train(
    inputs: Inputs, make: Callable[[], NetworkT], labels: Targets, plan: TrainingPlan, ticker: Ticker
) -> Trained[NetworkT]:
    """Train one network a fold and score every sample by the network of its fold.

    Parameters
    ----------
    inputs : Inputs
        N samples.
    make : callable
        Returns a new network; called once a fold, after torch was seeded for it.
    labels : Targets
        Of the same N samples.

    Returns
    -------
    Trained
        Stops before the most epochs when the out-of-sample labels no longer change.

    References
    ----------
    CORAL, PVLDB 2024, section 3. Li et al.: DivideMix, ICLR 2020. Sohn et al.: FixMatch, NeurIPS 2020.
    """
    learners = _learners(inputs, make, labels, plan)
    trained = Trained([learner.network for learner in learners])
    epoch_of = Epoch(learners, labels, plan, ticker)
    for epoch in range(plan.warmup_epochs + plan.epochs):
        began = time.perf_counter()
        record = epoch_of.run(epoch, trained)
        stage = record["stage"]
        record["seconds"] = round(time.perf_counter() - began, 2)
        trained.history.append(record)
        trained.seconds[stage] = trained.seconds.get(stage, 0.0) + record["seconds"]
        logger.info("epoch %d (%s): loss %.3f, %d clean, %.3f changed", *(record[k] for k in TOLD))
        if stage == TRAINING and record["changed"] < CONVERGED:
            break
    return trained


def _learners(
    inputs: Inputs, make: Callable[[], NetworkT], labels: Targets, plan: TrainingPlan
) -> list[Learner[NetworkT]]:
    """Make one learner a fold; the steps of its whole schedule are known beforehand."""
    learners = []
    for fold in range(labels.n_folds):
        n_labelled = int((labels.is_given & (labels.folds != fold)).sum())
        n_steps = (plan.warmup_epochs + plan.epochs) * plan.passes * math.ceil(n_labelled / plan.batch_size)
        torch.manual_seed(plan.seed + fold)
        learners.append(Learner(make(), plan, n_steps, inputs, labels))
    return learners


class Epoch(Generic[NetworkT]):
    """Everything that happens in one epoch: divide, let every network learn, score every sample out of sample."""

    def __init__(self, learners: list[Learner[NetworkT]], labels: Targets, plan: TrainingPlan, ticker: Ticker) -> None:
        self.learners, self.labels, self.plan, self.ticker = learners, labels, plan, ticker
        self.rng, self.generator = np.random.default_rng(plan.seed), torch.Generator().manual_seed(plan.seed)

    def run(self, epoch: int, trained: Trained[NetworkT]) -> dict[str, Any]:
        """Go through epoch number `epoch` (from 0), add to ``trained.views``, return what is to be told."""
        warm = epoch < self.plan.warmup_epochs
        division = self.labels.divide(None if warm else trained.log_probs, self.plan)
        stage = WARM_UP if warm else TRAINING
        facts = self.learn(division, warm=warm, epoch=epoch + 1, stage=stage)
        scores = self.score()
        before = self.labels.said(trained.log_probs) if trained.views else None
        trained.views.append(scores)
        changed = np.ones(1) if before is None else self.labels.said(trained.log_probs) != before
        record = {
            "epoch": epoch + 1,
            "stage": stage,
            **facts,
            **self.labels.told(scores, division),
            "changed": float(changed.mean()),
        }
        return record | ({"gmm": division.split.to_json()} if division.split is not None else {})

    def learn(self, division: Division, *, warm: bool, **detail: Any) -> dict[str, Any]:
        """Let every network learn from what lies outside its fold; return mean loss and share of sure pseudo-labels."""
        losses, masks = [], []
        unlabelled = division.unlabelled[:0] if warm else division.unlabelled
        for fold, learner in enumerate(self.learners):
            for _ in range(self.plan.passes):
                for x_lb, x_ulb in paired(self._batches(division.labelled, fold), self._batches(unlabelled, fold)):
                    loss, mask = learner.step(x_lb, x_ulb, division.clean, self.generator)
                    losses.append(loss)
                    masks.append(mask)
                    self.ticker.tick(len(x_lb), loss=round(loss, 4), **detail)
        return {
            "loss": float(np.mean(losses)) if losses else 0.0,
            "mask_rate": float(np.nanmean(masks)) if np.isfinite(masks).any() else None,
        }

    def _batches(self, rows: Ints, fold: int) -> list[Ints]:
        outside = rows[self.labels.folds[rows] != fold]
        return batches(outside, self.learners[fold].inputs.lengths, self.plan.batch_size, self.rng)

    def score(self) -> Floats:
        """Return scores (N, K), each sample scored by the network of its fold."""
        targets = self.labels
        scores = np.zeros((len(targets.folds), targets.n_classes))
        for fold, learner in enumerate(self.learners):
            rows = np.flatnonzero(targets.folds == fold)
            scores[rows], _ = score(learner.network, learner.inputs, rows.tolist(), self._still_here, targets.read)
        return scores

    def _still_here(self, _samples: int) -> None:
        """Scoring is no counted work, but it must be possible to stop it."""
        self.ticker.tick(0)
