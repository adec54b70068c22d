"""Which options did a project have, since when, and who chose them? Versions are only added; the newest is in force."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from coral_backend.exceptions import ConflictError
from coral_backend.store import tables as t
from coral_backend.store.engine import storable as cleaned
from coral_backend.store.store import Store

__all__ = ["OptionVersion", "history", "is_superseded", "put"]

BEFORE = "before the dashboard"
"""Who chose options that were set by ``coral connect`` or in Label Studio, as far as we know."""

AT_ONCE = "Somebody else saved the configuration at the same moment. Nothing was saved; load the page again."


@dataclass(frozen=True)
class OptionVersion:
    """One version of a project's options.

    Attributes
    ----------
    number : int
        1, 2, ...
    who, note : str
        As the person wrote them.
    created_at : float
        Seconds since the epoch.
    """

    number: int
    options: Mapping[str, Any]
    who: str
    note: str
    created_at: float


def history(store: Store, project_id: int) -> list[OptionVersion]:
    """Return all versions, the newest first."""
    c = t.option_versions.c
    query = select(c.number, c.options, c.who, c.note, c.created_at).where(c.project_id == project_id)
    with store.reading() as connection:
        return [OptionVersion(*tuple(row)) for row in connection.execute(query.order_by(c.number.desc()))]


def put(
    store: Store, project_id: int, options: Mapping[str, Any], *, who: str, note: str = "", seen: int | None = None
) -> OptionVersion:
    """Put `options` in force as a new version, and return it; options that came in another way get a version before it.

    Parameters
    ----------
    seen : int, optional
        The newest version that the person saw; with another in force nothing is written.

    Raises
    ------
    ConflictError
        If somebody else changed the options meanwhile.
    """
    before = store.project(project_id).options
    known = history(store, project_id)
    newest = known[0].number if known else 0
    if seen is not None and seen != newest:
        author = f"{known[0].who} saved version {newest}" if known else "they were reset"
        raise ConflictError(
            f"The configuration changed while you edited it: {author}, you began with version {seen}. "
            "Nothing was saved. Load the page again, look at what changed, and repeat your change."
        )
    now = time.time()
    rows = []
    if not known or dict(known[0].options) != dict(before):
        rows.append((before, BEFORE, ""))
    rows.append((options, who, note))
    values = [
        {
            "project_id": project_id, "number": newest + place, "options": dict(chosen), "who": cleaned(author),
            "note": cleaned(remark), "created_at": now,
        }
        for place, (chosen, author, remark) in enumerate(rows, 1)
    ]  # fmt: skip
    with store.writing() as connection:
        written = connection.scalar(
            select(func.max(t.option_versions.c.number)).where(t.option_versions.c.project_id == project_id)
        )
        if (written or 0) != newest:
            raise ConflictError(AT_ONCE)
        try:
            connection.execute(insert(t.option_versions), values)
        except IntegrityError:  # PostgreSQL: another transaction was quicker by a moment
            raise ConflictError(AT_ONCE) from None
        row = update(t.projects).where(t.projects.c.id == project_id)
        connection.execute(row.values(options=dict(options)))
    return history(store, project_id)[0]


def is_superseded(store: Store, project_id: int, options: Mapping[str, Any]) -> bool:
    """Say whether `options` are an older version of a project whose newest is in force.

    Label Studio repeats at every ``/setup`` what it was told when the project was connected; that is no wish to go back.
    """
    known = history(store, project_id)
    return any(dict(version.options) == dict(options) for version in known[1:])
