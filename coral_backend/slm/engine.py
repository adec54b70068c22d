"""What does the SLM say about every sample, and how sure is it? ``distil`` learns from noisy labels, ``Model`` serves what was learned.

Views of each text are blended: networks fine-tuned by the paper's loop (``training.py``), epoch by epoch, and linear classifiers on its
frozen embedding (``frozen.py``) and on its words (``lexical.py``). All score a sample without having seen its label, so that their doubt about a label means something.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from coral_backend.exceptions import InputError, ModelFileError, TrainingError
from coral_backend.settings import Settings
from coral_backend.slm.encoder import Encoder, Halves
from coral_backend.slm.model_files import read_model, write_model
from coral_backend.slm.network import Inputs, TextNetwork, score
from coral_backend.slm.training import Labels, Ticker, TrainingPlan, divide, given_losses, make_folds, train
from coral_backend.types import UNLABELED, Floats, Ints, Progress
from strategies.distillation.blend import Blend, fit_blend
from strategies.distillation.frozen import FrozenModel, frozen_view, silent_view
from strategies.distillation.gmm_split import Split
from strategies.distillation.lexical import LexicalModel, lexical_view

logger = logging.getLogger(__name__)

HELPFUL = 0.05
"""An SLM must predict the given labels better than the most frequent label by this, or a note says that it could not help."""

PRIOR_WEIGHTS = (0.4, 0.3, 0.3)
"""Weights of networks, frozen and lexical view that a blend starts from."""

WIDTH = 384
"""Width of the encoder whose learning rate ``SLMConfig.learning_rate`` is; wider encoders learn more slowly, in proportion."""


@dataclass(frozen=True)
class Corpus:
    """What the SLM learns from.

    Attributes
    ----------
    texts : sequence of str
        N texts; any string is allowed.
    llm_labels : ndarray
        Shape (N,), 0 ... K-1, ``UNLABELED`` where the LLM abstained or was not asked.
    human_labels : ndarray
        Shape (N,), ``UNLABELED`` where there is none; trusted.
    n_classes : int
        K >= 1.
    """

    texts: Sequence[str]
    llm_labels: Ints
    human_labels: Ints
    n_classes: int

    @property
    def given(self) -> Ints:
        """The label to learn: the human's, else the LLM's, else ``UNLABELED``; shape (N,)."""
        return np.where(self.human_labels != UNLABELED, self.human_labels, self.llm_labels)

    @property
    def trusted(self) -> npt.NDArray[np.bool_]:
        """Where a person labelled; shape (N,)."""
        return np.asarray(self.human_labels != UNLABELED)

    def check(self) -> None:
        """Raise ``InputError`` unless the parts fit together."""
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
        Whether frozen embeddings vote. Not where the labels were read off the same embeddings: they would confirm
        every error of the annotator's (the shipped messages: 65.3 % of the SLM's labels right with, 70.3 % without).
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
            epochs=self.epochs,
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
        Of ``embedding``, ``frozen``, ``lexical``, ``warm-up``, ``training``, ``scoring``.
    notes : list of str
        What a person should know, in sentences.
    """

    probs: Floats
    losses: Floats
    p_clean: Floats
    features: Floats
    history: list[dict[str, Any]]
    gmm: dict[str, Any]
    seconds: dict[str, float]
    notes: list[str]


class Stopwatch:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str | None) -> None:
        """End a stage; None drops the time, because somebody else counts it."""
        now = time.perf_counter()
        if stage is not None:
            self.seconds[stage] = round(now - self._last, 3)
        self._last = now


