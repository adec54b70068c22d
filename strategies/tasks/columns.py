"""What are the columns of a table about, and how is a row told to somebody who has never seen the table?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["COLUMN_KINDS", "Column", "cells", "shown"]

COLUMN_KINDS = ("numeric", "categorical")
"""What a column may hold: amounts, or names of which none is more than another (codes and postcodes too)."""


@dataclass(frozen=True)
class Column:
    """What a task strategy says of one column.

    Attributes
    ----------
    description : str
        What it means; may be empty.
    unit : str
        What its numbers count; may be empty.
    kind : str
        Of ``COLUMN_KINDS``; empty where the small model shall find out.
    """

    description: str = ""
    unit: str = ""
    kind: str = ""

    @property
    def about(self) -> str:
        """Description and unit, as they stand behind the name."""
        return ", ".join(part for part in (self.description, f"in {self.unit}" if self.unit else "") if part)


def shown(text: str, columns: Mapping[str, Column]) -> str:
    """Return a row, which is a JSON object, as lines of ``name (description, in unit): value``; what is no row, as it is.

    Parameters
    ----------
    columns : mapping of str to Column
        The columns to tell of, in their order; empty for all that the row has. A row that lacks one is told to lack its value.

    Examples
    --------
    >>> print(shown('{"age": 41, "job": null}', {"job": Column(), "age": Column("of the patient", "years", "numeric")}))
    job: missing
    age (of the patient, in years): 41
    """
    row = _row(text)
    if row is None:
        return text
    told = columns or dict.fromkeys(row, Column())
    return "\n".join(_line(name, column, row.get(name)) for name, column in told.items())


def cells(text: str) -> list[tuple[str, str]]:
    """Return the name and the value of each column of a row, without line breaks; nothing of what is no row."""
    return [(_name(name), _said(value)) for name, value in (_row(text) or {}).items()]


def _row(text: str) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _line(name: str, column: Column, value: Any) -> str:
    about = f" ({column.about})" if column.about else ""
    return f"{_name(name)}{about}: {_said(value)}"


def _name(name: str) -> str:
    return " ".join(name.split())


def _said(value: Any) -> str:
    said = value if isinstance(value, str) else "missing" if value is None else json.dumps(value)
    return " ".join(said.split()) or "missing"
