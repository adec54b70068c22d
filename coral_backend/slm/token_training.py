"""How do the networks learn spans from noisy spans? As in ``training.py``, with spans in place of samples.

Every fold of the texts has a network that never sees its labels, which scores them out of sample after each epoch. The losses of the
given spans are divided by the mixture; tokens of spans that it calls noisy, and tokens that nobody marked but the network of
their fold does, are no examples any more: FixMatch learns from them where it is sure of something.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coral_backend.slm.encoder import Halves
from coral_backend.slm.token_network import TokenInputs, TokenNetwork, score
from coral_backend.slm.training import RAMP, TRAINING, WARM_UP, Ticker, TrainingPlan, batches, divide
from coral_backend.types import Floats, Ints
from strategies.distillation.bio import Range, decode, log_prob, mean_loss, spread, targets
from strategies.distillation.fixmatch import token_cutoff
from strategies.distillation.gmm_split import Split
from strategies.distillation.posterior import NOISE_RANGE

logger = logging.getLogger(__name__)

MOST_NOISY = NOISE_RANGE[1]
"""No more than this share of the given spans is set aside, as the posterior assumes no more of them to be wrong."""

CONTRADICTED = math.log(0.5)
"""A span that nobody marked and to which the network of its fold gives more than this makes its tokens no examples."""


@dataclass(frozen=True)
class TokenLabels:
    """What is known about P pieces.

    Attributes
    ----------
    ranges : sequence of list of Range
        The spans of each piece that are to be learned: a person's, else the LLM's.
    known : ndarray
        Shape (P,), bool: somebody said which spans there are, be it none.
    trusted : ndarray
        Shape (P,), bool: it was a person.
    folds : ndarray
        Shape (P,): pieces of one text are in one fold.
    n_classes : int
        Of a token.
    """

    ranges: Sequence[list[Range]]
    known: npt.NDArray[np.bool_]
    trusted: npt.NDArray[np.bool_]
    folds: Ints
    n_classes: int

    def flat(self) -> list[tuple[int, Range]]:
        """Return every given span with its piece."""
        return [(piece, one) for piece, ranges in enumerate(self.ranges) for one in ranges]


@dataclass
class TokensTrained:
    """What came out; ``views`` are of each epoch since the warm-up: log-probabilities (T, C) of each piece, out of sample."""

    networks: list[TokenNetwork]
    views: list[list[Floats]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def log_probs(self) -> list[Floats]:
        """The mean of the views, for each piece."""
        return [np.asarray(np.mean(of_piece, axis=0)) for of_piece in zip(*self.views, strict=True)]


class TokenLearner:
    """One network with its optimizer."""

    def __init__(self, halves: Halves, n_classes: int, plan: TrainingPlan, n_steps: int, inputs: TokenInputs) -> None:
        self.plan, self.inputs, self.n_steps = plan, inputs, max(n_steps, 1)
        self.network = TokenNetwork(halves, n_classes, plan.dropout).to(inputs.texts.device)
        groups = [
            {"params": list(self.network.upper.parameters()), "lr": plan.learning_rate},
            {"params": list(self.network.head.parameters()), "lr": plan.head_learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)

    def _rate(self, step: int) -> float:
        rise = max(1.0, RAMP * self.n_steps)
        return min((step + 1) / rise, max(0.02, (self.n_steps - step) / max(1.0, self.n_steps - rise)))

    def step(self, rows: Ints, wanted: Sequence[Ints], counted: Sequence[npt.NDArray[np.bool_]], generator: torch.Generator, *, consistent: bool) -> float:  # fmt: skip
        """Learn from the counted tokens of these pieces, and from the others where the network is sure; return the loss."""
        self.network.train()
        hidden, mask, shapes = self.inputs.batch(rows.tolist())
        labels, counts = _padded(wanted, mask), _padded(counted, mask).bool()
        with self.inputs.texts.autocast():
            logits, _ = self.network(hidden, token_cutoff(mask, self.plan.weak_cutoff, generator), shapes)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        loss = (losses * counts).sum() / counts.sum().clamp(min=1)
        others = mask & ~counts
        if consistent and bool(others.any()):
            loss = loss + self.plan.lambda_u * self._consistency(
                (hidden, mask, shapes), logits.detach(), others, generator
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def _consistency(
        self, batch: tuple[Tensor, Tensor, Tensor], weak: Tensor, others: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return FixMatch's loss of tokens that nobody vouches for: of those that the weak view is sure of."""
        hidden, mask, shapes = batch
        sure, pseudo_labels = weak.softmax(2).max(2)
        taken = others & (sure >= self.plan.p_cutoff)
        with self.inputs.texts.autocast():
            logits, _ = self.network(hidden, token_cutoff(mask, self.plan.strong_cutoff, generator), shapes)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), pseudo_labels.flatten(), reduction="none")
        return (losses.view_as(sure) * taken).sum() / others.sum().clamp(min=1)


def train_tokens(
    inputs: TokenInputs, halves: Halves, labels: TokenLabels, plan: TrainingPlan, ticker: Ticker
) -> TokensTrained:
    """Train one network a fold and score every piece by the network of its fold.

    References
    ----------
    CORAL, PVLDB 2024, section 3. Li et al.: DivideMix, 2020. Sohn et al.: FixMatch, 2020. Devlin et al.: BERT, 2019 (a class a token).
    """
    learners = []
    for fold in range(int(labels.folds.max()) + 1):
        n_known = int((labels.known & (labels.folds != fold)).sum())
        n_steps = (plan.warmup_epochs + plan.epochs) * plan.passes * math.ceil(n_known / plan.batch_size)
        torch.manual_seed(plan.seed + fold)
        learners.append(TokenLearner(halves, labels.n_classes, plan, n_steps, inputs))
    trained = TokensTrained([learner.network for learner in learners])
    epoch_of = TokenEpoch(learners, labels, plan, ticker)
    for epoch in range(plan.warmup_epochs + plan.epochs):
        began = time.perf_counter()
        record = epoch_of.run(epoch, trained)
        record["seconds"] = round(time.perf_counter() - began, 2)
        trained.history.append(record)
        stage = record["stage"]
        trained.seconds[stage] = trained.seconds.get(stage, 0.0) + record["seconds"]
        logger.info(
            "epoch %d (%s): loss %.3f, %d clean spans", *(record[k] for k in ("epoch", "stage", "loss", "clean"))
        )
    return trained