def distil(corpus: Corpus, config: SLMConfig, *, progress: Progress, save_to: Path) -> Distilled:
    """Learn from the corpus, score every sample out of sample, and write the model for new texts.

    Parameters
    ----------
    corpus : Corpus
        N texts and their labels.
    config : SLMConfig
        The same seed gives the same result on the same CPU.
    progress : callable
        ``progress(done, total, detail)`` in units of texts passed; called about twice a second; may raise to stop, then
        nothing is written.
    save_to : Path
        Folder of the model; replaced only when the new one is complete.

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
    given, n_labelled = corpus.given, int((corpus.given != UNLABELED).sum())
    if n_labelled < 2:
        raise TrainingError(
            f"{n_labelled} of {len(corpus.texts)} samples have a label; the SLM needs at least 2. "
            "Label some by hand, or let the annotator answer more of them."
        )
    watch = Stopwatch()
    encoder = Encoder.load(config.model, config.max_length)
    halves = encoder.halves(frozen_layers(encoder, config.frozen_share))
    plan = config.plan(n_labelled, encoder.width)
    ticker = Ticker(progress, _work(len(given), n_labelled, plan))
    inputs = Inputs(encoder, halves, corpus.texts, _counter(ticker, "embedding"))
    watch.lap("embedding")
    frozen_log_probs, frozen = _frozen(corpus, config, encoder, ticker)
    watch.lap("frozen")
    lexical_log_probs, lexical = _lexical(corpus, config.seed, ticker)
    watch.lap("lexical")
    folds = make_folds(given, plan.n_folds, np.random.default_rng(plan.seed))
    labels = Labels(given, corpus.trusted, folds, corpus.n_classes)
    trained = train(inputs, halves, labels, plan, ticker)
    watch.lap(None)
    cheap = [frozen_log_probs, lexical_log_probs]
    log_probs = _blend(trained.views, cheap, given).log_probs([*trained.views, *cheap])
    # New texts are read by the networks as they are at the end.
    blend = _blend(trained.views[-1:], cheap, given)
    p_clean, split = _p_clean(corpus, log_probs, plan)
    _, features = score(trained.networks[0], inputs, range(len(inputs)), lambda n: ticker.tick(n, stage="scoring"))
    model = Model(
        encoder,
        halves,
        trained.networks,
        frozen=frozen,
        lexical=lexical,
        blend=blend,
        split=split,
        n_classes=corpus.n_classes,
        config=config,
    )
    model.save(save_to)
    watch.lap("scoring")
    return Distilled(
        probs=_probabilities(log_probs),
        losses=given_losses(log_probs, given),
        p_clean=p_clean,
        features=features,
        history=trained.history,
        gmm=split.to_json() if split is not None else {},
        seconds={k: round(v, 3) for k, v in {**watch.seconds, **trained.seconds}.items()},
        notes=_notes(corpus, log_probs),
    )


def frozen_layers(encoder: Encoder, share: float) -> int:
    """Return how many of the encoder's layers stay as they are."""
    return int(getattr(encoder.model.config, "num_hidden_layers", 1) * share)


def _work(n: int, n_labelled: int, plan: TrainingPlan) -> int:
    """Return about how many texts will be passed: read, learned in each epoch by all networks but one, and scored."""
    return 3 * n + (plan.warmup_epochs + plan.epochs) * (plan.n_folds - 1) * n_labelled


def _counter(ticker: Ticker, stage: str) -> Callable[[int, int], None]:
    """Return a ``(done, total)`` callback that tells `ticker` what is new."""
    seen = 0

    def count(done: int, _total: int) -> None:
        nonlocal seen
        ticker.tick(done - seen, stage=stage)
        seen = done

    return count


def _frozen(corpus: Corpus, config: SLMConfig, encoder: Encoder, ticker: Ticker) -> tuple[Floats, FrozenModel]:
    """Score the corpus by frozen embeddings, out of sample; a view that shall not vote says nothing about any text."""
    if not config.frozen_view:
        ticker.tick(len(corpus.texts), stage="embedding")
        return silent_view(len(corpus.texts), encoder.width, corpus.n_classes)
    embeddings = encoder.embed(corpus.texts, _counter(ticker, "embedding"))
    return frozen_view(embeddings, corpus.given, corpus.n_classes)


def _lexical(corpus: Corpus, seed: int, ticker: Ticker) -> tuple[Floats, LexicalModel]:
    """Score the corpus by its words, out of sample."""
    rng = np.random.default_rng([seed, 1])
    return lexical_view(corpus.texts, corpus.given, corpus.n_classes, rng=rng, progress=_counter(ticker, "lexical"))


def _blend(network_views: Sequence[Floats], cheap_views: Sequence[Floats], given: Ints) -> Blend:
    """Fit a blend on all given labels; a human's counts as one like any other, so that the average sample stays calibrated."""
    rows = given != UNLABELED
    views = [view[rows] for view in (*network_views, *cheap_views)]
    prior = [PRIOR_WEIGHTS[0] / len(network_views)] * len(network_views) + list(PRIOR_WEIGHTS[1:])
    return fit_blend(views, given[rows], np.ones(int(rows.sum())), prior)


def _p_clean(corpus: Corpus, log_probs: Floats, plan: TrainingPlan) -> tuple[Floats, Split | None]:
    """Return the posterior that the LLM's label is clean, where a person spoke too: by the loss, not by what the person said."""
    losses = given_losses(log_probs, corpus.llm_labels)
    return divide(losses, np.zeros(len(losses), dtype=bool), plan)


def _probabilities(log_probs: Floats) -> Floats:
    probs = np.exp(log_probs)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


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
    agree = float((log_probs.argmax(axis=1) == given)[given != UNLABELED].mean())
    usual = float(counts.max() / counts.sum())
    if (counts > 0).sum() > 1 and agree < usual + HELPFUL:
        notes.append(
            f"The SLM could not help: it predicts {agree:.1%} of the given labels, naming the most frequent one always would "
            f"predict {usual:.1%}. The order of review says little. Another CORAL_SLM_MODEL may know more."
        )
    if (given == UNLABELED).any():
        notes.append(
            f"{int((given == UNLABELED).sum())} of {len(given)} samples have no label; they were learned from as texts only."
        )
    return notes


