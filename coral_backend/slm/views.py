"""What do several views say about every sample? Each scores a sample without having seen its label.

Networks fine-tuned by the paper's loop (``training.py``), epoch by epoch; linear classifiers on frozen embeddings (``frozen.py``) and on words
(``lexical.py``); nearness to the labels' names (``label_names.py``); what was said of the nearest texts (``neighbours.py``). They err on
different samples, so that their blend doubts better than any of them. ``pool`` fits the blend and then takes back what the LLM says too often (``class_prior.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from coral_backend.slm.corpus import Corpus, SLMConfig
from coral_backend.slm.earlier import Earlier
from coral_backend.slm.encoder import Encoder, Halves
from coral_backend.slm.learnable import score
from coral_backend.slm.network import TextInputs, TextNetwork
from coral_backend.slm.training import Labels, Ticker, Trained, make_folds, train
from coral_backend.types import UNLABELED, Floats, Ints
from strategies.distillation.blend import Blend, fit_blend
from strategies.distillation.class_prior import prior_shift
from strategies.distillation.frozen import FrozenModel, frozen_view, silent_view
from strategies.distillation.label_names import LabelNameModel, label_name_view, silent_names
from strategies.distillation.lexical import LexicalModel, lexical_view
from strategies.distillation.neighbours import NeighbourModel, neighbour_view, silent_neighbours

NETWORKS_WEIGHT = 0.4
"""Weight of all network views together that a blend starts from."""

CHEAP_WEIGHT = 0.3
"""Weight of each other view that a blend starts from."""

CHEAP = ("frozen", "lexical", "names", "neighbours")
"""The other views, in the order of the blend."""


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


@dataclass(frozen=True)
class Learned:
    """What was learned from a corpus, before it is blended.

    Attributes
    ----------
    trained : Trained
        The networks and their views, one an epoch, each of shape (N, K).
    features, embeddings : ndarray
        Shape (N, D), float32: of the first network, and of the encoder as it came; the latter (N, 0) where no view reads them.
    cheap : mapping of str to ndarray
        The views ``frozen``, ``lexical``, ``names`` and ``neighbours``, each of shape (N, K): log-probabilities, out of sample.
    named : bool
        Whether the labels' names had a say.
    shifted : bool
        Whether what the LLM says too often is taken back.
    frozen, lexical, names, neighbours
        The same views for new texts.
    """

    encoder: Encoder
    halves: Halves
    trained: Trained[TextNetwork]
    features: Floats
    embeddings: Floats
    cheap: Mapping[str, Floats]
    named: bool
    frozen: FrozenModel
    lexical: LexicalModel
    names: LabelNameModel
    neighbours: NeighbourModel
    shifted: bool = True


class Networks(Protocol):
    """Networks of texts that were trained before; ``model.TextModel`` has them."""

    @property
    def encoder(self) -> Encoder:
        """That they stand on."""

    @property
    def halves(self) -> Halves:
        """The encoder's frozen and trained layers."""

    @property
    def networks(self) -> Sequence[TextNetwork]:
        """One a fold."""


def learn(corpus: Corpus, config: SLMConfig, encoder: Encoder, ticker: Ticker, watch: Stopwatch) -> Learned:
    """Train every view on a corpus that was checked, and score the corpus by it."""
    plan = config.plan(corpus.n_labelled, encoder.width)
    halves = encoder.halves(frozen_layers(encoder, config.frozen_share))
    inputs = TextInputs(encoder, halves, corpus.texts, counter(ticker, "embedding"))
    watch.lap("embedding")
    embeddings = _embeddings(corpus, config, encoder, ticker)
    views = _cheap(corpus, config, encoder, embeddings, ticker=ticker, watch=watch)
    folds = make_folds(corpus.given, plan.n_folds, np.random.default_rng(plan.seed))
    labels = Labels(corpus.given, corpus.trusted, folds, corpus.n_classes)
    trained = train(inputs, lambda: TextNetwork(halves, corpus.n_classes, plan.dropout), labels, plan, ticker)
    watch.lap(None)
    told = partial(ticker.tick, stage="scoring")
    _, features = score(trained.networks[0], inputs, range(len(inputs)), told)
    return Learned(encoder, halves, trained, features, embeddings, **views)


def relearn(
    corpus: Corpus, config: SLMConfig, networks: Networks, earlier: Earlier, *, ticker: Ticker, watch: Stopwatch
) -> Learned:
    """Fit to the labels as they stand what takes seconds; the networks stay as they were when `earlier` was trained."""
    embeddings = earlier.kept.embeddings
    views = _cheap(corpus, config, networks.encoder, embeddings, ticker=ticker, watch=watch)
    trained = Trained(list(networks.networks), [*earlier.kept.views])
    return Learned(networks.encoder, networks.halves, trained, earlier.features, embeddings, **views)