class TokenEpoch:
    """Everything that happens in one epoch: divide, let every network learn, score every piece out of sample."""

    def __init__(self, learners: list[TokenLearner], labels: TokenLabels, plan: TrainingPlan, ticker: Ticker) -> None:
        self.learners, self.labels, self.plan, self.ticker = learners, labels, plan, ticker
        self.rng, self.generator = np.random.default_rng(plan.seed), torch.Generator().manual_seed(plan.seed)
        pieces = learners[0].inputs.pieces
        self.real = [piece.real for piece in pieces]
        self.inner = [piece.inner for piece in pieces]
        self.wanted = [targets(len(r), ranges) for r, ranges in zip(self.real, labels.ranges, strict=True)]

    def run(self, epoch: int, trained: TokensTrained) -> dict[str, Any]:
        """Go through epoch number `epoch` (from 0), add to ``trained.views``, return what is to be told."""
        warm = epoch < self.plan.warmup_epochs
        counted = [real & known for real, known in zip(self.real, self.labels.known, strict=True)]
        clean, split = len(self.labels.flat()), None
        if not warm:
            clean, split = self._set_aside(counted, trained.log_probs)
        stage = WARM_UP if warm else TRAINING
        loss = self._learn(counted, epoch=epoch + 1, stage=stage)
        if epoch + 1 >= self.plan.warmup_epochs:
            trained.views.append(self._score())
        n_given = max(len(self.labels.flat()), 1)
        record = {"epoch": epoch + 1, "stage": stage, "loss": loss, "clean": clean, "clean_share": clean / n_given}
        return record | ({"gmm": split.to_json()} if split is not None else {})

    def _set_aside(self, counted: list[npt.NDArray[np.bool_]], log_probs: list[Floats]) -> tuple[int, Split | None]:
        """Take out of `counted`, in place, what is no example; return how many given spans are, and the split."""
        flat = self.labels.flat()
        losses = np.array([mean_loss(log_probs[piece], one) for piece, one in flat])
        p_clean, split = divide(
            losses, np.array([self.labels.trusted[piece] for piece, _ in flat], dtype=bool), self.plan
        )
        noisy = _most(np.nan_to_num(p_clean, nan=1.0) <= self.plan.p_threshold, losses)
        for (piece, one), doubted in zip(flat, noisy, strict=True):
            if doubted:
                counted[piece] &= ~spread([one], len(counted[piece]))
        for piece in np.flatnonzero(self.labels.known & ~self.labels.trusted).tolist():
            given = spread(self.labels.ranges[piece], len(counted[piece]))
            found = [
                one
                for one in decode(log_probs[piece], self.inner[piece])
                if not given[one.first : one.last + 1].any() and log_prob(log_probs[piece], one) > CONTRADICTED
            ]
            counted[piece] &= ~spread(found, len(counted[piece]))
        return int((~noisy).sum()), split

    def _learn(self, counted: list[npt.NDArray[np.bool_]], **detail: Any) -> float:
        losses = []
        consistent = detail["stage"] == TRAINING
        for fold, learner in enumerate(self.learners):
            rows = np.flatnonzero((self.labels.folds != fold) & (self.labels.known | consistent))
            for _ in range(self.plan.passes):
                for batch in batches(rows, learner.inputs.lengths, self.plan.batch_size, self.rng):
                    own = [self.wanted[i] for i in batch], [counted[i] for i in batch]
                    losses.append(learner.step(batch, *own, self.generator, consistent=consistent))
                    self.ticker.tick(len(batch), loss=round(losses[-1], 4), **detail)
        return float(np.mean(losses)) if losses else 0.0

    def _score(self) -> list[Floats]:
        found: list[Floats] = [np.zeros((0, 0))] * len(self.real)
        for fold, learner in enumerate(self.learners):
            rows = np.flatnonzero(self.labels.folds == fold).tolist()
            scored, _ = score(learner.network, learner.inputs, rows, lambda _: self.ticker.tick(0))
            for row, log_probs in zip(rows, scored, strict=True):
                found[row] = log_probs.astype(np.float32)  # one a token, class and epoch are kept
        return found


def _most(noisy: npt.NDArray[np.bool_], losses: Floats) -> npt.NDArray[np.bool_]:
    """Return which spans are noisy, of more than ``MOST_NOISY`` those with the largest losses.

    Networks that have learned too little yet see no spans at all: without the spans set aside they would never learn to.
    """
    most = int(MOST_NOISY * len(noisy))
    if int(noisy.sum()) <= most:
        return noisy
    chosen = np.zeros(len(noisy), dtype=bool)
    chosen[np.argsort(-np.where(noisy, losses, -np.inf), kind="stable")[:most]] = True
    return chosen


def _padded(rows: Sequence[npt.NDArray[Any]], mask: Tensor) -> Tensor:
    """Return one value a token as (B, T), 0 where there is none."""
    padded = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.as_tensor(row.astype(np.int64))
    return padded
