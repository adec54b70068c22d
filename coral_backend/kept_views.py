"""When can a retraining leave the networks as they are? What a round's training keeps in its folder, and the rule.

The features-only tier answers in seconds where the full one takes minutes. It is right while few labels have changed: the
networks would hardly learn anything else, and everything that is fitted to all labels at once is fitted anew in both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from coral_backend import corpus_arrays
from coral_backend.corpus_arrays import Table
from coral_backend.settings import Settings
from coral_backend.types import UNLABELED, Ints

if TYPE_CHECKING:
    from coral_backend.slm.earlier import Earlier, Kept

__all__ = ["corpus_key", "earlier_of", "keep", "told"]

VIEWS_FILE = "views.safetensors"

SLOW_SECONDS = 60.0
"""Networks that were trained more quickly are trained again: nobody waits for them, and a small corpus feels every label."""

MOST_CHANGED = 0.02
"""With a larger share of the labels changed since the networks learned them, they learn again (``benchmarks/corrections.py``)."""


def keep(folder: Path, kept: Kept, key: str) -> None:
    """Write what a training left; a reader sees the old file or the whole new one.

    Parameters
    ----------
    key : str
        Of the corpus and settings that it holds for, see ``corpus_key``.
    """
    tensors: dict[str, npt.NDArray[Any]] = {
        "views": np.ascontiguousarray(kept.views, dtype=np.float32),
        "embeddings": np.ascontiguousarray(kept.embeddings, dtype=np.float16),
        "learned": np.ascontiguousarray(kept.learned, dtype=np.int64),
    }
    unfinished = folder / f"{VIEWS_FILE}.{os.getpid()}"
    save_file(tensors, unfinished, metadata={"key": key, "seconds": repr(kept.seconds)})
    unfinished.replace(folder / VIEWS_FILE)


def corpus_key(table: Table, facts: Mapping[str, Any]) -> str:
    """Return a digest of the samples, in their order, and of `facts` that what a training leaves depends on."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for task_id, content in zip(table.task_ids.tolist(), table.content_hashes, strict=True):
        digest.update(f"{task_id} {content}\n".encode())
    return digest.hexdigest()


def earlier_of(folder: Path | None, table: Table, key: str, settings: Settings) -> Earlier | None:
    """Return the training in `folder` where it may serve again; None where the networks must be trained.

    Parameters
    ----------
    folder : Path or None
        Of the round that serves; None where this is not a retraining.
    table : Table
        The samples and their labels as they stand now.
    key : str
        Their ``corpus_key``; another one (a task came, a text was edited, another encoder) makes everything anew.
    """
    if folder is None or settings.retrain_tier == "full":
        return None
    kept, arrays = _read(folder, key), corpus_arrays.load_arrays(folder)
    if kept is None or arrays is None or not np.array_equal(arrays.task_ids, table.task_ids):
        return None
    if settings.retrain_tier == "auto" and (kept.seconds < SLOW_SECONDS or _changed(kept, table) > MOST_CHANGED):
        return None
    from coral_backend.slm.earlier import Earlier

    return Earlier(kept, arrays.features, folder / "model")


def told(earlier: Earlier, table: Table) -> str:
    """Return what a person should know of a retraining that left the networks as they were."""
    changed = int((earlier.kept.learned != _given(table)).sum())
    return (
        f"Only what takes seconds was learned anew: {changed} of {table.size} labels have changed since the networks were "
        "trained (CORAL_RETRAIN_TIER)."
    )


def _given(table: Table) -> Ints:
    """Return the label to learn of each sample: the person's, else the LLM's; shape (N,)."""
    return np.where(table.human_labels != UNLABELED, table.human_labels, table.llm_labels)


def _changed(kept: Kept, table: Table) -> float:
    return float((kept.learned != _given(table)).mean()) if table.size else 1.0


def _read(folder: Path, key: str) -> Kept | None:
    """Return what a training left, or None when there is nothing, or it is damaged or about something else."""
    from coral_backend.slm.earlier import Kept

    try:
        with safe_open(folder / VIEWS_FILE, framework="numpy") as file:
            facts = file.metadata() or {}
            if facts.get("key") != key:
                return None
            views, embeddings, learned = map(file.get_tensor, ("views", "embeddings", "learned"))
        return Kept(views, embeddings.astype(np.float32), learned, float(facts["seconds"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
