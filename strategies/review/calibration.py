"""How often is an annotator right when it says it is so sure? Platt scaling on the answers that people checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Bools: TypeAlias = npt.NDArray[np.bool_]

FEWEST_CHECKED = 30
"""With fewer answers that have a confidence and were checked, a confidence is left as it is."""

FEWEST_OF_A_KIND = 5
"""So many of them must have been right, and so many wrong."""

EDGE = 1e-3
"""A confidence is taken for at least this far from 0 and 1: its log-odds must be finite."""

RIDGE = 1.0
"""Pull of the slope towards 1 (leave the confidence as it is), in units of one answer's information."""


@dataclass(frozen=True)
class Calibration:
    """log-odds of being right = `slope` * log-odds of the confidence + `intercept`."""

    slope: float
    intercept: float

    def __call__(self, confidence: Floats) -> Floats:
        """Return calibrated confidences, in [0, 1]; NaN where there was none."""
        return _sigmoid(self.slope * _log_odds(confidence) + self.intercept)


def platt(confidence: Floats, right: Bools) -> Calibration | None:
    """Fit the calibration.

    People check the most doubtful tasks first, so that the answers at hand are worse than the rest; what is learned is more
    cautious than the truth, never less.

    Parameters
    ----------
    confidence : ndarray
        Shape (N,), of the answers that people checked, in [0, 1]; NaN where unknown.
    right : ndarray
        Shape (N,), bool: the person gave the same label.

    Returns
    -------
    Calibration or None
        None with fewer than ``FEWEST_CHECKED`` answers or ``FEWEST_OF_A_KIND`` of a kind. The slope is never negative: a
        confidence that misleads becomes the share that was right.

    References
    ----------
    Platt: Probabilistic Outputs for Support Vector Machines, 1999, with its smoothed targets.
    """
    known = np.isfinite(confidence)
    hits = int(right[known].sum())
    misses = int(known.sum()) - hits
    if hits + misses < FEWEST_CHECKED or min(hits, misses) < FEWEST_OF_A_KIND:
        return None
    x = _log_odds(confidence[known])
    target = np.where(right[known], (hits + 1) / (hits + 2), 1 / (misses + 2))
    slope, intercept = _regression(x, target)
    if slope < 0:
        return Calibration(0.0, float(np.log(hits / misses)))
    return Calibration(slope, intercept)


def _regression(x: Floats, target: Floats) -> tuple[float, float]:
    """Return slope and intercept of the ridge logistic regression of `target` on `x`, both of shape (N,)."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    start = np.array([1.0, 0.0])
    pull = np.array([RIDGE, 0.0])

    def loss(weights: Floats) -> tuple[float, Floats]:
        z = design @ weights
        off = weights - start
        value = float((np.logaddexp(0.0, z) - target * z).sum() + 0.5 * (pull * off**2).sum())
        return value, np.asarray(design.T @ (_sigmoid(z) - target) + pull * off)

    slope, intercept = minimize(loss, start, jac=True, method="BFGS").x.tolist()
    return slope, intercept


def _log_odds(confidence: Floats) -> Floats:
    inside = np.clip(confidence, EDGE, 1.0 - EDGE)
    return np.asarray(np.log(inside / (1.0 - inside)))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -50.0, 50.0))))
