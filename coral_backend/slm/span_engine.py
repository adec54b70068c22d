"""What does the SLM say about every span of every text, and about spans that may be missing? ``distil_spans`` learns, ``SpanModel`` serves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from coral_backend.exceptions import ModelFileError, TrainingError
from coral_backend.labels import Span
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.encoder import Encoder, Halves
from coral_backend.slm.model import encoder_of, fingerprint
from coral_backend.slm.model_files import read_model, write_model
from coral_backend.slm.token_network import TokenInputs, TokenNetwork, score
from coral_backend.slm.token_training import TokenLabels, train_tokens
from coral_backend.slm.tokens import Piece, cut
from coral_backend.slm.training import Ticker, TrainingPlan, divide, make_folds
from coral_backend.slm.views import Stopwatch, frozen_layers
from coral_backend.types import Floats, Ints, Progress
from strategies.distillation.bio import Range, decode, likely, log_prob, mean_loss, n_classes
from strategies.distillation.gmm_split import Split

__all__ = ["Seen", "SpanCorpus", "SpanModel", "SpansDistilled", "distil_spans"]

FEWEST_STEPS = 40
"""So many steps an epoch has at least: small corpora are passed several times."""

FROZEN_SHARE = 0.67
"""Share of the encoder's layers that are not trained: every token is learned from, so that a step says more and costs more than
with a label a text."""

FEWEST_TEXTS = 2
"""With spans or without; from fewer nothing can be learned out of sample."""


@dataclass(frozen=True)
class SpanCorpus:
    """What the SLM learns from.

    Attributes
    ----------
    texts : sequence of str
        N texts.
    llm, human : sequence
        N tuples of spans; None where nothing was said.
    labels : tuple of str
        The label of a type.
    """

    texts: Sequence[str]
    llm: Sequence[tuple[Span, ...] | None]
    human: Sequence[tuple[Span, ...] | None]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """A span that the SLM has an opinion on.

    Attributes
    ----------
    row : int
        Of its text.
    p : float
        Probability that exactly this span is there, in [0, 1], out of sample.
    loss : float
        In nats a token.
    decoded : bool
        Whether it is on the SLM's most probable path: what the SLM itself would say.
    """

    row: int
    span: Span
    p: float
    loss: float
    decoded: bool


@dataclass(frozen=True)
class SpansDistilled:
    """What the SLM knows: `seen` spans, `features` (N, D), the mixture of the LLM's spans, and facts for the round."""

    seen: list[Seen]
    features: Floats
    split: Split | None
    history: list[dict[str, Any]]
    seconds: dict[str, float]
    notes: list[str]


def distil_spans(corpus: SpanCorpus, config: SLMConfig, *, progress: Progress, save_to: Path) -> SpansDistilled:
    """Learn from the corpus, score every span out of sample, and write the model for new texts.

    Raises
    ------
    TrainingError
        If fewer than two texts were answered.
    ModelFileError
        If the encoder cannot be loaded, or cannot say where its tokens stand.
    """
    given = [person if person is not None else said for person, said in zip(corpus.human, corpus.llm, strict=True)]
    n_known = sum(spans is not None for spans in given)
    if n_known < FEWEST_TEXTS:
        raise TrainingError(
            f"{n_known} of {len(given)} texts were answered; the SLM needs at least {FEWEST_TEXTS}. "
            "Label some by hand, or let the annotator answer more of them."
        )
    watch = Stopwatch()
    config = replace(config, frozen_share=FROZEN_SHARE)
    encoder = Encoder.load(config.model, config.max_length)
    pieces = cut(encoder, corpus.texts)
    plan = _plan(config, n_known, encoder.width)
    ticker = Ticker(progress, _work(len(pieces), n_known, plan))
    halves = encoder.halves(frozen_layers(encoder, config.frozen_share))
    inputs = TokenInputs(encoder, halves, pieces, lambda *_: ticker.tick(0, stage="embedding"))
    watch.lap("embedding")
    labels = _token_labels(pieces, given, corpus, plan)
    trained = train_tokens(inputs, halves, labels, plan, ticker)
    watch.lap(None)
    log_probs = trained.log_probs
    llm = [spans or () for spans in corpus.llm]
    seen = _seen(pieces, log_probs, corpus.texts, corpus.labels, [*llm])
    losses = np.array([one.loss for one in seen if one.span in llm[one.row]])
    _, split = divide(losses, np.zeros(len(losses), dtype=bool), plan)
    _, features = score(trained.networks[0], inputs, range(len(pieces)), lambda n: ticker.tick(n, stage="scoring"))
    SpanModel(encoder, halves, trained.networks, split, labels=corpus.labels, config=config).save(save_to)
    watch.lap("scoring")
    return SpansDistilled(
        seen=seen,
        features=_by_text(features, pieces, len(corpus.texts)),
        split=split,
        history=trained.history,
        seconds={k: round(v, 3) for k, v in {**watch.seconds, **trained.seconds}.items()},
        notes=_notes(corpus, seen),
    )


