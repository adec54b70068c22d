"""How does the labelled corpus leave CORAL? As Excel, CSV, JSON lines, Parquet or a Hugging Face dataset, one row a task.

Texts and labels come from anywhere, so a cell that a spreadsheet would take for a formula gets a single quote in front
(OWASP, CSV injection), in CSV and Excel; the other formats carry them as they are. Rows stream from the database into a file
under another name, which is moved into place when it is whole.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from coral_backend.exceptions import InputError
from coral_backend.export.columnar import write_hf, write_parquet, zip_folder
from coral_backend.export.escape import Tally, escaped
from coral_backend.export.excel import facts, write_xlsx
from coral_backend.export.table import KINDS, MEANINGS, Row, columns, flat_columns, flattened, kind_of, rows
from coral_backend.labels import SINGLE
from coral_backend.store import Store

__all__ = ["FORMATS", "KINDS", "MEANINGS", "Export", "ExportFormat", "Row", "columns", "export", "kind_of", "rows"]

ExportFormat: TypeAlias = Literal["xlsx", "csv", "jsonl", "parquet", "hf"]

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes
    ----------
    rows : int
        Tasks in the file.
    escaped, cut : int
        Cells that got a quote in front; cells that were too long for Excel.
    """

    path: Path
    format: ExportFormat
    rows: int
    escaped: int = 0
    cut: int = 0


def export(
    store: Store,
    project_id: int,
    path: Path,
    format: ExportFormat | str | None = None,  # noqa: A002 - the word of the CLI and of everybody
    *,
    clean_only: bool = False,
    now: datetime | None = None,
    progress: Callable[[int], None] | None = None,
) -> Export:
    """Write a project's labels to `path`.

    Parameters
    ----------
    path : Path
        An existing file is replaced once the new one is whole. For ``hf`` a folder, new or of an earlier export, or a file
        that ends in ``.zip``.
    format : str, optional
        One of `FORMATS`; None takes the file's ending.
    clean_only : bool
        As in ``rows``.
    now : datetime, optional
        The moment that the summary names.
    progress : callable, optional
        Called with the number of rows written so far.

    Raises
    ------
    InputError
        If the format is unknown, the file cannot be written there, or there are more tasks than Excel has rows.
    NotFoundError
        If the project is not connected.
    """
    path = Path(path)
    chosen = _format_of(path, format)
    project = store.project(project_id)
    names, space = columns(store, project_id), project.label_space
    tally = Tally(space=space)
    stream = tally.watch(_counted(rows(store, project_id, clean_only=clean_only), progress))
    if chosen in ("csv", "xlsx") and space.kind != SINGLE:
        names = flat_columns(names, space)
        stream = (flattened(row, names) for row in stream)
    told = facts(project, store, clean_only=clean_only, now=now or datetime.now(UTC))
    with _whole_file(path, folder=chosen == "hf") as unfinished:
        if chosen == "csv":
            _write_csv(unfinished, names, stream, tally)
        elif chosen == "jsonl":
            _write_jsonl(unfinished, stream)
        elif chosen == "parquet":
            write_parquet(unfinished, names, stream, space)
        elif chosen == "hf":
            write_hf(unfinished, names, stream, project, dict(told))
        else:
            write_xlsx(unfinished, names, stream, tally, told)
    return Export(path, chosen, tally.rows, tally.escaped, tally.cut)


def _counted(stream: Iterable[Row], progress: Callable[[int], None] | None) -> Iterator[Row]:
    for count, row in enumerate(stream, 1):
        yield row
        if progress is not None:
            progress(count)


def _format_of(path: Path, wanted: str | None) -> ExportFormat:
    name = wanted if wanted is not None else path.suffix.lstrip(".")
    for known in FORMATS:
        if name.lower() == known:
            return known
    asked = f"The format is {wanted!r}" if wanted is not None else f"The file name {path.name!r} tells no format"
    raise InputError(f"{asked}. Allowed: {', '.join(FORMATS)}.")


@contextmanager
def _whole_file(path: Path, *, folder: bool) -> Iterator[Path]:
    """Give a name to write to, and move what is there to `path` when nothing went wrong.

    A `folder` whose path ends in ``.zip`` becomes one file.
    """
    packed = folder and path.suffix.lower() == ".zip"
    _refuse_place(path, folder=folder and not packed)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        if packed:
            archive = unfinished.with_suffix(".zip")
            zip_folder(unfinished, archive)
            archive.replace(path)
        else:
            if folder and path.exists():
                shutil.rmtree(path)
            unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}). Choose another place.") from error
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.unlink(missing_ok=True)
        unfinished.with_suffix(".zip").unlink(missing_ok=True)


def _refuse_place(path: Path, *, folder: bool) -> None:
    if not folder and path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it, for example {path / 'labels.csv'}.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist. Make it, or write somewhere else.")
    if folder and path.exists() and not _is_ours(path):
        raise InputError(
            f"{path} holds something else than an earlier export, which is not replaced. Name a new folder."
        )


def _is_ours(path: Path) -> bool:
    """Say whether a folder is empty or holds just what an export to ``hf`` leaves."""
    if not path.is_dir():
        return False
    there = {file.name for file in path.iterdir()}
    return not there or there == {"README.md", "data", "dataset_info.json"}


def _write_csv(path: Path, names: Sequence[str], stream: Iterable[Row], tally: Tally) -> None:
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)  # ends lines with CR LF, and so quotes a text that holds either
        writer.writerow([escaped(name, Tally()) for name in names])  # a control may have any name
        for row in stream:
            writer.writerow([escaped(row[name], tally) for name in names])


def _write_jsonl(path: Path, stream: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        for row in stream:
            # U+2028 and U+2029 are escaped: some readers take them for the end of a line.
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            file.write(line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n")
