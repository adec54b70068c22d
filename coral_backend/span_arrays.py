"""How does what the SLM saw of spans lie in a round's folder, and how do rows of the store and spans become candidates?

One row a span, as safetensors beside the arrays of the tasks; like those they are derived, and a round that has lost them trains again.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from coral_backend.labels import Span
from coral_backend.types import Floats, Ints

__all__ = ["SpanArrays", "load", "save"]

FILE = "spans.safetensors"


class SeenSpan(Protocol):
    """What the SLM says about a span; see ``slm/span_engine.py`` ``Seen``."""

    @property
    def row(self) -> int: ...

    @property
    def span(self) -> Span: ...

    @property
    def p(self) -> float: ...

    @property
    def loss(self) -> float: ...

    @property
    def decoded(self) -> bool: ...


@dataclass(frozen=True)
class Opinion:
    """What the SLM says about one span of a task: its probability, its loss in nats a token, the posterior that it is clean."""

    p: float
    loss: float
    p_clean: float
    decoded: bool


@dataclass(frozen=True)
class SpanArrays:
    """A round's spans, M of them: ``task_ids``, ``start``, ``end``, ``kind`` (M,), ``p``, ``loss``, ``p_clean``, ``decoded`` (M,)."""

    task_ids: Ints
    start: Ints
    end: Ints
    kind: Ints
    p: Floats
    loss: Floats
    p_clean: Floats
    decoded: Ints

    @classmethod
    def of(
        cls, seen: Sequence[SeenSpan], p_clean: Floats, task_ids: Sequence[int], labels: Sequence[str]
    ) -> SpanArrays:
        """Return what was seen of the texts of `task_ids`; `p_clean` has shape (M,)."""
        spans = [one.span for one in seen]
        return cls(
            np.array([task_ids[one.row] for one in seen], dtype=np.int64),
            np.array([span.start for span in spans], dtype=np.int64),
            np.array([span.end for span in spans], dtype=np.int64),
            np.array([labels.index(span.label) for span in spans], dtype=np.int64),
            np.array([one.p for one in seen], dtype=np.float64),
            np.array([one.loss for one in seen], dtype=np.float64),
            np.asarray(p_clean, dtype=np.float64),
            np.array([one.decoded for one in seen], dtype=np.int64),
        )

    def extended(self, others: SpanArrays, task_ids: Sequence[int]) -> SpanArrays:
        """Return these with `others` for `task_ids` in place of what was known of those tasks."""
        keep = ~np.isin(self.task_ids, task_ids)
        return SpanArrays(
            **{name: np.concatenate([mine[keep], getattr(others, name)]) for name, mine in vars(self).items()}
        )

    def by_task(self, labels: Sequence[str]) -> Mapping[int, dict[Span, Opinion]]:
        """Return what the SLM says about each span, by task id."""
        found: dict[int, dict[Span, Opinion]] = defaultdict(dict)
        columns = (self.start, self.end, self.kind, self.p, self.loss, self.p_clean, self.decoded)
        rows = zip(self.task_ids.tolist(), *(column.tolist() for column in columns), strict=True)
        for task_id, start, end, kind, p, loss, p_clean, decoded in rows:
            if kind < len(labels):
                found[task_id][Span(start, end, labels[kind])] = Opinion(p, loss, p_clean, bool(decoded))
        return found


def save(folder: Path, arrays: SpanArrays) -> None:
    """Write a round's spans; a reader sees the old file or the whole new one."""
    unfinished = folder / f"{FILE}.{os.getpid()}"
    save_file({name: np.ascontiguousarray(column) for name, column in vars(arrays).items()}, unfinished)
    unfinished.replace(folder / FILE)


def load(folder: Path) -> SpanArrays | None:
    """Return a round's spans, or None when the file is missing or damaged."""
    try:
        return SpanArrays(**load_file(folder / FILE))
    except (FileNotFoundError, SafetensorError, TypeError):
        return None
