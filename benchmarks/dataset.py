"""What does a benchmark file hold? The part that methods may see, a ``Task``, and apart from it the ``Gold`` that scores them.

A file is CSV (may be gzipped) with the columns id, text, gold, llm_label, llm_name, split. The corpus is what an LLM was asked
about in split=train; an empty llm_label there is an abstention. Rows of split=test carry gold only and score the SLM on texts it
has not seen. An ``llm_confidence`` column, where there is one, is the LLM's own and may be used.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from coral_backend.exceptions import InputError
from coral_backend.slm.engine import Corpus
from coral_backend.types import UNLABELED, Floats, Ints
from strategies.distillation.label_names import label_sentences

COLUMNS = ("id", "text", "gold", "llm_label", "llm_name", "split")
"""What a file must have; more is allowed."""

SUBSET_SEED = 0
"""Seeds the choice of ``--rows``: the same rows for every seed of a method."""

Record: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """Everything a method may see.

    Attributes
    ----------
    name : str
        The file's name without its endings.
    corpus : Corpus
        N texts with the LLM's labels; nobody has labelled any.
    llm_confidence : ndarray or None
        Shape (N,), as the LLM said it, NaN where it did not; None when the file has none.
    test_texts : list of str
        M texts of split=test, may be none.
    """

    name: str
    corpus: Corpus
    llm_confidence: Floats | None
    test_texts: list[str]


@dataclass(frozen=True)
class Gold:
    """What only the scoring may see: the true labels of the corpus, shape (N,), and of the test texts, shape (M,)."""

    corpus: Ints
    test: Ints


@dataclass(frozen=True)
class Dataset:
    """A file, read.

    Attributes
    ----------
    labels : tuple of str
        The K labels, in the order of the class numbers; all that occur in the file, as a label config would list them.
    llm_name : str
        Who labelled.
    """

    task: Task
    gold: Gold
    labels: tuple[str, ...]
    llm_name: str


def dataset_name(path: Path) -> str:
    """Return the name of a file in the tables: ``mr`` for ``data/mr.csv.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def read_dataset(path: Path, rows: int | None = None) -> Dataset:
    """Read a file.

    Parameters
    ----------
    rows : int, optional
        Take at most so many rows of the corpus, and of the test texts, at random.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column, or holds nothing that an LLM has classified.
    """
    records = records_of(path)
    asked = [r for r in records if r["split"] == "train" and r["llm_name"]]
    test = [r for r in records if r["split"] == "test" and r["gold"]]
    _check(path, asked)
    labels = tuple(sorted({r[column] for r in asked + test for column in ("gold", "llm_label")} - {""}))
    index = {label: i for i, label in enumerate(labels)}
    asked, test = _some(asked, rows), _some(test, rows)
    llm_labels = np.array([index.get(r["llm_label"], UNLABELED) for r in asked], dtype=np.int64)
    nobody = np.full(len(asked), UNLABELED, dtype=np.int64)
    task = Task(
        name=dataset_name(path),
        corpus=Corpus(
            [r["text"] for r in asked], llm_labels, nobody, len(labels), [label_sentences(label) for label in labels]
        ),
        llm_confidence=_confidence(asked),
        test_texts=[r["text"] for r in test],
    )
    gold = Gold(*(np.array([index[r["gold"]] for r in part], dtype=np.int64) for part in (asked, test)))
    return Dataset(task, gold, labels, asked[0]["llm_name"])


def usable(paths: Sequence[Path], rows: int | None = None) -> Iterator[Dataset]:
    """Yield the files that can be used; of the others stderr says why not.

    Raises
    ------
    InputError
        At the end, if there was none.
    """
    found = False
    for path in paths:
        try:
            data = read_dataset(path, rows)
        except InputError as error:
            print(f"{path.name}: left out. {error}", file=sys.stderr)
            continue
        found = True
        yield data
        print(f"{data.task.name}: done", file=sys.stderr, flush=True)
    if not found:
        raise InputError("No file can be used.")


def records_of(path: Path, columns: Sequence[str] = COLUMNS) -> list[Record]:
    """Return the rows of a file as they stand; raises ``InputError`` if it cannot be read or lacks one of `columns`."""
    csv.field_size_limit(2**27)
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). A CSV file in UTF-8 is needed, may be gzipped.") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path.name} has no column {', '.join(missing)}; it needs {', '.join(columns)}.")
    return list(reader)


def _check(path: Path, asked: Sequence[Record]) -> None:
    """Refuse what is no corpus of labels that an LLM gave to whole texts."""
    if not asked:
        raise InputError(f"{path.name} holds no LLM labels: no row of split=train has an llm_name.")
    nameless = sum(not r["gold"] for r in asked)
    if nameless:
        raise InputError(f"{path.name} has {nameless} of {len(asked)} rows without gold: they cannot be scored.")
    if all(r["gold"].startswith("[") for r in asked):
        raise InputError(f"{path.name} labels the tokens of its texts, not whole texts; CORAL does not serve that.")


def _some(records: Sequence[Record], rows: int | None) -> list[Record]:
    """Return at most `rows` of the records, chosen at random, in the order of the file (which is often sorted by label)."""
    if rows is None or rows >= len(records):
        return list(records)
    chosen = np.random.default_rng(SUBSET_SEED).choice(len(records), rows, replace=False)
    return [records[i] for i in np.sort(chosen)]


def _confidence(records: Sequence[Record]) -> Floats | None:
    values = np.array([_number(r.get("llm_confidence", "")) for r in records])
    return values if np.isfinite(values).any() else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
