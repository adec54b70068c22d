"""What does the SLM learn from rows of a table? The same loop on a small network, and beside it an additive view and a forest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from coral_backend.slm.columns import Columns, fit, read_rows
from coral_backend.slm.corpus import Corpus, SLMConfig
from coral_backend.slm.earlier import Earlier
from coral_backend.slm.learnable import score
from coral_backend.slm.tabular_model import RowInputs, RowNetwork, TabularModel
from coral_backend.slm.training import Labels, Ticker, Trained, TrainingPlan, make_folds, train
from coral_backend.slm.views import Stopwatch
from coral_backend.types import Floats
from strategies.distillation.blend import Blend
from strategies.distillation.forest import ForestModel, forest_view
from strategies.distillation.frozen import FrozenModel, frozen_view
from strategies.distillation.gmm_split import Split
from strategies.distillation.noise_floor import noise_floor, of_the_truth

FOLDS = 5
"""Networks; they are cheap."""

STEPS, MOST_PASSES = 6_000, 4
"""An epoch goes through about so many rows, and at most so often through each."""

BATCH, MOST_BATCH = 32, 256
"""Rows in a batch; large corpora take larger ones."""

LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 1e-3, 1e-2, 0.3
"""Of networks that begin from nothing."""

WEAK, STRONG = 0.1, 0.3
"""Shares of the columns that the two augmentations take from other rows."""


@dataclass(frozen=True)
class LearnedRows:
    """What was learned from rows, before it is blended; see ``views.Learned``."""

    trained: Trained[RowNetwork]
    features: Floats
    embeddings: Floats
    cheap: Mapping[str, Floats]
    scale: float
    additive: FrozenModel
    forest: ForestModel
    named: bool = False
    shifted: bool = False
    """The classes of tables are often very unequal, and moving them towards equal shares makes most labels of the frequent ones
    suspect: with a tenth of ``wine_quality_red`` wrong, AUROC for wrong labels fell from 0.915 to 0.746."""


class TabularSLM:
    """Learns from rows; see ``families.SLM``."""

    def __init__(self, corpus: Corpus, config: SLMConfig) -> None:
        self.corpus, self.config = corpus, config
        self.rows = read_rows(corpus.texts)
        self.columns: Columns = fit(self.rows, corpus.columns)
        self.plan = plan_for(config, corpus.n_labelled)
        self.notes = list(self.columns.notes)
        self.floor = 0.0

    def learn(self, ticker: Ticker, watch: Stopwatch) -> LearnedRows:
        """Train every view, and score the corpus by it."""
        corpus, plan = self.corpus, self.plan
        x = self.columns.encode(self.rows)
        inputs = RowInputs(x, self.columns.owners)
        ticker.tick(len(x), stage="columns")
        watch.lap("columns")
        scale = float(np.sqrt(x.var(axis=0, dtype=np.float64).sum())) or 1.0
        additive_log_probs, additive = frozen_view(x / scale, corpus.given, corpus.n_classes)
        watch.lap("additive")
        forest_log_probs, forest = forest_view(x, corpus.given, corpus.n_classes, seed=plan.seed)
        ticker.tick(len(x), stage="forest")
        watch.lap("forest")
        folds = make_folds(corpus.given, plan.n_folds, np.random.default_rng(plan.seed))
        labels = Labels(corpus.given, corpus.trusted, folds, corpus.n_classes)
        width = self.columns.width
        with one_thread():
            trained = train(inputs, lambda: RowNetwork(width, corpus.n_classes, plan.dropout), labels, plan, ticker)
        watch.lap(None)
        cheap = {"additive": additive_log_probs, "forest": forest_log_probs}
        _, features = score(trained.networks[0], inputs, range(len(x)), partial(ticker.tick, stage="scoring"))
        return LearnedRows(trained, features, x[:, :0], cheap, scale, additive, forest)

    def relearn(self, earlier: Earlier, ticker: Ticker, watch: Stopwatch) -> LearnedRows:  # noqa: ARG002
        """Learn everything anew: of rows that takes seconds."""
        return self.learn(ticker, watch)

    def of_the_truth(self, log_probs: Floats) -> Floats:
        """Take out the share of wrong labels among easy rows."""
        self.floor = noise_floor(log_probs, self.corpus.given)
        return of_the_truth(log_probs, self.floor)

    def model(self, learned: LearnedRows, blend: Blend, split: Split | None) -> TabularModel:
        """Return the model for new rows."""
        return TabularModel(
            self.columns,
            learned.trained.networks,
            scale=learned.scale,
            additive=learned.additive,
            forest=learned.forest,
            floor=self.floor,
            blend=blend,
            split=split,
            n_classes=self.corpus.n_classes,
            config=self.config,
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Train in one thread: two wait for one another longer than such small networks compute (8 s of CPU time against 12)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def plan_for(config: SLMConfig, n_labelled: int) -> TrainingPlan:
    """Return what the training loop is told for `n_labelled` labelled rows."""
    return replace(
        config.plan(n_labelled, 1),
        n_folds=max(2, min(FOLDS, n_labelled)),
        epochs=config.epochs,
        passes=max(1, min(MOST_PASSES, STEPS // n_labelled)),
        batch_size=max(8, min(MOST_BATCH, max(BATCH, n_labelled // 100), n_labelled // 8)),
        learning_rate=LEARNING_RATE,
        head_learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        dropout=DROPOUT,
        weak_cutoff=WEAK,
        strong_cutoff=STRONG,
    )
