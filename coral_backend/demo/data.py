"""What does the demo label? A CSV, TSV or JSONL file, gzipped or not, of the user's or the shipped one."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from coral_backend.exceptions import InputError

SHIPPED = Path(__file__).parent / "corpus" / "customer_messages.csv"
SHIPPED_DEFINITIONS = {
    "delivery": "where an order is, getting it delivered, or how and when the shop delivers",
    "returns_refunds": "sending goods back, an exchange or a replacement, or money back for goods",
    "billing": "a charge, fee, price, discount, invoice or means of payment",
    "account_access": "getting into the account, securing it, or changing its details",
    "product_question": "size, material, use, care or availability of an item, or what a plan contains",
    "app_bug": "a malfunction of the app or the web site",
    "cancellation": "ending, pausing, skipping or downgrading a plan or an order",
}
"""One line a topic, as the corpus's README defines them; shown in Label Studio and told to the annotator."""

MAX_LABELS = 200
TEXT_KEY, RECORDED_KEY = "text", "recorded_label"
FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".ndjson": None}


@dataclass(frozen=True)
class Row:
    """One text of the corpus; `gold` is for the final figures only and never reaches Label Studio or the engine."""

    text: str
    gold: str | None = None
    noisy: str | None = None


@dataclass(frozen=True)
class Corpus:
    """The rows of a file and the labels they may get."""

    name: str
    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    definitions: dict[str, str]

    def tasks(self) -> list[dict[str, dict[str, str]]]:
        """Return Label Studio's tasks; the text comes first, as the Data Manager shows keys in that order."""
        return [
            {"data": {TEXT_KEY: row.text} | ({RECORDED_KEY: row.noisy} if row.noisy is not None else {})}
            for row in self.rows
        ]

    def label_config(self) -> str:
        """Return a label config of one required single choice."""
        choices = "\n".join(
            f"    <Choice value={quoteattr(label)}"
            + (f" hint={quoteattr(self.definitions[label])}" if label in self.definitions else "")
            + "/>"
            for label in self.labels
        )
        return (
            f'<View>\n  <Text name="text" value="${TEXT_KEY}"/>\n'
            '  <Choices name="label" toName="text" choice="single" showInline="true" required="true">\n'
            f"{choices}\n  </Choices>\n</View>"
        )


def shipped(rows: int | None = None) -> Corpus:
    """Return the corpus that comes with CORAL: 700 messages of customers over seven topics."""
    return load(SHIPPED, text="text", gold="topic", rows=rows, definitions=SHIPPED_DEFINITIONS)


def load(
    path: Path,
    *,
    text: str = "text",
    gold: str | None = None,
    noisy: str | None = None,
    labels: Sequence[str] = (),
    rows: int | None = None,
    definitions: dict[str, str] | None = None,
) -> Corpus:
    """Read a corpus.

    Parameters
    ----------
    text, gold, noisy : str
        Names of the columns: the text, the true label, a label that exists already (empty = none).
    labels : sequence of str
        The label set; without it, every value of the gold column, or of the noisy one if there is no gold. Spaces around
        labels do not count.
    rows : int, optional
        Take so many at random only (always the same ones, in the order of the file: files are often sorted by label).

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column, is empty, or has no or too many labels.
    """
    records = list(_records(path, [c for c in (text, gold, noisy) if c]))
    if not records:
        raise InputError(f"{path} has no rows.")
    found = tuple(Row(r[text], _stripped(r.get(gold or "")), _stripped(r.get(noisy or ""))) for r in records)
    names = tuple(labels) or _labels_of(found)
    if len(names) < 2:
        raise InputError(
            f"{path} gives {len(names)} label(s); at least two are needed. "
            "Name a column that holds labels (--gold or --noisy-labels), or list them: --labels a,b,c."
        )
    if len(names) > MAX_LABELS:
        raise InputError(
            f"{path} gives {len(names)} labels; at most {MAX_LABELS} fit a choice. Is it the right column?"
        )
    return Corpus(path.name, _some(found, rows), names, dict(definitions or {}))


def _stripped(label: str | None) -> str | None:
    return label if label is None else label.strip()


def _labels_of(rows: Sequence[Row]) -> tuple[str, ...]:
    gold = {row.gold for row in rows if row.gold}
    return tuple(sorted(gold or {row.noisy for row in rows if row.noisy}))


def _some(found: tuple[Row, ...], rows: int | None) -> tuple[Row, ...]:
    if rows is None or rows >= len(found):
        return found
    return tuple(found[i] for i in sorted(random.Random(0).sample(range(len(found)), rows)))


def _records(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    suffixes = [s for s in path.suffixes if s != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in FORMATS:
        raise InputError(f"{path.name} ends in {suffix!r}; read are {', '.join(FORMATS)}, each also with .gz.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = io.StringIO(content.decode("utf-8-sig"))
    except (OSError, EOFError, zlib.error) as error:
        packed = isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error))
        cure = "Pack it again with gzip." if packed else "Check its name and rights."
        raise InputError(f"{path} cannot be read: {error}. {cure}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    delimiter = FORMATS[suffix]
    rows = _json_lines(path, lines) if delimiter is None else _table(path, lines, delimiter)
    for record in rows:
        missing = [column for column in columns if column not in record]
        if missing:
            there = ", ".join(map(repr, record)) or "none"
            raise InputError(f"{path.name} has no column {', '.join(map(repr, missing))}; it has {there}.")
        yield {column: record[column] for column in columns}


def _table(path: Path, lines: io.StringIO, delimiter: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**27)
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        for record in reader:
            yield {str(key): value if value is not None else "" for key, value in record.items() if key is not None}
    except csv.Error as error:
        raise InputError(
            f"{path.name}, line {reader.line_num + 1}: no table ({error}). Lines must end in LF or CRLF, and a field with a "
            "line break in it stands in double quotes. Save it so, or as JSONL."
        ) from None


def _json_lines(path: Path, lines: io.StringIO) -> Iterator[dict[str, str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise InputError(f"{path.name}, line {number}: an object is needed, found {type(record).__name__}.")
            fields = {str(k): v if isinstance(v, str) else "" if v is None else str(v) for k, v in record.items()}
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path.name}, line {number}: not JSON ({error.msg}). Each line must be one object."
            ) from None
        except (RecursionError, ValueError):
            raise InputError(
                f"{path.name}, line {number}: nested too deeply, or a number of thousands of digits. Each line must be one "
                "object of texts and numbers; leave the rest out."
            ) from None
        yield fields
