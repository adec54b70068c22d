"""How do rows of a table become numbers? What is read off a corpus once, column by column, and kept as arrays.

The transformers of scikit-learn do the same, but what they have learned could only be kept as a pickle, which no model of ours
holds.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from coral_backend.types import Floats, Ints

Row: TypeAlias = Mapping[str, Any]
"""Column -> number, word, truth value, or None where the value is missing."""

NUMERIC, CATEGORICAL = "numeric", "categorical"

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null"})
"""Words that stand for a missing value, in small letters."""

MOST_COLUMNS = 300
"""More columns than these are left out, the rarest first."""

NUMBERS = 0.9
"""A column is numeric when so many of its values are numbers."""

KNOTS = 8
"""Intervals, with about as many rows in each, in which a number is told where it lies."""

SQUASH = 4.0
"""Robust standard deviations beyond which a number is pulled in: an outlier must not drown its column."""

FARTHEST = 1e6
"""Robust standard deviations beyond which all numbers are the same: of larger ones the square is no number."""

FREQUENT = 4
"""Rows that a word must occur in to be known as such; all rarer ones of a column are one."""

MOST_WORDS = 64
"""So many words of a column are known, the most frequent."""

HASHED = 32
"""Dimensions for what the rare words of a column look like."""

MANY_RARE = 0.1
"""A column with a larger share of rare words is read by their letters too."""

_SHAPES = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=HASHED, dtype=np.float32)


@dataclass(frozen=True)
class Column:
    """What was read off one column.

    Attributes
    ----------
    kind : str
        ``NUMERIC`` or ``CATEGORICAL``.
    gaps : bool
        Whether values are missing in the corpus; only then there is a feature for it.
    center, scale : float
        Median, and the robust standard deviation; of numbers.
    knots : tuple of float
        Ascending, of numbers; empty where all are equal.
    words : tuple of str
        The words that are known.
    hashed : bool
        Whether words are read by their letters too.
    """

    name: str
    kind: str
    gaps: bool
    center: float = 0.0
    scale: float = 1.0
    knots: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    hashed: bool = False

    @property
    def width(self) -> int:
        """How many features it becomes."""
        if self.kind == NUMERIC:
            return 1 + max(0, len(self.knots) - 1) + self.gaps
        return len(self.words) + 1 + self.gaps + HASHED * self.hashed

    def encode(self, values: Sequence[Any]) -> Floats:
        """Return features, shape (N, width), float32, finite."""
        if self.kind == NUMERIC:
            return self._numbers(np.array([_number(value) for value in values], dtype=np.float64))
        return self._words([_word(value) for value in values])

    def _numbers(self, x: Floats) -> Floats:
        missing = np.isnan(x)
        x = np.where(missing, self.center, x)
        with np.errstate(over="ignore"):  # beside values that are nearly all next to 0
            z = np.clip((x - self.center) / self.scale, -FARTHEST, FARTHEST)
        parts = [z / np.sqrt(1.0 + (z / SQUASH) ** 2)]
        parts += [
            (np.clip(x, low, high) - low) / (high - low) for low, high in zip(self.knots, self.knots[1:], strict=False)
        ]
        parts += [missing.astype(float)] if self.gaps else []
        return np.asarray(np.stack(parts, axis=1), dtype=np.float32)

    def _words(self, words: Sequence[str | None]) -> Floats:
        place = {word: i for i, word in enumerate(self.words)}
        found = np.zeros((len(words), self.width), dtype=np.float32)
        other, gap = len(self.words), len(self.words) + 1
        for i, word in enumerate(words):
            if word is not None:
                found[i, place.get(word, other)] = 1.0
            elif self.gaps:
                found[i, gap] = 1.0
        if self.hashed and len(words):
            shapes = _SHAPES.transform([(word or "").encode("utf-8", "replace").decode() for word in words])
            found[:, self.width - HASHED :] = shapes.toarray()
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "knots": list(self.knots), "words": list(self.words)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Column:
        """Restore what ``to_json`` returned."""
        return cls(**{**data, "knots": tuple(map(float, data["knots"])), "words": tuple(map(str, data["words"]))})


@dataclass(frozen=True)
class Columns:
    """A table's columns.

    Attributes
    ----------
    notes : tuple of str
        What a person should know of the corpus, in sentences; not kept with a model.
    """

    columns: tuple[Column, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def width(self) -> int:
        """How many features a row becomes, D >= 1."""
        return max(1, sum(column.width for column in self.columns))

    @property
    def owners(self) -> Ints:
        """Shape (D,): the column that each feature belongs to."""
        owners = np.repeat(np.arange(len(self.columns)), [column.width for column in self.columns])
        return owners if len(owners) else np.zeros(1, dtype=np.int64)

    def encode(self, rows: Sequence[Row]) -> Floats:
        """Return features, shape (N, D), float32; columns that are not known are passed over, those a row lacks are missing."""
        parts = [column.encode([row.get(column.name) for row in rows]) for column in self.columns]
        return np.concatenate(
            [part for part in parts if part.shape[1]] or [np.zeros((len(rows), 1), np.float32)], axis=1
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain JSON values."""
        return [column.to_json() for column in self.columns]

    @classmethod
    def from_json(cls, data: Sequence[Mapping[str, Any]]) -> Columns:
        """Restore what ``to_json`` returned."""
        return cls(tuple(Column.from_json(one) for one in data))


