"""Where does each sample lie on the map? The SLM's features in two dimensions, computed once a round and kept beside its arrays.

Principal components: fast, the same at every run, and a direction means the same everywhere; a neighbour-keeping map (t-SNE,
UMAP) takes minutes at 100,000 samples and shows gaps that are not there.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from coral_backend import corpus_arrays
from coral_backend.settings import Settings
from coral_backend.types import Floats, Ints, Round

__all__ = ["GRID", "Projection", "for_round", "inside", "project"]

log = logging.getLogger(__name__)

FILE = "projection.safetensors"
GRID = 65_535
"""Positions are whole numbers of 0 ... GRID: two bytes each on the wire, and exact in the address of a drawn set."""

CHUNK = 8192


@dataclass(frozen=True)
class Projection:
    """Where N samples lie.

    Attributes
    ----------
    task_ids : ndarray of int
        Shape (N,).
    places : ndarray of int
        Shape (N, 2), 0 ... GRID; the longer side fills it.
    explained : float
        Share of the features' variance that the two directions keep, in [0, 1].
    """

    task_ids: Ints
    places: Ints
    explained: float


def for_round(settings: Settings, current: Round, control: str | None = None) -> Projection | None:
    """Return the projection of a round, as one of several controls sees it; None when its arrays are gone, or elsewhere."""
    folder = corpus_arrays.round_folder(settings, current, control)
    arrays_file = folder / corpus_arrays.ARRAYS_FILE
    kept = _load(folder / FILE)
    if kept is not None and arrays_file.exists() and (folder / FILE).stat().st_mtime >= arrays_file.stat().st_mtime:
        return kept
    arrays = corpus_arrays.load_arrays(folder)
    if arrays is None:
        return None
    places, explained = project(arrays.features)
    made = Projection(arrays.task_ids, places, explained)
    _save(folder / FILE, made)
    log.info("round %s: projected %d samples, %.2f of the variance kept", current.name, len(places), explained)
    return made


def project(features: Floats) -> tuple[Ints, float]:
    """Return places of shape (N, 2) on the grid and the share of variance kept.

    Parameters
    ----------
    features : ndarray
        Shape (N, D). A component's sign is chosen so that its largest weight is positive: the same features always give
        the same map.
    """
    n, width = features.shape
    if n == 0 or width == 0:
        return np.zeros((n, 2), dtype=np.int64), 0.0
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((width, width))
    for start in range(0, n, CHUNK):  # in parts: 100,000 rows as float64 would take 300 MB
        rows = np.nan_to_num(features[start : start + CHUNK].astype(np.float64) - mean)
        covariance += rows.T @ rows
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    plane = np.zeros((n, 2))
    plane[:, : axes.shape[1]] = np.nan_to_num(features - mean) @ axes
    total = float(values.sum())
    explained = float(values[::-1][:2].sum()) / total if total > 0 else 0.0
    return _on_grid(plane), explained


def _on_grid(plane: Floats) -> Ints:
    low, span = plane.min(axis=0), np.ptp(plane, axis=0)
    scale = float(span.max())
    if scale <= 0:
        return np.full(plane.shape, GRID // 2, dtype=np.int64)
    centred = (plane - low - span / 2) / scale + 0.5  # one scale for both: distances stay comparable
    return np.asarray(np.clip(np.rint(centred * GRID), 0, GRID), dtype=np.int64)


def inside(found: Projection, polygon: Ints) -> Ints:
    """Return the ids of the tasks inside a polygon of shape (M, 2) in grid units (even-odd rule)."""
    x, y = found.places[:, 0].astype(float), found.places[:, 1].astype(float)
    hit = np.zeros(len(x), dtype=bool)
    previous = polygon[-1].astype(float)
    for corner in polygon.astype(float):
        (x1, y1), (x2, y2) = previous, corner
        if y1 != y2:
            crosses = (y1 > y) != (y2 > y)
            hit ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
        previous = corner
    return np.asarray(found.task_ids[hit])


def _load(path: Path) -> Projection | None:
    try:
        kept = load_file(path)
        return Projection(kept["task_ids"], kept["places"].astype(np.int64), float(kept["explained"][0]))
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def _save(path: Path, made: Projection) -> None:
    """Write it beside the arrays; a folder that cannot be written costs the next reader a second, no more."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    tensors: dict[str, npt.NDArray[Any]] = {
        "task_ids": np.ascontiguousarray(made.task_ids, dtype=np.int64),
        "places": np.ascontiguousarray(made.places, dtype=np.uint16),
        "explained": np.array([made.explained]),
    }
    try:
        save_file(tensors, unfinished)
        unfinished.replace(path)
    except OSError as error:
        log.warning("%s could not be written: %s", path.name, error.strerror)
