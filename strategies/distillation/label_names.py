"""What do the names of the labels say? Texts are compared with sentences about the labels; no label of the corpus is used.

A view that has seen no noisy label cannot repeat the LLM's systematic errors, and it knows labels that the LLM never gave. On topics
and intents its errors are other ones than the LLM's; where names say nothing ("class 3"), the blend gives it no weight.

A name is a poor example of the texts that it stands for. One step of self-training finds better ones: each label moves halfway to the mean
of the texts that lie nearest to its name. That takes ``toxicity_en`` from 0.65 to 0.84 right without any label, ``trec6`` from 0.44 to 0.52, and 13
files from 0.449 to 0.483; more steps take some files further and lead others astray (``sst2_llama3`` 0.71 after one, 0.55 after ten).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

TEMPERATURE = 0.06
"""Of the softmax over cosines, which lie close together. The blend finds the right one."""


@dataclass(frozen=True)
class LabelNameModel:
    """The label-name view; arrays only, so that it can be saved as safetensors.

    Attributes
    ----------
    vectors : ndarray
        Shape (K, D), float32: where each label lies among the embeddings; zeros for a view that says nothing.
    usual : ndarray
        Shape (K,), float32: mean cosine of the corpus with each label. Some names are near to every text.
    """

    vectors: Floats
    usual: Floats

    @classmethod
    def of(cls, vectors: Floats, embeddings: Floats) -> LabelNameModel:
        """Return the model of labels at `vectors`, shape (K, D), over a corpus of `embeddings`, shape (N, D)."""
        return cls(vectors, (embeddings @ vectors.T).mean(axis=0).astype(np.float32))

    def scores(self, embeddings: Floats) -> Floats:
        """Return how near texts are to each label, shape (N, K), of embeddings of shape (N, D), rows of length 1."""
        return np.asarray((embeddings @ self.vectors.T - self.usual) / TEMPERATURE)

    def log_probs(self, embeddings: Floats) -> Floats:
        """Return log-probabilities, shape (N, K), of embeddings of shape (N, D), rows of length 1."""
        return np.asarray(log_softmax(self.scores(embeddings), axis=1))


def label_sentences(label: str, definition: str = "") -> tuple[str, ...]:
    """Return what a label is compared by: its name, a sentence with the name, and its definition if there is one."""
    name = " ".join(label.replace("_", " ").split()) or label
    return (name, f"This text is about {name}.", *([definition] if definition.strip() else []))


def label_name_view(embeddings: Floats, label_vectors: Sequence[Floats]) -> tuple[Floats, LabelNameModel]:
    """Score every text by how near it is to each label.

    Parameters
    ----------
    embeddings : ndarray
        Shape (N, D), rows of length 1; N >= 1.
    label_vectors : sequence of ndarray
        K arrays of shape (S, D): the embedded sentences of each label.

    Returns
    -------
    log_probs : ndarray
        Shape (N, K).
    model : LabelNameModel
        For new texts.

    References
    ----------
    Yin, Hay, Roth: Benchmarking Zero-shot Text Classification, EMNLP 2019. Subtracting the mean is the usual remedy for hubs:
    Dinu, Lazaridou, Baroni: Improving Zero-Shot Learning by Mitigating the Hubness Problem, ICLR workshop 2015. Moving from names to texts:
    Wang, Mekala, Shang: X-Class: Text Classification with Extremely Weak Supervision, NAACL 2021.
    """
    vectors = np.stack([np.mean(rows, axis=0) for rows in label_vectors]).astype(np.float32)
    nearest = nearest_texts(embeddings, np.exp(LabelNameModel.of(vectors, embeddings).log_probs(embeddings)))
    model = LabelNameModel.of((vectors + nearest) / 2.0, embeddings)
    return model.log_probs(embeddings), model


def nearest_texts(embeddings: Floats, probs: Floats) -> Floats:
    """Return the mean direction of each label's texts from the middle of all, shape (K, D), float32, rows of length 1.

    Parameters
    ----------
    embeddings : ndarray
        Shape (N, D).
    probs : ndarray
        Shape (N, K): how surely a text is of a label. Sure texts count for more, and a label that is said of many texts for less.

    References
    ----------
    Xie, Girshick, Farhadi: Unsupervised Deep Embedding for Clustering Analysis, ICML 2016, equation 3.
    """
    weights = probs**2 / np.maximum(probs.sum(axis=0), 1e-9)
    weights /= weights.sum(axis=1, keepdims=True)
    middles = weights.T @ (embeddings - embeddings.mean(axis=0))
    return np.asarray(middles / np.maximum(np.linalg.norm(middles, axis=1, keepdims=True), 1e-9), dtype=np.float32)


def silent_names(n: int, width: int, n_classes: int) -> tuple[Floats, LabelNameModel]:
    """Return a view of n texts, and its model, that holds every class for equally likely: it moves no blend."""
    model = LabelNameModel(np.zeros((n_classes, width), dtype=np.float32), np.zeros(n_classes, dtype=np.float32))
    return np.full((n, n_classes), -np.log(n_classes)), model
