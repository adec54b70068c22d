"""What if there is no LLM? Sentence embeddings of the texts are compared with sentences about the labels.

Zero-shot by cosine. It is no LLM and its name says so; it makes the default without a key run, with honest noise for the small
model to find.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from coral_backend.labels import MULTIPLE, read_set, write_set
from coral_backend.llm.base import Embed, OnAnswer, Question, abstained
from coral_backend.llm.prompt import Prompt
from coral_backend.types import Answer, Floats, Sample

MODEL_NAME = "all-MiniLM-L6-v2"
BATCH = 64
TEMPERATURE = 0.06
"""Of the softmax over cosines, which lie close together; a rough confidence, not calibrated."""

NO_ROWS = (
    "The embedded annotator compares sentences and cannot label rows of a table. "
    "Set OPENAI_API_KEY for an LLM, take labels that are there (CORAL_ANNOTATOR=recorded), or label some rows by hand."
)
"""Why a row gets no label."""

NEARLY = 0.5
"""Where a text may have several labels, it has all with at least this share of the likeliest one's probability."""

DEMO_WEIGHT = 0.5
"""Weight of the demonstrations of a label against the sentences about it, when there are many."""


class EmbeddedAnnotator:
    """Label a text with the label whose sentences lie closest to it.

    Parameters
    ----------
    embed : callable
        Texts to unit vectors of shape (N, D). Its attribute ``name``, if any, is the name of the encoder.
    """

    is_llm = False

    def __init__(self, embed: Embed) -> None:
        self.name = f"embedded:{getattr(embed, 'name', MODEL_NAME)}"
        self._embed = embed

    def annotate(self, questions: Iterable[Question], on_answer: OnAnswer, check: Callable[[], None]) -> None:
        """Label in batches; see ``Annotator``. Neighbouring questions with one prompt share its label vectors."""
        for _, group in itertools.groupby(questions, key=lambda question: question.prompt.version):
            prototypes: Floats | None = None
            while chunk := list(itertools.islice(group, BATCH)):
                check()
                prompt = chunk[0].prompt
                if prompt.strategy.slm == "tabular":
                    for sample in (question.sample for question in chunk):
                        on_answer(
                            sample, abstained(sample, self.name) or Answer(None, reason=NO_ROWS, annotator=self.name)
                        )
                    continue
                if prototypes is None:
                    prototypes = label_vectors(prompt, self._embed)
                batch = [question.sample for question in chunk]
                for sample, answer in zip(batch, self._answers(batch, prompt, prototypes), strict=True):
                    on_answer(sample, answer)

    def _answers(self, batch: Sequence[Sample], prompt: Prompt, prototypes: Floats) -> list[Answer]:
        answers = [abstained(sample, self.name) for sample in batch]
        texts = [prompt.clean(sample.text) for sample, answer in zip(batch, answers, strict=True) if answer is None]
        probs = iter(probabilities(self._embed(texts), prototypes) if texts else ())
        answer_of = self._set if prompt.kind == MULTIPLE else self._answer
        return [answer or answer_of(next(probs), prompt.labels) for answer in answers]

    def _set(self, probs: Floats, labels: Sequence[str]) -> Answer:
        """Return every label that is nearly as near as the nearest; cosines do not say that none applies."""
        chosen = np.flatnonzero(probs >= NEARLY * probs.max()).tolist()
        said = write_set([labels[k] for k in chosen], labels)
        return Answer(said, raw=said, confidence=float(probs[chosen].sum()), annotator=self.name)

    def _answer(self, probs: Floats, labels: Sequence[str]) -> Answer:
        best = int(np.argmax(probs))
        return Answer(labels[best], raw=labels[best], confidence=float(probs[best]), annotator=self.name)


def label_vectors(prompt: Prompt, embed: Embed) -> Floats:
    """Return one unit vector for each label, shape (K, D): the mean of its sentences, moved towards its demonstrations."""
    sentences = [_sentences(prompt, label) for label in prompt.labels]
    vectors = iter(embed([sentence for of_label in sentences for sentence in of_label]))
    means = np.stack([np.mean([next(vectors) for _ in of_label], axis=0) for of_label in sentences])
    return _unit(_unit(means) + _demo_shift(prompt, embed, means.shape))


def probabilities(vectors: Floats, prototypes: Floats) -> Floats:
    """Return softmax(cosine / ``TEMPERATURE``), shape (N, K); rows sum to 1."""
    logits = _unit(vectors) @ prototypes.T / TEMPERATURE
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs: Floats = exp / exp.sum(axis=1, keepdims=True)
    return probs


def _sentences(prompt: Prompt, label: str) -> list[str]:
    """Return what a text with this label is like, in sentences."""
    strategy, definition = prompt.strategy, prompt.definitions.get(label, "")
    words = " ".join(label.replace("_", " ").split()) or label
    templates = [h for h in strategy.hypotheses if definition or "{definition" not in h]
    filled = [template.format(label=words, definition=definition) for template in templates]
    return [*filled, *strategy.anchors.get(strategy.canonical(label), ())] or [words]


def _demo_shift(prompt: Prompt, embed: Embed, shape: tuple[int, ...]) -> Floats:
    """Return how far each label's vector moves, shape (K, D).

    Against the mean of all demonstrations: texts resemble each other more than they resemble sentences about labels, so that
    otherwise every text would go to the labels that happen to have a demonstration.
    """
    shift = np.zeros(shape)
    if not prompt.demos:
        return shift
    vectors = np.asarray(embed([demo.text for demo in prompt.demos]))
    owners = [read_set(demo.label) or () if prompt.kind == MULTIPLE else (demo.label,) for demo in prompt.demos]
    for k, label in enumerate(prompt.labels):
        own = vectors[[label in labels for labels in owners]]
        if len(own):
            shift[k] = DEMO_WEIGHT * len(own) / (len(own) + 4) * (own.mean(axis=0) - vectors.mean(axis=0))
    return shift


def _unit(vectors: Floats) -> Floats:
    """Return the rows divided by their lengths; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit
