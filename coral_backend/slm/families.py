"""Which families of small models are there, and what must one be able to do?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from coral_backend.exceptions import ModelFileError
from coral_backend.slm.corpus import Corpus, SLMConfig
from coral_backend.slm.earlier import Earlier
from coral_backend.slm.encoder import Encoder
from coral_backend.slm.model import Model, TextModel
from coral_backend.slm.tabular import TabularSLM
from coral_backend.slm.training import Ticker, Trained, TrainingPlan
from coral_backend.slm.views import Learned, Stopwatch, learn, relearn
from coral_backend.slm.vocabulary import doubt
from coral_backend.types import Floats
from strategies.distillation.blend import Blend
from strategies.distillation.gmm_split import Split


class LearnedViews(Protocol):
    """What a family has learned from a corpus, before it is blended."""

    @property
    def trained(self) -> Trained[Any]:
        """The networks and their views, one an epoch, each of shape (N, K)."""

    @property
    def features(self) -> Floats:
        """Shape (N, D), float32: of the first network, so that all lie in one space."""

    @property
    def embeddings(self) -> Floats:
        """Shape (N, D), float32: what the features-only tier would have to read again; (N, 0) where there is nothing."""

    @property
    def cheap(self) -> Mapping[str, Floats]:
        """The other views, each of shape (N, K): log-probabilities, out of sample."""

    @property
    def named(self) -> bool:
        """Whether the labels' names had a say."""

    @property
    def shifted(self) -> bool:
        """Whether the blend takes back what the LLM says too often."""


class SLM(Protocol):
    """The seam: one corpus and how one family learns from it. The blend, the split and the scores are the same for all."""

    @property
    def plan(self) -> TrainingPlan:
        """What the training loop is told."""

    @property
    def notes(self) -> list[str]:
        """What a person should know of the corpus, in sentences."""

    def learn(self, ticker: Ticker, watch: Stopwatch) -> Any:
        """Train every view and score the corpus by it: ``LearnedViews``, of this family's own type."""

    def relearn(self, earlier: Earlier, ticker: Ticker, watch: Stopwatch) -> Any:
        """Fit to the labels as they stand what takes seconds, and return the same as ``learn``; see ``earlier.py``."""

    def of_the_truth(self, log_probs: Floats) -> Floats:
        """Return the log-probabilities (N, K) of the true labels of the corpus, from those of what is said of it."""

    def model(self, learned: Any, blend: Blend, split: Split | None) -> Model:
        """Return the model for new samples, of what ``learn`` returned; called last."""


class TextSLM:
    """Learns from texts; see ``views.py``."""

    def __init__(self, corpus: Corpus, config: SLMConfig) -> None:
        self.corpus, self.config = corpus, config
        self.encoder = Encoder.load(config.model, config.max_length)
        unread = doubt(self.encoder.readable_share(corpus.texts))
        self.notes: list[str] = [unread] if unread else []
        self.plan = config.plan(corpus.n_labelled, self.encoder.width)

    def learn(self, ticker: Ticker, watch: Stopwatch) -> Learned:
        """Train every view, and score the corpus by it."""
        return learn(self.corpus, self.config, self.encoder, ticker, watch)

    def relearn(self, earlier: Earlier, ticker: Ticker, watch: Stopwatch) -> Learned:
        """Fit the views of embeddings and words anew; raises ``ModelFileError`` if the earlier model cannot be read."""
        model = Model.load(earlier.model)
        if not isinstance(model, TextModel):
            raise ModelFileError(f"{earlier.model} is a model of {model.family}, not of texts. Train again.")
        return relearn(self.corpus, self.config, model, earlier, ticker=ticker, watch=watch)

    def of_the_truth(self, log_probs: Floats) -> Floats:
        """Return them as they are: what LLMs get wrong in texts is mostly difficult, and the posterior allows for it."""
        return log_probs

    def model(self, learned: Learned, blend: Blend, split: Split | None) -> TextModel:
        """Return the model for new texts."""
        return TextModel(
            self.encoder,
            learned.halves,
            learned.trained.networks,
            frozen=learned.frozen,
            lexical=learned.lexical,
            names=learned.names,
            neighbours=learned.neighbours,
            blend=blend,
            split=split,
            n_classes=self.corpus.n_classes,
            config=self.config,
        )


FAMILIES: Mapping[str, Callable[[Corpus, SLMConfig], SLM]] = {"text": TextSLM, "tabular": TabularSLM}
"""By the name that task strategies use."""
