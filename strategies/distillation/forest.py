"""What do many trees say about a row? Extremely randomised trees, each row judged by those that did not learn from it.

They know what a sum over columns cannot: that one column means something else depending on another. Each tree sees a random part of the
rows and splits at random, so that a wrong label is outvoted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

TREES = 150
"""So many that nearly every row is left out by some fifty of them."""

LEAF, MOST_LEAF = 5, 20
"""Fewest rows of a leaf, in a small corpus and at most; between them a hundredth of the corpus."""

PRIOR_WEIGHT = 1.0
"""How many trees the shares of the classes count for: no class is impossible."""


@dataclass(frozen=True)
class ForestModel:
    """A trained forest; arrays only, so that it can be saved as safetensors. The nodes of all trees lie behind each other.

    Attributes
    ----------
    roots : ndarray
        Shape (T,), int64: the first node of each tree.
    children : ndarray
        Shape (M, 2), int32: where a row goes whose feature is at most the threshold, and where else; a leaf is its own child.
    features : ndarray
        Shape (M,), int32.
    thresholds : ndarray
        Shape (M,), float64, as they were compared.
    values : ndarray
        Shape (M, K), float32: shares of the classes at a node.
    prior : ndarray
        Shape (K,), float32: shares of the classes in the corpus, > 0.
    """

    roots: Ints
    children: Ints
    features: Ints
    thresholds: Floats
    values: Floats
    prior: Floats

    def log_probs(self, rows: Floats) -> Floats:
        """Return log-probabilities, shape (N, K), of rows of shape (N, D)."""
        said = np.zeros((len(rows), self.values.shape[1]))
        each = np.arange(len(rows))
        for root in self.roots.tolist():
            node = np.full(len(rows), root)
            while True:
                right = rows[each, self.features[node]] > self.thresholds[node]
                following = self.children[node, right.astype(np.intp)]
                if np.array_equal(following, node):
                    break
                node = following
            said += self.values[node]
        return _smoothed(said, np.full(len(rows), len(self.roots)), self.prior)


def forest_view(rows: Floats, given: Ints, n_classes: int, *, seed: int) -> tuple[Floats, ForestModel]:
    """Score every row by the trees that did not learn from it, and give the forest for new rows.

    Parameters
    ----------
    rows : ndarray
        Shape (N, D), finite.
    given : ndarray
        Shape (N,), the label to learn, -1 where there is none; at least one is given.
    n_classes : int
        K.

    Returns
    -------
    log_probs : ndarray
        Shape (N, K), out of sample: out of bag where there is a label.
    model : ForestModel

    References
    ----------
    Geurts, Ernst, Wehenkel: Extremely randomized trees, Machine Learning 63, 2006. Breiman: Out-of-bag estimation, 1996.
    """
    labelled = np.flatnonzero(given >= 0)
    prior = (np.bincount(given[labelled], minlength=n_classes) + 0.5) / (len(labelled) + 0.5 * n_classes)
    leaf = max(1, min(MOST_LEAF, max(LEAF, len(labelled) // 100), len(labelled) // 4))
    forest = ExtraTreesClassifier(TREES, min_samples_leaf=leaf, bootstrap=True, random_state=seed)
    data = np.ascontiguousarray(rows, dtype=np.float32)
    forest.fit(data[labelled], given[labelled])
    model = _kept(forest, prior.astype(np.float32))
    log_probs = model.log_probs(data)
    log_probs[labelled] = _out_of_bag(forest, model, data[labelled])
    return log_probs, model


def _out_of_bag(forest: ExtraTreesClassifier, model: ForestModel, rows: Floats) -> Floats:
    """Return what the trees say of the rows that they did not learn from."""
    said, asked = np.zeros((len(rows), model.values.shape[1])), np.zeros(len(rows))
    for tree, root, drawn in zip(forest.estimators_, model.roots.tolist(), forest.estimators_samples_, strict=True):
        out = np.ones(len(rows), dtype=bool)
        out[drawn] = False
        if out.any():
            said[out] += model.values[root + tree.apply(rows[out])]
            asked[out] += 1
    return _smoothed(said, asked, model.prior)


def _kept(forest: ExtraTreesClassifier, prior: Floats) -> ForestModel:
    """Copy the trees out of scikit-learn's objects, which could only be kept as a pickle."""
    trees = [estimator.tree_ for estimator in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]
    children, values = [], []
    for tree, root in zip(trees, roots.tolist(), strict=True):
        both = np.stack([tree.children_left, tree.children_right], axis=1)
        own = np.arange(tree.node_count)[:, None]
        children.append(np.where(both < 0, own, both) + root)
        counts = np.zeros((tree.node_count, len(prior)))
        counts[:, forest.classes_] = tree.value[:, 0, :]
        values.append(counts / counts.sum(axis=1, keepdims=True))
    return ForestModel(
        roots.astype(np.int64),
        np.concatenate(children).astype(np.int32),
        np.concatenate([np.maximum(tree.feature, 0) for tree in trees]).astype(np.int32),
        np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
        np.concatenate(values).astype(np.float32),
        prior,
    )


def _smoothed(said: Floats, asked: Floats, prior: Floats) -> Floats:
    return np.asarray(np.log((said + PRIOR_WEIGHT * prior) / (asked + PRIOR_WEIGHT)[:, None]))
