"""How does the labelled corpus leave CORAL? As CSV, JSON lines or Excel, one row a task, with every label and its score.

Texts and labels come from anywhere, so a cell that a spreadsheet would take for a formula gets a single quote in front
(OWASP, CSV injection), in CSV and Excel; JSON lines carry them as they are. A file is written under another name and moved
into place when it is whole.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from coral_backend.exceptions import InputError
from coral_backend.store import Store
from coral_backend.types import Answer, Flag, HumanLabel, Project, Sample, Source, Verdict

__all__ = ["FORMATS", "Export", "ExportFormat", "Row", "columns", "export", "rows"]

Cell: TypeAlias = str | int | float | None
Row: TypeAlias = dict[str, Cell]
ExportFormat: TypeAlias = Literal["csv", "jsonl", "xlsx"]

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

EXCEL_ROWS = 1_048_576
EXCEL_CELL = 32_767
"""UTF-16 units in a cell."""

MEANINGS: Mapping[str, str] = {
    "task_id": "Label Studio's id of the task.",
    "text": "What was labelled.",
    "llm_label": "The annotator's newest label; empty where it abstained or was not asked.",
    "slm_label": "The small model's most probable label.",
    "confidence": "The small model's out-of-sample probability of slm_label, 0 to 1.",
    "p_clean": "Posterior that llm_label is right, 0 (surely wrong) to 1 (surely right).",
    "rank": "Place in the review queue; 1 is the most doubtful.",
    "flag": "clean, noisy or inconsistent; empty before the task's first round.",
    "human_label": "The label of a person; empty where there is none.",
    "annotator": "Label Studio's id of that person.",
    "updated_at": "When that person gave it (ISO 8601, UTC).",
    "label": "The label to use: the person's if there is one, else the most probable.",
    "score": "Probability that label is right, 0 to 1, out of sample; 1 for a person's, empty where unknown.",
    "source": "Who gave label: human, llm or slm.",
    "model_version": "The version of the round that judged the task.",
    "note": "Why a machine could not label the task.",
}
"""The columns in their order, and what each says; ``llm_label_r1``, ... come after ``llm_label``."""

_FORMULA = re.compile(r"[\x00-\x20]*[=+\-@\t\r\n\x00\uff1d\uff0b\uff0d\uff20]")
"""A leading = + - @ (or its full-width form), TAB, CR, LF or NUL, also behind blanks that a spreadsheet may drop."""
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What XML 1.0, and so Excel, cannot hold."""

_CLEAN_COLOUR, _OTHER_COLOUR = "FFC6EFCE", "FFFFC7CE"


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


@dataclass
class _Tally:
    """Counts what passes by, for the summary sheet."""

    rows: int = 0
    escaped: int = 0
    cut: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.rows += 1
            self.flags[str(row["flag"] or "not judged yet")] += 1
            self.sources[str(row["source"] or "nobody")] += 1
            self.labels[str(row["label"] or "(none)")] += 1
            yield row


def columns(store: Store, project_id: int) -> list[str]:
    """Return the names of the columns; there is an ``llm_label_r<n>`` for each round that asked the annotator."""
    return _columns(_history(store, project_id))


def rows(store: Store, project_id: int, *, clean_only: bool = False) -> Iterator[Row]:
    """Yield one mapping of column to value a task, by task id.

    Human labels count as they stand now, also those given after the round.

    Parameters
    ----------
    clean_only : bool
        Leave out what is neither flagged clean nor labelled by a person.

    Raises
    ------
    NotFoundError
        If the project is not connected.
    """
    return _rows(store, store.project(project_id), _history(store, project_id), clean_only=clean_only)


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
        An existing file is replaced once the new one is whole.
    format : str, optional
        One of `FORMATS`; None takes the file's ending.
    clean_only : bool
        As in ``rows``.
    now : datetime, optional
        The moment that the Excel summary names.
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
    project, history = store.project(project_id), _history(store, project_id)
    tally, names = _Tally(), _columns(history)
    stream = tally.watch(_counted(_rows(store, project, history, clean_only=clean_only), progress))
    with _whole_file(path) as unfinished:
        if chosen == "csv":
            _write_csv(unfinished, names, stream, tally)
        elif chosen == "jsonl":
            _write_jsonl(unfinished, stream)
        else:
            facts = _facts(project, store, clean_only=clean_only, now=now or datetime.now(UTC))
            _write_xlsx(unfinished, names, stream, tally, facts)
    return Export(path, chosen, tally.rows, tally.escaped, tally.cut)


