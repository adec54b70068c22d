"""Which of the given labels are clean? Two Gaussians over the losses, as in DivideMix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.mixture import GaussianMixture

from strategies.registry import Registry

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

SAME = 0.01
"""Losses that differ by less than this, in nats, are one heap: there is nothing to divide."""

REGULARISATION = 5e-4
"""Added to both variances of the losses scaled to [0, 1], as in DivideMix's code, so that no heap shrinks to a point."""


@dataclass(frozen=True)
class Split:
    """What a splitter found.

    Attributes
    ----------
    p_clean : ndarray
        Shape (N,), in [0, 1]; 1 = surely clean, 0 = surely noisy.
    means, variances, weights : tuple of float
        The two components on the losses in nats (nats squared for variances), clean first; weights sum to 1. With one heap
        only, the second component has weight 0.
    """

    p_clean: Floats
    means: tuple[float, float]
    variances: tuple[float, float]
    weights: tuple[float, float]

    def posterior(self, losses: Floats) -> Floats:
        """Return the posterior of the clean component for other losses, in nats, under the same mixture; NaN stays NaN.

        Two Gaussians of different width cross twice, so that the posterior would turn round in the outer tails; losses
        beyond a mean are therefore read as that mean.
        """
        if self.weights[1] <= 0:
            return np.where(np.isnan(losses), np.nan, 1.0)
        within = np.clip(losses, *self.means)
        odds = _log_density(within, self, 1) - _log_density(within, self, 0)
        return np.asarray(expit(-odds))

    def to_json(self) -> dict[str, list[float]]:
        """Return the two components as JSON values, for a plot."""
        return {"means": list(self.means), "variances": list(self.variances), "weights": list(self.weights)}

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[float]], p_clean: Floats) -> Split:
        """Restore what ``to_json`` returned."""
        (m0, m1), (v0, v1), (w0, w1) = data["means"], data["variances"], data["weights"]
        return cls(p_clean, (m0, m1), (v0, v1), (w0, w1))


class Splitter(Protocol):
    """Divide a corpus by its losses."""

    def __call__(self, losses: Floats, *, seed: int) -> Split:
        """Return the split of `losses`, shape (N,), in nats."""
        ...


SPLITTERS: Registry[Splitter] = Registry("splitter")


@SPLITTERS.register("gmm")
def gmm_split(losses: Floats, *, seed: int) -> Split:
    """Return each label's posterior of belonging to the Gaussian with the smaller mean.

    Networks fit clean labels first, so after a short warm-up the losses fall into two heaps.

    Parameters
    ----------
    losses : ndarray
        Shape (N,), cross-entropy of the given label in nats, model in eval mode.
    seed : int
        Seeds the mixture's k-means start.

    Returns
    -------
    Split
        With ``p_clean`` of shape (N,), see ``Split.posterior``; all 1 when the losses are one heap.

    Raises
    ------
    ValueError
        If N < 2 or a loss is not finite.

    References
    ----------
    Li, Socher, Hoi: DivideMix, ICLR 2020, section 3.1.
    """
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 1 or losses.size < 2:
        raise ValueError(f"losses must have shape (N,) with N >= 2, got {losses.shape}.")
    if not np.isfinite(losses).all():
        raise ValueError(f"{int((~np.isfinite(losses)).sum())} of {losses.size} losses are not finite; leave them out.")
    low, span = float(losses.min()), float(np.ptp(losses))
    if span < SAME:
        return _one_heap(losses)
    scaled = ((losses - low) / span).reshape(-1, 1)
    mixture = GaussianMixture(n_components=2, max_iter=100, tol=1e-4, reg_covar=REGULARISATION, random_state=seed)
    mixture.fit(scaled)
    means = mixture.means_.ravel()
    clean, noisy = (0, 1) if means[0] <= means[1] else (1, 0)
    variances, weights = mixture.covariances_.ravel() * span**2, mixture.weights_
    split = Split(
        p_clean=np.ones(losses.size),
        means=(float(means[clean] * span + low), float(means[noisy] * span + low)),
        variances=(float(variances[clean]), float(variances[noisy])),
        weights=(float(weights[clean]), float(weights[noisy])),
    )
    return replace(split, p_clean=split.posterior(losses))


def _log_density(losses: Floats, split: Split, component: int) -> Floats:
    """Return the log of weight times density of one component, up to a constant that both share."""
    mean, variance, weight = split.means[component], split.variances[component], split.weights[component]
    return np.asarray(np.log(weight) - 0.5 * np.log(variance) - 0.5 * (losses - mean) ** 2 / variance)


def _one_heap(losses: Floats) -> Split:
    """All losses are the same: nothing speaks against any label."""
    mean = float(losses.mean())
    return Split(np.ones(losses.size), (mean, mean), (0.0, 0.0), (1.0, 0.0))
