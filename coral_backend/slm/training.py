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
from coral_backend.types import UNLABELED, Floats, Ints, Progress
from strategies.distillation.fixmatch import fixmatch_loss
from strategies.distillation.gmm_split import SPLITTERS, Split

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
class Labels:
    """What is known about N samples.

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


@dataclass
class Trained(Generic[NetworkT]):
    """What came out of a training.

    Attributes
    ----------
    networks : list of Network
        One a fold.
    views : list of ndarray
        One an epoch, shape (N, K): log-probabilities, out of sample. Early epochs are less sure and know other things.
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
        """Shape (N, K): the mean of all epochs' log-probabilities."""
        return np.asarray(np.mean(self.views, axis=0))


class Learner(Generic[NetworkT]):
    """One network with its optimizer: epoch by epoch, step by step."""

    def __init__(self, network: NetworkT, plan: TrainingPlan, n_steps: int, inputs: Inputs) -> None:
        self.plan, self.inputs, self.n_steps = plan, inputs, max(n_steps, 1)
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

    def step(self, lb: Ints, y_lb: Ints, ulb: Ints, generator: torch.Generator) -> tuple[float, float]:
        """Learn from labelled rows `lb` and unlabelled rows `ulb`; return the loss and the share of the mask."""
        self.network.train()
        x_lb = self.inputs.batch(lb.tolist())
        with self.inputs.autocast():
            logits_x_lb, _ = self.network(*self.inputs.augmented(x_lb, self.plan.weak_cutoff, generator))
            logits_w, logits_s = self._unlabelled(ulb, logits_x_lb, generator)
        targets = torch.as_tensor(y_lb, dtype=torch.long, device=logits_x_lb.device)
        plan = self.plan
        loss = fixmatch_loss(logits_x_lb, targets, logits_w, logits_s, p_cutoff=plan.p_cutoff, lambda_u=plan.lambda_u)
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


def labelled_and_not(p_clean: Floats, given: Ints, threshold: float) -> tuple[Ints, Ints]:
    """Return rows with a clean label and all others. A class that would lose every label keeps its cleanest ones."""
    clean = np.nan_to_num(p_clean, nan=0.0) > threshold
    for k in np.unique(given[given != UNLABELED]):
        rows = np.flatnonzero(given == k)
        if not clean[rows].any():
            clean[rows[np.argsort(-p_clean[rows], kind="stable")[: max(1, len(rows) // 2)]]] = True
    return np.flatnonzero(clean), np.flatnonzero(~clean)


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
    inputs: Inputs, make: Callable[[], NetworkT], labels: Labels, plan: TrainingPlan, ticker: Ticker
) -> Trained[NetworkT]:
    """Train one network a fold and score every sample by the network of its fold.

    Parameters
    ----------
    inputs : Inputs
        N samples.
    make : callable
        Returns a new network; called once a fold, after torch was seeded for it.
    labels : Labels
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
    inputs: Inputs, make: Callable[[], NetworkT], labels: Labels, plan: TrainingPlan
) -> list[Learner[NetworkT]]:
    """Make one learner a fold; the steps of its whole schedule are known beforehand."""
    learners = []
    for fold in range(labels.n_folds):
        n_labelled = int(((labels.given != UNLABELED) & (labels.folds != fold)).sum())
        n_steps = (plan.warmup_epochs + plan.epochs) * plan.passes * math.ceil(n_labelled / plan.batch_size)
        torch.manual_seed(plan.seed + fold)
        learners.append(Learner(make(), plan, n_steps, inputs))
    return learners


class Epoch(Generic[NetworkT]):
    """Everything that happens in one epoch: divide, let every network learn, score every sample out of sample."""

    def __init__(self, learners: list[Learner[NetworkT]], labels: Labels, plan: TrainingPlan, ticker: Ticker) -> None:
        self.learners, self.labels, self.plan, self.ticker = learners, labels, plan, ticker
        self.rng, self.generator = np.random.default_rng(plan.seed), torch.Generator().manual_seed(plan.seed)

    def run(self, epoch: int, trained: Trained[NetworkT]) -> dict[str, Any]:
        """Go through epoch number `epoch` (from 0), add to ``trained.views``, return what is to be told."""
        given, warm = self.labels.given, epoch < self.plan.warmup_epochs
        p_clean, split = np.where(given == UNLABELED, np.nan, 1.0), None
        if not warm:
            p_clean, split = divide(given_losses(trained.log_probs, given), self.labels.trusted, self.plan)
        labelled, unlabelled = labelled_and_not(p_clean, given, self.plan.p_threshold)
        stage = WARM_UP if warm else TRAINING
        facts = self.learn(labelled, unlabelled[:0] if warm else unlabelled, epoch=epoch + 1, stage=stage)
        log_probs = self.score()
        before = trained.log_probs.argmax(axis=1) if trained.views else np.full(len(given), UNLABELED)
        trained.views.append(log_probs)
        record = {
            "epoch": epoch + 1,
            "stage": stage,
            **facts,
            "clean": len(labelled),
            "clean_share": len(labelled) / int((given != UNLABELED).sum()),
            "changed": float((trained.log_probs.argmax(axis=1) != before).mean()),
            "held_out_loss": float(given_losses(log_probs, given)[labelled].mean()),
        }
        return record | ({"gmm": split.to_json()} if split is not None else {})

    def learn(self, labelled: Ints, unlabelled: Ints, **detail: Any) -> dict[str, Any]:
        """Let every network learn from what lies outside its fold; return mean loss and share of sure pseudo-labels."""
        losses, masks = [], []
        for fold, learner in enumerate(self.learners):
            for _ in range(self.plan.passes):
                for x_lb, x_ulb in paired(self._batches(labelled, fold), self._batches(unlabelled, fold)):
                    loss, mask = learner.step(x_lb, self.labels.given[x_lb], x_ulb, self.generator)
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
        """Return log-probabilities (N, K), each sample scored by the network of its fold."""
        log_probs = np.zeros((len(self.labels.folds), self.labels.n_classes))
        for fold, learner in enumerate(self.learners):
            rows = np.flatnonzero(self.labels.folds == fold)
            log_probs[rows], _ = score(learner.network, learner.inputs, rows.tolist(), self._still_here)
        return log_probs

    def _still_here(self, _samples: int) -> None:
        """Scoring is no counted work, but it must be possible to stop it."""
        self.ticker.tick(0)