class Model:
    """A trained SLM for texts it has not seen. Its probabilities on its own training rows are no score of anything.

    ``probs`` are those of the blend: the networks' mean log-probabilities, the frozen and the lexical view.
    """

    def __init__(
        self,
        encoder: Encoder,
        halves: Halves,
        networks: list[TextNetwork],
        *,
        frozen: FrozenModel,
        lexical: LexicalModel,
        blend: Blend,
        split: Split | None,
        n_classes: int,
        config: SLMConfig,
    ) -> None:
        self.encoder, self.halves, self.networks = encoder, halves, networks
        self.frozen, self.lexical, self.blend, self.split = frozen, lexical, blend, split
        self.n_classes, self.config = n_classes, config

    def predict(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Return probabilities (N, K), rows sum to 1, and features (N, D), float32."""
        if not len(texts):
            return np.zeros((0, self.n_classes)), np.zeros((0, self.encoder.width), dtype=np.float32)
        inputs, rows = Inputs(self.encoder, self.halves, texts), range(len(texts))
        scored = [score(network, inputs, rows) for network in self.networks]
        mean = np.mean([log_probs for log_probs, _ in scored], axis=0)
        frozen = self.frozen.log_probs(self.encoder.embed(texts))
        return _probabilities(self.blend.log_probs([mean, frozen, self.lexical.log_probs(texts)])), scored[0][1]

    def p_clean(self, losses: Floats) -> Floats:
        """Return the posterior that labels with these losses are clean, under the mixture of the training.

        Parameters
        ----------
        losses : ndarray
            Shape (N,), nats, cross-entropy of the LLM's labels of texts that were not trained on; NaN where there is none.

        Returns
        -------
        ndarray
            Shape (N,), in [0, 1], 1 = surely clean; NaN where the loss is.
        """
        if self.split is None:
            return np.where(np.isnan(losses), np.nan, 1.0)
        return self.split.posterior(losses)

    def save(self, folder: Path) -> None:
        """Write the model; `folder` is replaced only when everything is written."""
        config = self.config
        facts = {
            "encoder": config.model,
            "encoder_sha256": fingerprint(self.encoder),
            "max_length": config.max_length,
            "frozen_share": config.frozen_share,
            "n_classes": self.n_classes,
            "n_networks": len(self.networks),
            "seed": config.seed,
            "gmm": self.split.to_json() if self.split is not None else {},
        }
        networks = {
            f"{i}.{name}": tensor.detach().cpu().numpy().astype(np.float16)
            for i, network in enumerate(self.networks)
            for name, tensor in network.state_dict().items()
        }
        frozen = {"weights": self.frozen.weights, "bias": self.frozen.bias}
        lexical = {name: getattr(self.lexical, name) for name in ("columns", "idf", "weights", "bias")}
        blend = {"weights": self.blend.weights, "bias": self.blend.bias}
        write_model(folder, facts, {"networks": networks, "frozen": frozen, "lexical": lexical, "blend": blend})

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Read a model.

        Raises
        ------
        ModelFileError
            If a file is missing, truncated, altered or foreign, or the encoder is not the one it was trained on.
        """
        facts, tensors = read_model(Path(folder))
        try:
            return cls._restore(facts, tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{folder} is no model of ours ({type(error).__name__}: {error}). Train again."
            ) from error

    @classmethod
    def _restore(cls, facts: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> Model:
        config = SLMConfig(
            model=str(facts["encoder"]), max_length=int(facts["max_length"]), frozen_share=float(facts["frozen_share"])
        )
        encoder = Encoder.load(config.model, config.max_length)
        if fingerprint(encoder) != facts["encoder_sha256"]:
            raise ModelFileError(
                f"The encoder {config.model!r} is not the one that this model was trained on. Train again."
            )
        halves = encoder.halves(frozen_layers(encoder, config.frozen_share))
        networks = [_network(halves, tensors["networks"], i, facts, encoder) for i in range(int(facts["n_networks"]))]
        lexical, blend = LexicalModel(**tensors["lexical"]), Blend(**tensors["blend"])
        return cls(
            encoder,
            halves,
            networks,
            frozen=FrozenModel(**tensors["frozen"]),
            lexical=lexical,
            blend=blend,
            split=Split.from_json(facts["gmm"], np.zeros(0)) if facts["gmm"] else None,
            n_classes=int(facts["n_classes"]),
            config=replace(config, seed=int(facts["seed"])),
        )


def _network(halves: Halves, arrays: dict[str, Any], i: int, facts: dict[str, Any], encoder: Encoder) -> TextNetwork:
    """Restore the i-th network."""
    network = TextNetwork(halves, int(facts["n_classes"]), 0.0)
    prefix = f"{i}."
    state = {
        name[len(prefix) :]: torch.from_numpy(a.astype(np.float32))
        for name, a in arrays.items()
        if name.startswith(prefix)
    }
    network.load_state_dict(state)
    return network.to(encoder.device).eval().requires_grad_(False)


def fingerprint(encoder: Encoder) -> str:
    """Return the SHA-256 of the encoder's weights: a model made for other weights must not be read with these."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()
