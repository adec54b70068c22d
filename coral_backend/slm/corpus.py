"""What does the SLM learn from, and how? The corpus with its labels, and the settings of a distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coral_backend.exceptions import InputError
from coral_backend.settings import Settings
from coral_backend.slm.training import TrainingPlan
from coral_backend.types import UNLABELED, Ints

PASSES = 12_000
"""A corpus is learned in fewer epochs when one epoch alone has so many samples."""

WIDTH = 384
"""Width of the encoder whose learning rate ``SLMConfig.learning_rate`` is; wider encoders learn more slowly, in proportion."""


@dataclass(frozen=True)
class Corpus:
    """What the SLM learns from.

    Attributes
    ----------
    texts : sequence of str
        N texts; any string is allowed. Of the family ``tabular`` each is a row, a JSON object.
    llm_labels : ndarray
        Shape (N,), 0 ... K-1, ``UNLABELED`` where the LLM abstained or was not asked.
    human_labels : ndarray
        Shape (N,), ``UNLABELED`` where there is none; trusted.
    n_classes : int
        K >= 1.
    label_sentences : sequence of sequence of str
        K entries: what each label is about, in words (``label_names.label_sentences``); empty when names say nothing.
    family : str
        Which small model reads them, as task strategies name it.
    columns : mapping of str to str
        Of rows: the columns to read -> their kind (``columns.fit``); empty for all that occur.
    """

    texts: Sequence[str]
    llm_labels: Ints
    human_labels: Ints
    n_classes: int
    label_sentences: Sequence[Sequence[str]] = ()
    family: str = "text"
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> Ints:
        """The label to learn: the human's, else the LLM's, else ``UNLABELED``; shape (N,)."""
        return np.where(self.human_labels != UNLABELED, self.human_labels, self.llm_labels)

    @property
    def trusted(self) -> npt.NDArray[np.bool_]:
        """Where a person labelled; shape (N,)."""
        return np.asarray(self.human_labels != UNLABELED)

    @property
    def n_labelled(self) -> int:
        """How many samples have a label."""
        return int((self.given != UNLABELED).sum())

    def check(self) -> None:
        """Raise ``InputError`` unless the parts fit together."""
        if self.label_sentences and len(self.label_sentences) != self.n_classes:
            raise InputError(
                f"label_sentences has {len(self.label_sentences)} entries; there are {self.n_classes} classes."
            )
        for name, labels in (("llm_labels", self.llm_labels), ("human_labels", self.human_labels)):
            if labels.shape != (len(self.texts),):
                raise InputError(
                    f"{name} has shape {labels.shape}; there are {len(self.texts)} texts, so it must be ({len(self.texts)},)."
                )
            if not np.issubdtype(labels.dtype, np.integer):
                raise InputError(f"{name} has type {labels.dtype}; labels are integers, {UNLABELED} = none.")
            if labels.size and (labels.min() < UNLABELED or labels.max() >= self.n_classes):
                raise InputError(
                    f"{name} has values from {labels.min()} to {labels.max()}; allowed: {UNLABELED} to {self.n_classes - 1}."
                )


@dataclass(frozen=True)
class SLMConfig:
    """How the SLM learns. One default for all corpora; the benchmark tells what each choice is worth.

    Attributes
    ----------
    model : str
        ``"embedded"``, a folder, or a Hugging Face name.
    epochs, warmup_epochs : int
        Most epochs with split and FixMatch, after plain ones.
    p_threshold : float
        In (0, 1): ``p_clean`` above it counts as clean.
    max_length : int
        Tokens of a text that are read.
    n_folds : int
        Networks. More see more of the corpus and cost more: each epoch costs ``n_folds - 1`` passes over it.
    frozen_share : float
        In [0, 1): share of the encoder's layers that are not trained, so that their output is computed once.
    batch_size : int
        Largest; small corpora take smaller ones, so that there are steps enough.
    frozen_view : bool
        Whether frozen embeddings vote, by themselves and beside the labels' names. Not where the labels were read off the same
        embeddings: they would confirm every error of the annotator's (the shipped messages: 65.3 % of the SLM's labels
        right with, 70.3 % without).
    """

    model: str = "embedded"
    epochs: int = 3
    warmup_epochs: int = 1
    p_threshold: float = 0.5
    max_length: int = 128
    seed: int = 0
    n_folds: int = 3
    frozen_share: float = 0.34
    batch_size: int = 32
    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    weak_cutoff: float = 0.1
    strong_cutoff: float = 0.3
    p_cutoff: float = 0.9
    lambda_u: float = 0.5
    splitter: str = "gmm"
    frozen_view: bool = True

    @classmethod
    def from_settings(cls, settings: Settings) -> SLMConfig:
        """Take from the settings what can be set."""
        return cls(
            model=settings.slm_model,
            epochs=settings.epochs,
            warmup_epochs=settings.warmup_epochs,
            p_threshold=settings.p_threshold,
            max_length=settings.max_length,
            seed=settings.seed,
        )

    def plan(self, n_labelled: int, width: int) -> TrainingPlan:
        """Return what the training loop is told for `n_labelled` labels and an encoder of `width`."""
        return TrainingPlan(
            n_folds=max(2, min(self.n_folds, n_labelled)),
            warmup_epochs=self.warmup_epochs,
            epochs=max(1, min(self.epochs, round(PASSES / n_labelled))),
            p_threshold=self.p_threshold,
            p_cutoff=self.p_cutoff,
            lambda_u=self.lambda_u,
            batch_size=max(8, min(self.batch_size, n_labelled // 50)),
            learning_rate=self.learning_rate * min(1.0, WIDTH / width),
            head_learning_rate=self.head_learning_rate,
            weight_decay=self.weight_decay,
            dropout=self.dropout,
            weak_cutoff=self.weak_cutoff,
            strong_cutoff=self.strong_cutoff,
            splitter=self.splitter,
            seed=self.seed,
        )
