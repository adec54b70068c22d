"""How are several out-of-sample views of a text made into one calibrated probability? A logarithmic pool, fitted on the given labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]

PRIOR_STRENGTH = 4.0
"""How many labelled samples the prior weights are worth, per unit of squared deviation."""

MAX_WEIGHT = 5.0
"""No view's log-odds are stretched more than this."""


@dataclass(frozen=True)
class Blend:
    """A fitted pool: ``softmax(sum_v weights[v] * log_probs[v] + bias)``.

    Attributes
    ----------
    weights : ndarray
        Shape (V,), one a view, >= 0. Their sum plays the part of an inverse temperature.
    bias : ndarray
        Shape (K,), nats.
    """

    weights: Floats
    bias: Floats

    def log_probs(self, views: Sequence[Floats]) -> Floats:
        """Return blended log-probabilities, shape (N, K), of views of that shape."""
        pooled = sum((w * view for w, view in zip(self.weights, views, strict=True)), start=np.zeros_like(views[0]))
        return np.asarray(log_softmax(pooled + self.bias, axis=1))


def fit_blend(views: Sequence[Floats], labels: Ints, sample_weights: Floats, prior_weights: Sequence[float]) -> Blend:
    """Fit the pool by maximum likelihood of the given labels, held near `prior_weights` where there are few.

    Parameters
    ----------
    views : sequence of ndarray
        V arrays of shape (N, K): log-probabilities, each out of sample, or the fit rewards the view that memorised most.
    labels : ndarray
        Shape (N,), >= 0.
    sample_weights : ndarray
        Shape (N,), > 0; a human label may count for more.
    prior_weights : sequence of float
        V weights to start from and to shrink to.

    Returns
    -------
    Blend
        ``weights`` >= 0; ``bias`` sums to 0.

    References
    ----------
    Wolpert: Stacked Generalization, 1992. Guo et al.: On Calibration of Modern Neural Networks, 2017 (one view: temperature).
    """
    n_views, n_classes = len(views), views[0].shape[1]
    prior = np.asarray(prior_weights, dtype=np.float64)
    stacked = np.stack(views).astype(np.float64)
    rows = np.arange(len(labels))

    def objective(theta: Floats) -> tuple[float, Floats]:
        weights, bias = theta[:n_views], theta[n_views:]
        log_p = log_softmax(np.tensordot(weights, stacked, axes=1) + bias, axis=1)
        residual = np.exp(log_p)
        residual[rows, labels] -= 1.0
        residual *= sample_weights[:, None]
        deviation = weights - prior
        loss = -(sample_weights * log_p[rows, labels]).sum()
        loss += PRIOR_STRENGTH * (deviation @ deviation) + 0.5 * PRIOR_STRENGTH * (bias @ bias)
        gradient = np.concatenate(
            [
                np.einsum("nk,vnk->v", residual, stacked) + 2 * PRIOR_STRENGTH * deviation,
                residual.sum(0) + PRIOR_STRENGTH * bias,
            ]
        )
        return float(loss), gradient

    bounds = [(0.0, MAX_WEIGHT)] * n_views + [(-5.0, 5.0)] * n_classes
    found = minimize(
        objective, np.concatenate([prior, np.zeros(n_classes)]), jac=True, method="L-BFGS-B", bounds=bounds
    )
    return Blend(found.x[:n_views], found.x[n_views:] - found.x[n_views:].mean())
