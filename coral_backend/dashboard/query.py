"""What does the address of the table ask for? Read and checked in one place, and written back into links."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from coral_backend.exceptions import InputError
from coral_backend.labels import MULTIPLE, SINGLE, SPANS
from coral_backend.store import browse

__all__ = ["SIZES", "Asked"]

SIZES: Final = (25, 50, 100, 200)
MAX_PAGE = 1_000_000
MAX_WORDS = 200
MAX_CORNERS = 120

CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "flag": browse.FLAGS,
    "human": ("yes", "no"),
    "agree": ("yes", "no"),
    "wrong": ("llm", "slm"),
    "dir": ("asc", "desc"),
    "sort": browse.SORTS,
}
"""Parameters that have one of a few values."""

NO_LABEL = "(none)"
"""Asks for tasks without a label."""

LABELLED: Final = ("label", "llm", "slm", "human_label")

KNOWN: Final = (
    "contains", *LABELLED, *CHOICES, "at_least", "at_most", "page", "size", "round", "area", "area_round", "area_control"
)  # fmt: skip
"""Every other parameter is ignored."""


@dataclass(frozen=True)
class Asked:
    """A checked request for lines of the table.

    Attributes
    ----------
    given : mapping of str to str
        The parameters as they were given, without empty ones.
    area : list of int
        Corners x1, y1, x2, y2, ... of a set drawn on the map; empty without one.
    """

    given: Mapping[str, str]
    sort: str
    descending: bool
    page: int
    size: int
    area: list[int]

    @classmethod
    def read(cls, args: Mapping[str, str]) -> Asked:
        """Read the parameters of a request.

        Raises
        ------
        InputError
            For the first that has a value it cannot have; the message says which it can.
        """
        given = {name: args[name] for name in KNOWN if args.get(name)}
        for name, allowed in CHOICES.items():
            if name in given and given[name] not in allowed:
                raise InputError(f"{name} is {given[name][:40]!r}. Allowed: {', '.join(allowed)}.")
        for name in LABELLED:
            if name in given and len(given[name]) > 1000:
                raise InputError(f"{name} is no label: it has {len(given[name]):,} characters.")
        if len(given.get("contains", "")) > MAX_WORDS:
            raise InputError(f"The text to look for has {len(given['contains'])} characters; at most {MAX_WORDS}.")
        size = _whole(given, "size", 50)
        if size not in SIZES:
            raise InputError(f"size is {size}. Allowed: {', '.join(map(str, SIZES))}.")
        page = _whole(given, "page", 1)
        if not 1 <= page <= MAX_PAGE:
            raise InputError(f"page is {page}; the first is 1.")
        for name in ("at_least", "at_most"):
            _share(given, name)
        descending = given.get("dir", "asc") == "desc"
        return cls(given, given.get("sort", "rank"), descending, page, size, _area(given.get("area", "")))

    @property
    def offset(self) -> int:
        """Return how many lines lie before the page."""
        return (self.page - 1) * self.size

    @property
    def area_round(self) -> str | None:
        """Return the round on whose map the set was drawn, if it is said."""
        return self.given.get("area_round")

    @property
    def narrowed(self) -> bool:
        """Whether anything is filtered."""
        return bool(set(self.given) - {"sort", "dir", "page", "size", "round", "area_round", "area_control"})

    def get(self, name: str) -> str:
        """Return a parameter for its control; empty when it was not given."""
        return self.given.get(name, "")

    def filters(
        self,
        task_ids: Sequence[int] | None,
        *,
        parts: Mapping[str, str] | None = None,
        kind: str = SINGLE,
        rows: bool = False,
    ) -> browse.Filters:
        """Return what the lines must be like; see ``browse.Filters``. `kind` is that of the control, where there is one."""
        label = {
            name: "" if self.given[name] == NO_LABEL else self.given[name] for name in LABELLED if name in self.given
        }
        plain = {name: self.given.get(name) for name in ("contains", "flag", "human", "agree", "wrong")}
        bounds = {name: _share(self.given, name) for name in ("at_least", "at_most")}
        more: dict[str, Any] = {
            "task_ids": task_ids, "parts": parts, "sets": kind == MULTIPLE, "spans": kind == SPANS, "rows": rows
        }  # fmt: skip
        return browse.Filters(**plain, **label, **bounds, **more)  # type: ignore[arg-type]

    def link(self, **changes: Any) -> dict[str, Any]:
        """Return the parameters of a link that differs in `changes`; None takes one away. A change begins at page 1."""
        kept = {name: value for name, value in self.given.items() if name != "page"}
        return {name: value for name, value in {**kept, **changes}.items() if value is not None}

    def by(self, column: str) -> dict[str, Any]:
        """Return the parameters that sort by `column`, the other way round if it is sorted so already."""
        turned = self.sort == column and not self.descending
        return self.link(sort=column, dir="desc" if turned else None)


def _whole(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"{name} is {text[:40]!r}; it must be a whole number.")
    return int(text)


def _share(given: Mapping[str, str], name: str) -> float | None:
    if name not in given:
        return None
    try:
        value = float(given[name])
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {given[name][:40]!r}; it must be a number from 0 to 1.")
    return value


def _area(text: str) -> list[int]:
    if not text:
        return []
    numbers = text.split(",")
    if len(numbers) % 2 or not 6 <= len(numbers) <= 2 * MAX_CORNERS:
        raise InputError(f"area has {len(numbers)} numbers; it must be x,y,x,y,... of 3 to {MAX_CORNERS} corners.")
    if not all(number.isascii() and number.isdigit() and len(number) <= 5 for number in numbers):
        raise InputError("area must be whole numbers from 0 to 65535, as the map writes them.")
    return [int(number) for number in numbers]