class SpanModel:
    """A trained SLM for texts it has not seen."""

    def __init__(
        self,
        encoder: Encoder,
        halves: Halves,
        networks: list[TokenNetwork],
        split: Split | None,
        *,
        labels: tuple[str, ...],
        config: SLMConfig,
    ) -> None:
        self.encoder, self.halves, self.networks = encoder, halves, networks
        self.split, self.labels, self.config = split, labels, config

    def predict(self, texts: Sequence[str], also: Sequence[Sequence[Span]]) -> tuple[list[Seen], Floats]:
        """Return what is seen in texts that were not trained on, spans in `also` (of each text) among it, and features (N, D)."""
        pieces = cut(self.encoder, texts)
        if not pieces:
            return [], np.zeros((len(texts), self.encoder.width), dtype=np.float32)
        inputs, rows = TokenInputs(self.encoder, self.halves, pieces), range(len(pieces))
        scored = [score(network, inputs, rows) for network in self.networks]
        log_probs = [np.asarray(np.mean(of_piece, axis=0)) for of_piece in zip(*(p for p, _ in scored), strict=True)]
        return _seen(pieces, log_probs, texts, self.labels, also), _by_text(scored[0][1], pieces, len(texts))

    def features(self, texts: Sequence[str]) -> Floats:
        """Return features (N, D), float32, in the space of the training's."""
        return self.predict(texts, [()] * len(texts))[1]

    def save(self, folder: Path) -> None:
        """Write the model; `folder` is replaced only when everything is written."""
        config = self.config
        facts = {
            "kind": "spans",
            "encoder": config.model,
            "encoder_sha256": fingerprint(self.encoder),
            "max_length": config.max_length,
            "frozen_share": config.frozen_share,
            "labels": list(self.labels),
            "n_networks": len(self.networks),
            "gmm": self.split.to_json() if self.split is not None else {},
        }
        tensors = {
            f"{i}.{name}": tensor.detach().cpu().numpy().astype(np.float16)
            for i, network in enumerate(self.networks)
            for name, tensor in network.state_dict().items()
        }
        write_model(folder, facts, {"networks": tensors})

    @classmethod
    def load(cls, folder: Path) -> SpanModel:
        """Read a model.

        Raises
        ------
        ModelFileError
            If a file is missing, truncated, altered or foreign, or the encoder is not the one it was trained on.
        """
        facts, tensors = read_model(Path(folder))
        try:
            config, encoder = encoder_of(facts)
            halves, labels = encoder.halves(frozen_layers(encoder, config.frozen_share)), tuple(facts["labels"])
            networks = [
                _network(halves, tensors["networks"], i, len(labels), encoder) for i in range(int(facts["n_networks"]))
            ]
            split = Split.from_json(facts["gmm"], np.zeros(0)) if facts["gmm"] else None
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{folder} is no model of ours ({type(error).__name__}: {error}). Train again."
            ) from error
        return cls(encoder, halves, networks, split, labels=labels, config=config)


def _network(halves: Halves, arrays: dict[str, Any], i: int, n_types: int, encoder: Encoder) -> TokenNetwork:
    network, prefix = TokenNetwork(halves, n_classes(n_types), 0.0), f"{i}."
    own = {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
    network.load_state_dict({name: torch.from_numpy(a.astype(np.float32)) for name, a in own.items()})
    return network.to(encoder.device).eval().requires_grad_(False)


def _plan(config: SLMConfig, n_known: int, width: int) -> TrainingPlan:
    plan = config.plan(n_known, width)
    steps = math.ceil(n_known * (plan.n_folds - 1) / plan.n_folds / plan.batch_size)
    # One epoch more before the first split: most tokens are outside of any span, and that is all that networks learn at first.
    return replace(plan, passes=max(1, math.ceil(FEWEST_STEPS / steps)), warmup_epochs=plan.warmup_epochs + 1)


def _work(n_pieces: int, n_known: int, plan: TrainingPlan) -> int:
    """Return about how many pieces will be passed."""
    return n_pieces + (plan.warmup_epochs + plan.epochs) * plan.passes * (plan.n_folds - 1) * n_known


def _token_labels(
    pieces: Sequence[Piece], given: Sequence[tuple[Span, ...] | None], corpus: SpanCorpus, plan: TrainingPlan
) -> TokenLabels:
    known = np.array([spans is not None for spans in given], dtype=bool)
    trusted = np.array([spans is not None for spans in corpus.human], dtype=bool)
    # Answered texts are spread evenly over the folds, those with spans and those without.
    kinds: Ints = np.array([-1 if spans is None else int(bool(spans)) for spans in given], dtype=np.int64)
    folds = make_folds(kinds, plan.n_folds, np.random.default_rng(plan.seed))
    rows = np.array([piece.sample for piece in pieces], dtype=np.int64)
    ranges = [_ranges(piece, given[piece.sample] or (), corpus.labels) for piece in pieces]
    return TokenLabels(ranges, known[rows], trusted[rows], folds[rows], n_classes(len(corpus.labels)))


def _ranges(piece: Piece, spans: Sequence[Span], labels: Sequence[str]) -> list[Range]:
    found = (piece.range_of(span, labels.index(span.label)) for span in spans if span.label in labels)
    return [one for one in found if one is not None]


def _seen(
    pieces: Sequence[Piece],
    log_probs: Sequence[Floats],
    texts: Sequence[str],
    labels: tuple[str, ...],
    said: Sequence[Sequence[Span]],
) -> list[Seen]:
    """Return what the SLM says about spans that were said, that it sees itself, and that may be there."""
    found = []
    for piece, of_piece in zip(pieces, log_probs, strict=True):
        text, own = texts[piece.sample], set(decode(of_piece, piece.inner))
        spans = {one: piece.span_of(one, labels[one.kind], text) for one in own}
        spans |= {one: piece.span_of(one, labels[one.kind], text) for one in likely(of_piece, piece.inner, piece.real)}
        exact: dict[Span, Range] = {}
        for span in said[piece.sample]:
            if span.label in labels and (one := piece.range_of(span, labels.index(span.label))) is not None:
                exact[span] = one
        exact |= {span: one for one, span in spans.items() if one not in exact.values()}
        found += [
            Seen(
                piece.sample,
                span,
                math.exp(log_prob(of_piece, one)),
                mean_loss(of_piece, one),
                one in own,
            )
            for span, one in sorted(exact.items())
            if span.start < span.end
        ]
    return found


def _by_text(features: Floats, pieces: Sequence[Piece], n: int) -> Floats:
    """Return the mean over the pieces of each text, shape (n, D)."""
    rows = np.array([piece.sample for piece in pieces], dtype=np.int64)
    sums: npt.NDArray[np.float32] = np.zeros((n, features.shape[1]), dtype=np.float32)
    np.add.at(sums, rows, features)
    return np.asarray(sums / np.maximum(np.bincount(rows, minlength=n), 1)[:, None], dtype=np.float32)


def _notes(corpus: SpanCorpus, seen: Sequence[Seen]) -> list[str]:
    notes = []
    said = sum(len(spans or ()) for spans in corpus.llm)
    judged = sum(one.span in (corpus.llm[one.row] or ()) for one in seen)
    if judged < said:
        notes.append(
            f"{said - judged} of {said} spans of the LLM could not be judged: they go over where a long text is cut."
        )
    if said and not any(one.decoded for one in seen):
        notes.append(
            "The SLM sees no span at all: it has learned too little to help. Another CORAL_SLM_MODEL may know more."
        )
    unanswered = sum(spans is None and person is None for spans, person in zip(corpus.llm, corpus.human, strict=True))
    if unanswered:
        notes.append(f"{unanswered} of {len(corpus.texts)} texts have no answer; they were learned from as texts only.")
    return notes
