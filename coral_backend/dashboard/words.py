"""How are numbers, times and flags written on a page?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from flask import Flask

SIGNS: Final = {"clean": "✓", "noisy": "!", "inconsistent": "≠"}
"""Each flag's sign: colour alone says nothing to who cannot see it."""

STAGES: Final = {
    "sync": "Read tasks",
    "annotate": "LLM labelling",
    "distil": "SLM training",
    "flag": "Flagging",
    "push": "Pushing",
}


def add_filters(app: Flask) -> None:
    """Make the words known to the templates."""
    app.jinja_env.filters.update(
        percent=percent, number=number, score=score, span=span, moment=moment, sign=sign, stage=stage, cell=cell
    )


def percent(share: float | None, places: int = 1) -> str:
    """Return 0.903 as ``90.3 %``; a dash for None."""
    return "–" if share is None else f"{share * 100:.{places}f} %"


def number(value: Any) -> str:
    """Return 12345 as ``12,345``; a dash for None."""
    return "–" if value is None else f"{value:,}"


def score(value: float | None) -> str:
    """Return a probability with three places; nothing for None."""
    return "" if value is None else f"{value:.3f}"


def span(seconds: float | None) -> str:
    """Return 4000 seconds as ``1 h 7 min``."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(at: float | None) -> str:
    """Return seconds since the epoch as a date and time in UTC."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def sign(flag: str | None) -> str:
    """Return a flag's sign."""
    return SIGNS.get(str(flag), "·")


def stage(name: str) -> str:
    """Return what a person calls a stage."""
    return STAGES.get(str(name), str(name))


def cell(value: Any) -> str:
    """Return a setting as one line."""
    if value is None or value == "":
        return "–"
    return " ".join(str(value).split())