def read_rows(texts: Sequence[str]) -> list[Row]:
    """Return the rows of samples, whose texts are JSON objects (``labelstudio/rows.py``); what is none is an empty row."""
    return [_row(text) for text in texts]


def fit(rows: Sequence[Row], declared: Mapping[str, str]) -> Columns:
    """Read the columns of a corpus.

    Parameters
    ----------
    rows : sequence of mapping
        N rows.
    declared : mapping of str to str
        The columns to take, in their order -> ``NUMERIC``, ``CATEGORICAL`` or ``""`` for a kind to be found out. Empty: all that occur.

    Returns
    -------
    Columns
        Its notes name columns that were left out or lack values that they should have.
    """
    seen = Counter(name for row in rows for name in row)
    names = list(declared) or [name for name, _ in sorted(sorted(seen.items()), key=lambda one: -one[1])]
    taken = [name for name in names if seen[name]][:MOST_COLUMNS]
    notes = _unseen(names, taken, seen, declared)
    columns = []
    for name in taken:
        column, said = _fit_column(name, [row.get(name) for row in rows], declared.get(name, ""))
        columns.append(column)
        notes += said
    if few := [f"{name!r} ({seen[name]})" for name in taken if seen[name] < len(rows)]:
        notes.append(
            f"Some rows lack a column, and count as if its value were missing. Rows that have it, of {len(rows)}: {_listed(few)}."
        )
    return Columns(tuple(columns), tuple(notes))


def _unseen(names: Sequence[str], taken: Sequence[str], seen: Counter[str], declared: Mapping[str, str]) -> list[str]:
    """Say which columns were asked for and are not there, which are there and were not asked for, and which are too many."""
    notes = []
    if gone := [repr(name) for name in declared if not seen[name]]:
        notes.append(
            f"No row has the column {_listed(gone)} that the task strategy names; rows have {_listed(list(seen))}."
        )
    if declared and (more := [repr(name) for name in seen if name not in declared]):
        notes.append(f"Columns that the task strategy does not name were left out: {_listed(more)}.")
    if over := [name for name in names if seen[name] and name not in set(taken)]:
        notes.append(f"{len(over)} columns were left out: at most {MOST_COLUMNS} are read.")
    return notes


def _fit_column(name: str, values: Sequence[Any], kind: str) -> tuple[Column, list[str]]:
    words = [_word(value) for value in values]
    known = [value for value, word in zip(values, words, strict=True) if word is not None]
    numbers = np.array([_number(value) for value in known], dtype=np.float64)
    is_number = np.isfinite(numbers)
    if not kind:
        kind = NUMERIC if known and is_number.mean() >= NUMBERS else CATEGORICAL
    if kind == CATEGORICAL:
        return _categorical(name, [word for word in words if word is not None], gaps=len(known) < len(values)), []
    wrong = [value for value, right in zip(known, is_number, strict=True) if not right]
    notes = []
    if wrong:
        told = _listed([repr(value)[:40] for value in wrong])
        notes = [f"Column {name!r} is numeric; {len(wrong)} values are no numbers and count as missing: {told}."]
    return _numeric(name, numbers[is_number], gaps=bool(is_number.sum() < len(values))), notes


def _numeric(name: str, x: Floats, *, gaps: bool) -> Column:
    if not x.size:
        return Column(name, NUMERIC, gaps)
    low, center, high = np.quantile(x, [0.25, 0.5, 0.75])
    scale = float((high - low) / 1.349) or float(x.std()) or 1.0
    different = np.unique(x)
    if len(different) > KNOTS + 1:
        different = np.unique(np.quantile(x, np.linspace(0.0, 1.0, KNOTS + 1)))
    knots = tuple(map(float, different)) if len(different) > 1 else ()
    return Column(name, NUMERIC, gaps, float(center), scale, knots)


def _categorical(name: str, words: Sequence[str], *, gaps: bool) -> Column:
    counts = Counter(words)
    known = [word for word, n in sorted(counts.items(), key=lambda one: (-one[1], one[0])) if n >= FREQUENT][
        :MOST_WORDS
    ]
    rare = 1.0 - sum(counts[word] for word in known) / max(1, len(words))
    return Column(name, CATEGORICAL, gaps, words=tuple(known), hashed=rare > MANY_RARE)


def _row(text: str) -> Row:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _number(value: Any) -> float:
    """Return a value as a number; NaN for what is none."""
    if value is None or isinstance(value, bool | list | dict):
        return math.nan
    try:
        x = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return x if abs(x) < 1e30 else math.nan


def _word(value: Any) -> str | None:
    """Return a value as a word; None for a missing one."""
    if value is None:
        return None
    word = json.dumps(value) if not isinstance(value, str) else " ".join(value.split())
    return None if word.casefold() in MISSING else word


def _listed(items: Sequence[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