# --- rows ---------------------------------------------------------------------------------------------------------


def _history(store: Store, project_id: int) -> dict[int, dict[int, str | None]]:
    """Return the annotator's labels: task id -> round number -> label."""
    history: dict[int, dict[int, str | None]] = {}
    for task_id, number, label in store.llm_history(project_id):
        history.setdefault(task_id, {})[number] = label
    return history


def _columns(history: Mapping[int, Mapping[int, str | None]]) -> list[str]:
    names = list(MEANINGS)
    place = names.index("llm_label") + 1
    return [*names[:place], *(f"llm_label_r{number}" for number in _numbers(history)), *names[place:]]


def _numbers(history: Mapping[int, Mapping[int, str | None]]) -> list[int]:
    return sorted({number for asked in history.values() for number in asked})


def _rows(
    store: Store, project: Project, history: Mapping[int, Mapping[int, str | None]], *, clean_only: bool
) -> Iterator[Row]:
    human, answers = store.human_labels(project.id), store.llm_labels(project.id)
    judged = store.verdicts(project.id, project.active_round) if project.active_round is not None else []
    verdicts = {verdict.task_id: verdict for verdict in judged}
    numbers = _numbers(history)
    for sample in store.samples(project.id):
        task_id = sample.task_id
        verdict = verdicts.get(task_id)
        if verdict is not None and verdict.content_hash != sample.content_hash:
            verdict = None  # it judged another text, that somebody has changed since
        if clean_only and task_id not in human and (verdict is None or verdict.flag is not Flag.CLEAN):
            continue
        asked = {f"llm_label_r{number}": history.get(task_id, {}).get(number) for number in numbers}
        yield _row(project, sample, verdict, answer=answers.get(task_id), human=human.get(task_id), asked=asked)


def _row(
    project: Project,
    sample: Sample,
    verdict: Verdict | None,
    *,
    answer: Answer | None,
    human: HumanLabel | None,
    asked: Mapping[str, str | None],
) -> Row:
    label, score, source = _final(verdict, answer, human)
    return {
        "task_id": sample.task_id,
        "text": sample.text,
        "llm_label": verdict.llm_label if verdict else answer.label if answer else None,
        **asked,
        "slm_label": verdict.slm_label if verdict else None,
        "confidence": _short(verdict.slm_score) if verdict else None,
        "p_clean": _short(verdict.p_clean) if verdict else None,
        "rank": verdict.rank if verdict else None,
        "flag": str(verdict.flag) if verdict else None,
        "human_label": human.label if human else None,
        "annotator": human.user_id if human else None,
        "updated_at": human.updated_at if human else None,
        "label": label,
        "score": _short(score),
        "source": str(source) if source else None,
        "model_version": project.model_version if verdict else None,
        "note": sample.problem or (answer.reason if answer else None),
    }


def _final(
    verdict: Verdict | None, answer: Answer | None, human: HumanLabel | None
) -> tuple[str | None, float | None, Source | None]:
    """Return label, score and source as they stand now: people may have labelled, or taken back, since the round."""
    if human is not None:
        return human.label, 1.0, Source.HUMAN
    if verdict is None:
        label = answer.label if answer else None
        return label, None, Source.LLM if label is not None else None
    if verdict.source is not Source.HUMAN:
        return verdict.label, verdict.score, verdict.source
    label = verdict.slm_label or verdict.llm_label  # the person's label was taken back since
    source = None if label is None else Source.LLM if label == verdict.llm_label else Source.SLM
    return label, verdict.slm_score if verdict.slm_label else None, source


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _counted(stream: Iterable[Row], progress: Callable[[int], None] | None) -> Iterator[Row]:
    for count, row in enumerate(stream, 1):
        yield row
        if progress is not None:
            progress(count)


