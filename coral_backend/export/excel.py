"""How does the table become an Excel workbook? Row by row into a file, with a frozen header, filters, colours and a summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from coral_backend.exceptions import InputError
from coral_backend.export.escape import Tally, in_excel
from coral_backend.export.table import Cell, Row, meaning_of
from coral_backend.store import Store
from coral_backend.types import Flag, Project

__all__ = ["EXCEL_ROWS", "facts", "write_xlsx"]

EXCEL_ROWS = 1_048_576

_CLEAN_COLOUR, _OTHER_COLOUR = "FFC6EFCE", "FFFFC7CE"


def write_xlsx(
    path: Path, names: Sequence[str], stream: Iterable[Row], tally: Tally, told: Sequence[tuple[str, Cell]]
) -> None:
    """Write all rows into a sheet, and what is `told` about them with the counts of `tally` into a second one."""
    from openpyxl import Workbook  # half a second, and only for this format
    from openpyxl.utils import get_column_letter

    book = Workbook(write_only=True)
    sheet: Any = book.create_sheet("Labels")
    sheet.freeze_panes = "A2"
    for number, name in enumerate(names, 1):
        sheet.column_dimensions[get_column_letter(number)].width = 80 if name == "text" else max(11, len(name) + 4)
    try:
        _append_rows(sheet, names, stream, tally)
    except BaseException:
        sheet.close()  # else its half-written stream complains when it is collected
        raise
    sheet.auto_filter.ref = f"A1:{get_column_letter(len(names))}{tally.rows + 1}"
    summary: Any = book.create_sheet("Summary")
    summary.column_dimensions["A"].width, summary.column_dimensions["B"].width = 24, 90
    for line in _summary(told, tally, names):
        summary.append([in_excel(value, Tally()) for value in line])
    book.save(path)


def _append_rows(sheet: Any, names: Sequence[str], stream: Iterable[Row], tally: Tally) -> None:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font, PatternFill

    fills = {
        str(flag): PatternFill("solid", fgColor=_CLEAN_COLOUR if flag is Flag.CLEAN else _OTHER_COLOUR) for flag in Flag
    }

    def cell(value: Cell, **style: Any) -> Any:
        made = WriteOnlyCell(sheet, cast("str | float | None", value))  # lists were flattened
        for name, look in style.items():
            setattr(made, name, look)
        return made

    sheet.append([cell(in_excel(name, Tally()), font=Font(bold=True)) for name in names])
    for row in stream:
        if tally.rows >= EXCEL_ROWS:
            raise InputError(
                f"Excel holds {EXCEL_ROWS - 1:,} tasks and there are more. Export parquet, csv or jsonl instead."
            )
        values = [in_excel(row[name], tally) for name in names]
        fill = fills.get(str(row["flag"]))
        sheet.append([cell(value, fill=fill) for value in values] if fill else values)


def facts(project: Project, store: Store, *, clean_only: bool, now: datetime) -> list[tuple[str, Cell]]:
    """Return what there is to say about an export besides its rows."""
    current = store.round(project.active_round) if project.active_round is not None else None
    agreement = current.metrics.get("agreement", {}) if current else {}
    return [
        ("Project", f"{project.title} ({project.id})"),
        ("Exported at", now.astimezone(UTC).isoformat(timespec="seconds")),
        ("Round", current.name if current else "none yet"),
        ("Model version", project.model_version),
        ("Annotator", current.metrics.get("annotator") if current else None),
        ("Rows", "clean or labelled by a person" if clean_only else "all tasks"),
        ("Labels of people", len(store.human_labels(project.id))),
        ("LLM agrees with people", agreement.get("llm")),
        ("SLM agrees with people", agreement.get("slm")),
        *(
            (f"{who.upper()}'s micro-F1 against people", agreement[f"{who}_f1"])
            for who in ("llm", "slm")
            if f"{who}_f1" in agreement
        ),
    ]


def _summary(facts: Sequence[tuple[str, Cell]], tally: Tally, names: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    yield from facts
    yield ("Tasks in this file", tally.rows)
    for title, counts in (("Flags", tally.flags), ("Source of the label", tally.sources), ("Labels", tally.labels)):
        yield ()
        yield (title, "tasks")
        yield from sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    yield ()
    yield ("Cells with a quote added", tally.escaped)
    yield ("Cells cut for Excel", tally.cut)
    yield ()
    yield ("Column", "meaning")
    for name in names:
        yield (name, meaning_of(name))
