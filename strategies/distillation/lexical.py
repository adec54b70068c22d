"""What do the words alone say? Ridge regression on TF-IDF of words and characters, each text left out in turn.

It errs on other texts than a fine-tuned network does, so that blending both finds more wrong labels than either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.linalg import blas, lapack
from scipy.special import log_softmax
from sklearn.feature_extraction.text import HashingVectorizer

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

BUCKETS = 2**18
"""Hash buckets each for words and characters: no vocabulary has to be kept or saved."""

RIDGE = 2.0
"""Regularisation of the ridge regression; the kernel of a text with itself is 2."""

SCALE = 5.0
"""Scores lie in about [0, 1]; stretched by this they serve as logits. The blend finds the right temperature."""

BLOCK = 9000
"""Texts that are regressed together: n of them need 8 n^2 bytes. A larger corpus is cut into blocks at random."""

STRIP = 512
"""Rows of a kernel that are computed at once."""

COMMON = 0.9
"""Words and character runs in a larger share of the texts than this say little and cost most."""

WORD = r"(?u)\b\w+\b"
"""A word; one letter is enough."""

MAX_CHARS = 4000
"""Characters of a text that are read."""


@dataclass(frozen=True)
class LexicalModel:
    """A trained lexical view; arrays only, so that it can be saved as safetensors.

    Attributes
    ----------
    columns : ndarray
        Shape (F,), int64: the hash buckets that occur in the corpus.
    idf : ndarray
        Shape (F,), float32.
    weights : ndarray
        Shape (K, F), float32.
    bias : ndarray
        Shape (K,), float32: the shares of the classes, scaled.
    """

    columns: Ints
    idf: Floats
    weights: Floats
    bias: Floats

    def scores(self, texts: Sequence[str]) -> Floats:
        """Return what is said for each class, shape (N, K)."""
        counts = hashed(texts)[:, self.columns]
        features = normalised(counts, self.idf, self.columns)
        return np.asarray(features @ self.weights.T + self.bias)

    def log_probs(self, texts: Sequence[str]) -> Floats:
        """Return log-probabilities, shape (N, K)."""
        return np.asarray(log_softmax(self.scores(texts), axis=1))


def hashed(texts: Sequence[str]) -> sp.csr_matrix:
    """Return sublinear counts of word 1-2-grams and character 3-5-grams, shape (N, 2 * BUCKETS), not yet weighted."""
    short = [text[:MAX_CHARS].encode("utf-8", "replace").decode() for text in texts]
    common: dict[str, Any] = {"n_features": BUCKETS, "alternate_sign": False, "norm": None, "dtype": np.float32}
    words = HashingVectorizer(ngram_range=(1, 2), token_pattern=WORD, **common).transform(short)
    chars = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **common).transform(short)
    counts = sp.csr_matrix(sp.hstack([words, chars]))
    counts.data = 1.0 + np.log(counts.data)
    return counts


def normalised(counts: sp.csr_matrix, idf: Floats, columns: Ints) -> sp.csr_matrix:
    """Weight columns by `idf` and give the words of a row length 1, and its characters too."""
    weighted = sp.csr_matrix(counts.multiply(idf[None, :]), dtype=np.float32)
    first_character = int(np.searchsorted(columns, BUCKETS))
    parts = []
    for part in (weighted[:, :first_character], weighted[:, first_character:]):
        norms = np.sqrt(np.asarray(part.multiply(part).sum(axis=1)).ravel())
        parts.append(sp.diags_array((1.0 / np.maximum(norms, 1e-12)).astype(np.float32)) @ part)
    return sp.csr_matrix(sp.hstack(parts))


def lexical_view(
    texts: Sequence[str],
    given: Ints,
    n_classes: int,
    *,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Floats, LexicalModel]:
    """Score every text by a classifier that did not see its label, and give one that saw all for new texts.

    Parameters
    ----------
    texts : sequence of str
        N texts.
    given : ndarray
        Shape (N,), the label to learn, -1 where there is none.
    n_classes : int
        K.
    rng : numpy.random.Generator
        Deals a large corpus out into blocks.
    progress : callable, optional
        ``progress(done, total)`` after each block; may raise to stop.

    Returns
    -------
    log_probs : ndarray
        Shape (N, K), out of sample: each labelled text by leave-one-out.
    model : LexicalModel
        Fitted on all given labels.

    References
    ----------
    Rifkin, Lippert: Notes on Regularized Least Squares, 2007, section 3: leave-one-out without refitting.
    """
    labelled = np.flatnonzero(given >= 0)
    prior = (np.bincount(given[labelled], minlength=n_classes) + 0.5) / (len(labelled) + 0.5 * n_classes)
    targets = np.eye(n_classes, dtype=np.float32)[given[labelled]] - prior.astype(np.float32)
    scores, columns, idf, weights = word_regression(texts, labelled, targets, rng=rng, progress=progress)
    model = LexicalModel(columns, idf, SCALE * weights, (SCALE * prior).astype(np.float32))
    return np.asarray(log_softmax(SCALE * (scores + prior), axis=1)), model


def word_regression(
    texts: Sequence[str],
    rows: Ints,
    targets: Floats,
    *,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Floats, Ints, Floats, Floats]:
    """Fit targets of shape (n, K) of the n labelled `rows`, centred, by the texts' words and characters.

    Returns
    -------
    scores : ndarray
        Shape (N, K), out of sample: each labelled text by leave-one-out.
    columns, idf, weights : ndarray
        Of a ``LexicalModel``, weights of shape (K, F) not yet scaled.
    """
    columns, idf, features = weigh(hashed(texts))
    n_classes = targets.shape[1]
    n_blocks = max(1, math.ceil(len(rows) / BLOCK))
    scores = np.zeros((len(texts), n_classes))
    weights = np.zeros((n_classes, len(columns)), dtype=np.float32)
    for done, places in enumerate(np.array_split(rng.permutation(len(rows)), n_blocks)):
        block = rows[places]
        dual, scores[block] = leave_one_out(features[block], targets[places])
        weights += np.asarray(features[block].T @ dual).T / n_blocks
        if progress is not None:
            progress(done + 1, n_blocks)
    unlabelled = np.setdiff1d(np.arange(len(texts)), rows)
    scores[unlabelled] = features[unlabelled] @ weights.T
    return scores, columns, idf, weights


def weigh(counts: sp.csr_matrix) -> tuple[Ints, Floats, sp.csr_matrix]:
    """Return the columns worth keeping, their inverse document frequencies, and the features, rows of length sqrt(2)."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    kept = np.flatnonzero((frequency > 1) & (frequency <= max(2.0, COMMON * counts.shape[0]))).astype(np.int64)
    columns = kept if kept.size else np.zeros(1, dtype=np.int64)
    idf = (1.0 + np.log((1.0 + counts.shape[0]) / (1.0 + frequency[columns]))).astype(np.float32)
    return columns, idf, normalised(counts[:, columns], idf, columns)


def leave_one_out(features: sp.csr_matrix, targets: Floats) -> tuple[Floats, Floats]:
    """Solve a kernel ridge regression; return dual weights (n, K) and what is said of each row without its own target.

    With A the inverse of kernel + RIDGE, the dual weights are A y and the residual of row i left out is (A y)_i / A_ii.
    """
    kernel = np.empty((features.shape[0],) * 2, dtype=np.float32, order="F")
    for start in range(0, len(kernel), STRIP):  # all at once, the sparse product would need more memory than the kernel
        kernel[start : start + STRIP] = (features[start : start + STRIP] @ features.T).toarray()
    kernel[np.diag_indices_from(kernel)] += RIDGE
    inverse, _ = lapack.spotri(lapack.spotrf(kernel, overwrite_a=1)[0], overwrite_c=1)  # the upper triangle, in place
    dual = np.asarray(blas.ssymm(1.0, inverse, targets), dtype=np.float32)
    return dual, np.asarray(targets - dual / np.diag(inverse)[:, None])