def frozen_layers(encoder: Encoder, share: float) -> int:
    """Return how many of the encoder's layers stay as they are."""
    return int(getattr(encoder.model.config, "num_hidden_layers", 1) * share)


def counter(ticker: Ticker, stage: str) -> Callable[[int, int], None]:
    """Return a ``(done, total)`` callback that tells `ticker` what is new."""
    seen = 0

    def count(done: int, _total: int) -> None:
        nonlocal seen
        ticker.tick(done - seen, stage=stage)
        seen = done

    return count


def _embeddings(corpus: Corpus, config: SLMConfig, encoder: Encoder, ticker: Ticker) -> Floats:
    """Return the encoder's embeddings of the corpus, (N, D); (N, 0) where no view may read them."""
    if config.frozen_view:
        return encoder.embed(corpus.texts, counter(ticker, "embedding"))
    ticker.tick(len(corpus.texts), stage="embedding")
    return np.zeros((len(corpus.texts), 0), dtype=np.float32)


def _cheap(
    corpus: Corpus, config: SLMConfig, encoder: Encoder, embeddings: Floats, *, ticker: Ticker, watch: Stopwatch
) -> dict[str, Any]:
    """Return the views that take seconds, as ``Learned`` has them."""
    views = _embedded(corpus, config, encoder, embeddings, ticker)
    watch.lap("frozen")
    views["lexical"] = _lexical(corpus, config.seed, ticker)
    watch.lap("lexical")
    return {
        "cheap": {name: views[name][0] for name in CHEAP},
        "named": config.frozen_view and bool(corpus.label_sentences),
        **{name: views[name][1] for name in CHEAP},
    }


def _embedded(
    corpus: Corpus, config: SLMConfig, encoder: Encoder, embeddings: Floats, ticker: Ticker
) -> dict[str, tuple[Floats, FrozenModel | LexicalModel | LabelNameModel | NeighbourModel]]:
    """Score the corpus by frozen embeddings: by what was learned, by the labels' names, by neighbours; a view that shall not vote says nothing."""
    size, rng = (len(corpus.texts), encoder.width, corpus.n_classes), np.random.default_rng([config.seed, 2])
    if not config.frozen_view:
        return {
            "frozen": silent_view(*size),
            "names": silent_names(*size),
            "neighbours": silent_neighbours(*size),
        }

    def looked_at(_done: int, _total: int) -> None:
        ticker.tick(0, stage="neighbours")  # no counted work, but it must be possible to stop it

    sentences = [encoder.embed(sentences) for sentences in corpus.label_sentences]
    return {
        "frozen": frozen_view(embeddings, corpus.given, corpus.n_classes),
        "names": label_name_view(embeddings, sentences) if sentences else silent_names(*size),
        "neighbours": neighbour_view(embeddings, corpus.given, corpus.n_classes, rng=rng, progress=looked_at),
    }


def _lexical(corpus: Corpus, seed: int, ticker: Ticker) -> tuple[Floats, LexicalModel]:
    """Score the corpus by its words, out of sample."""
    rng = np.random.default_rng([seed, 1])
    return lexical_view(corpus.texts, corpus.given, corpus.n_classes, rng=rng, progress=counter(ticker, "lexical"))


def pool(
    network_views: Sequence[Floats], cheap_views: Sequence[Floats], given: Ints, *, named: bool, shifted: bool = True
) -> tuple[Blend, Floats]:
    """Fit a blend on all given labels, take back what was given too often, and return it with what it says of the corpus.

    A human's label counts as one like any other, so that the average sample stays calibrated.

    Parameters
    ----------
    network_views, cheap_views : sequence of ndarray
        Each of shape (N, K): log-probabilities, out of sample.
    given : ndarray
        Shape (N,), ``UNLABELED`` where there is none.
    named : bool
        Whether the labels' names had a say, see ``prior_shift``.
    shifted : bool
        Whether to take back what was given too often.

    Returns
    -------
    blend : Blend
        For new texts.
    log_probs : ndarray
        Shape (N, K).
    """
    rows = given != UNLABELED
    views = [*network_views, *cheap_views]
    prior = [NETWORKS_WEIGHT / max(len(network_views), 1)] * len(network_views) + [CHEAP_WEIGHT] * len(cheap_views)
    blend = fit_blend([view[rows] for view in views], given[rows], np.ones(int(rows.sum())), prior)
    if shifted:
        blend = replace(blend, bias=blend.bias + prior_shift(blend.log_probs(views), given, named=named))
    return blend, blend.log_probs(views)
