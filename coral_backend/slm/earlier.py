"""What need not be done again when only some labels have changed? The networks' training, and reading the texts.

The features-only tier: the networks stay as they are, and so does what they said of every sample out of sample; the views that take
seconds are fitted anew to the labels as they stand, and the blend and all that follows with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coral_backend.types import Floats, Ints


@dataclass(frozen=True)
class Kept:
    """What a training leaves for later ones on the same N samples.

    Attributes
    ----------
    views : ndarray
        Shape (E, N, K), float32: log-probabilities of the networks, out of sample, one an epoch.
    embeddings : ndarray
        Shape (N, D), float32: of the encoder; D is 0 where no view reads them.
    learned : ndarray
        Shape (N,): the labels that the networks learned from, ``UNLABELED`` where there was none.
    seconds : float
        How long the networks' training took.
    """

    views: Floats
    embeddings: Floats
    learned: Ints
    seconds: float


@dataclass(frozen=True)
class Earlier:
    """An earlier training of the same samples, in the same order.

    Attributes
    ----------
    features : ndarray
        Shape (N, D), float32: of the first network.
    model : Path
        Folder of the model.
    """

    kept: Kept
    features: Floats
    model: Path