# --- files --------------------------------------------------------------------------------------------------------


def _format_of(path: Path, wanted: str | None) -> ExportFormat:
    name = wanted if wanted is not None else path.suffix.lstrip(".")
    for known in FORMATS:
        if name.lower() == known:
            return known
    asked = f"The format is {wanted!r}" if wanted is not None else f"The file name {path.name!r} tells no format"
    raise InputError(f"{asked}. Allowed: {', '.join(FORMATS)}.")


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Give a name to write to, and move the file to `path` when nothing went wrong."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it, for example {path / 'labels.csv'}.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist. Make it, or write somewhere else.")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}). Choose another place.") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _write_csv(path: Path, names: Sequence[str], stream: Iterable[Row], tally: _Tally) -> None:
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)  # ends lines with CR LF, and so quotes a text that holds either
        writer.writerow(names)
        for row in stream:
            writer.writerow([_escaped(row[name], tally) for name in names])


def _write_jsonl(path: Path, stream: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        for row in stream:
            # U+2028 and U+2029 are escaped: some readers take them for the end of a line.
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            file.write(line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n")


def _escaped(value: Cell, tally: _Tally) -> Cell:
    """Return `value` so that no spreadsheet takes it for a formula; numbers stay numbers."""
    if not isinstance(value, str) or not _is_formula(value):
        return value
    tally.escaped += 1
    return f"'{value}"


def _is_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None


# --- Excel --------------------------------------------------------------------------------------------------------


def _write_xlsx(
    path: Path, names: Sequence[str], stream: Iterable[Row], tally: _Tally, facts: Sequence[tuple[str, Cell]]
) -> None:
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
    for line in _summary(facts, tally, names):
        summary.append([_excel(value, _Tally()) for value in line])
    book.save(path)


def _append_rows(sheet: Any, names: Sequence[str], stream: Iterable[Row], tally: _Tally) -> None:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font, PatternFill

    fills = {
        str(flag): PatternFill("solid", fgColor=_CLEAN_COLOUR if flag is Flag.CLEAN else _OTHER_COLOUR) for flag in Flag
    }

    def cell(value: Cell, **style: Any) -> Any:
        made = WriteOnlyCell(sheet, value)
        for name, look in style.items():
            setattr(made, name, look)
        return made

    sheet.append([cell(name, font=Font(bold=True)) for name in names])
    for row in stream:
        if tally.rows >= EXCEL_ROWS:
            raise InputError(f"Excel holds {EXCEL_ROWS - 1:,} tasks and there are more. Export csv or jsonl instead.")
        values = [_excel(row[name], tally) for name in names]
        fill = fills.get(str(row["flag"]))
        sheet.append([cell(value, fill=fill) for value in values] if fill else values)


def _excel(value: Cell, tally: _Tally) -> Cell:
    """Return `value` as Excel can hold it: without control characters, not as a formula, not too long."""
    if not isinstance(value, str):
        return value
    legal = _ILLEGAL.sub("", value)
    # A NUL in front counts although it is taken out: what follows it must not become a formula.
    text = f"'{legal}" if _is_formula(value) or _is_formula(legal) else legal
    tally.escaped += text is not legal
    units = text.encode("utf-16-le")
    if len(units) <= 2 * EXCEL_CELL:
        return text
    tally.cut += 1
    note = f" [cut: {len(value):,} characters; csv and jsonl have them all]"
    return units[: 2 * (EXCEL_CELL - len(note))].decode("utf-16-le", "ignore") + note


def _facts(project: Project, store: Store, *, clean_only: bool, now: datetime) -> list[tuple[str, Cell]]:
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
    ]


def _summary(facts: Sequence[tuple[str, Cell]], tally: _Tally, names: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
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
        number = name.removeprefix("llm_label_r")
        yield (name, MEANINGS.get(name) or f"The annotator's label of round {number}.")
