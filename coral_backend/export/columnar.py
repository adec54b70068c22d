"""How does the table become Parquet, and a folder that Hugging Face's ``load_dataset`` reads? In batches, typed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from coral_backend.export.table import PARTS, SET, Row, kind_of, meaning_of
from coral_backend.types import Detail, LabelSpace, Project

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SHARD_ROWS", "write_hf", "write_parquet", "zip_folder"]

BATCH_ROWS = 5_000
"""Rows in memory, and in one row group."""
SHARD_ROWS = 100_000

_HF_TYPES = {int: "int64", float: "float64", str: "string"}

_PART: Mapping[str, type] = {f.name: float if "float" in str(f.type) else str for f in fields(Detail)}
"""What a part of a task has."""


def write_parquet(path: Path, names: Sequence[str], stream: Iterable[Row], space: LabelSpace) -> None:
    """Write all rows into one Parquet file."""
    with _writer(path, names, space) as write:
        for batch in _batches(stream, BATCH_ROWS):
            write(batch)


def write_hf(
    folder: Path, names: Sequence[str], stream: Iterable[Row], project: Project, facts: Mapping[str, Any]
) -> None:
    """Write a dataset folder: Parquet shards, a card (README.md) that names them and their types, and dataset_info.json.

    ``datasets.load_dataset(folder)`` reads it; the package itself is not needed to write it.
    """
    (folder / "data").mkdir(parents=True)
    rows = iter(stream)
    count, shard, batch = 0, 0, list(islice(rows, BATCH_ROWS))
    while batch or shard == 0:  # a project without tasks has one empty shard, which says the columns
        with _writer(folder / "data" / f"train-{shard:05d}.parquet", names, project.label_space) as write:
            count += _fill(write, batch, rows)
        shard, batch = shard + 1, list(islice(rows, BATCH_ROWS))
    kinds = {name: kind_of(name, project.label_space) for name in names}
    _write_card(folder, project.title, kinds, facts, rows=count)


def zip_folder(folder: Path, path: Path) -> None:
    """Put a folder into one file, for a download; Parquet is compressed already."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())


def _fill(write: Callable[[Sequence[Row]], None], batch: Sequence[Row], rows: Iterator[Row]) -> int:
    """Write a shard, beginning with `batch`; return its rows."""
    count = 0
    while batch:
        write(batch)
        count += len(batch)
        batch = list(islice(rows, min(BATCH_ROWS, SHARD_ROWS - count)))
    return count


def _write_card(
    folder: Path,
    title: str,
    kinds: Mapping[str, type | str],
    facts: Mapping[str, Any],
    *,
    rows: int,
) -> None:
    features = [{"name": name} | _in_card(kind) for name, kind in kinds.items()]
    head = {
        "pretty_name": title,
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
        "dataset_info": {"features": features},
    }
    lines = [f"- `{name}`: {meaning_of(name)}" for name in kinds]
    told = [f"- {name}: {value}" for name, value in facts.items() if value is not None]
    text = "\n".join([
        "---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(), "---", "",
        "# Labels exported from CORAL", "", *told, "", "## Columns", "", *lines, "",
    ])  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")
    info = {
        "dataset_name": title,
        "features": {name: _in_info(kind) for name, kind in kinds.items()},
        "splits": {"train": {"name": "train", "num_examples": rows}},
        "facts": dict(facts),
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, ensure_ascii=False, indent=2), encoding="utf-8")


def _in_card(kind: type | str) -> dict[str, Any]:
    """Return a column's type as a dataset card has it."""
    if isinstance(kind, type):
        return {"dtype": _HF_TYPES[kind]}
    if kind == SET:
        return {"sequence": "string"}
    return {"list": [{"name": name, "dtype": _HF_TYPES[of]} for name, of in _PART.items()]}


def _in_info(kind: type | str) -> Any:
    """Return a column's type as dataset_info.json has it."""
    if isinstance(kind, type):
        return {"dtype": _HF_TYPES[kind], "_type": "Value"}
    if kind == SET:
        return {"feature": _in_info(str), "_type": "Sequence"}
    return [{name: _in_info(of) for name, of in _PART.items()}]


@contextmanager
def _writer(path: Path, names: Sequence[str], space: LabelSpace) -> Iterator[Callable[[Sequence[Row]], None]]:
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(names, space)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def write(rows: Sequence[Row]) -> None:
            table = {name: [row[name] for row in rows] for name in names}
            writer.write_table(pa.Table.from_pydict(table, schema=schema))

        yield write


def _schema(names: Sequence[str], space: LabelSpace) -> pa.Schema:
    import pyarrow as pa

    types: dict[type | str, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    part = pa.struct([pa.field(name, types[of]) for name, of in _PART.items()])
    types |= {SET: pa.list_(pa.string()), PARTS: pa.list_(part)}
    return pa.schema([
        pa.field(name, types[kind_of(name, space)], metadata={"description": meaning_of(name)}) for name in names
    ])  # fmt: skip


def _batches(stream: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(stream)
    while batch := list(islice(rows, size)):
        yield batch
