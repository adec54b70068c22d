"""How does an older database become today's? Functions applied once, in order; their names are kept in the database."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, Table, func, insert, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from coral_backend.store.tables import (
    batches,
    checks,
    control_labels,
    endpoints,
    metadata,
    migrations,
    opinions,
    option_versions,
    projects,
    replies,
    rounds,
    samples,
    second_looks,
    spend,
    verdicts,
)


def m001_first_tables(connection: Connection) -> None:
    """Create every table of the first version."""
    metadata.create_all(connection)


def m002_replies(connection: Connection) -> None:
    """Create what keeps an endpoint's answers, and what is known of an endpoint; a new database has both already."""
    metadata.create_all(connection, tables=[replies, endpoints])


def m003_opinions(connection: Connection) -> None:
    """Create what each annotator said, beside ``llm_labels``, which keeps what was decided."""
    opinions.create(connection, checkfirst=True)


def m004_spend(connection: Connection) -> None:
    """Create the tables of what was asked and of batches; what was spent before is not known by the request."""
    for table in (spend, batches):
        table.create(connection, checkfirst=True)


def m005_review(connection: Connection) -> None:
    """Add what review needs: who was asked for a second look, what a round was built on, whether tabs are up to date."""
    second_looks.create(connection, checkfirst=True)
    for table in (projects, rounds):
        _add_missing_columns(connection, table)


def _add_missing_columns(connection: Connection, table: Table) -> None:
    """Add the columns that an older database lacks; one made today has them all from ``m001_first_tables``."""
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in there:
            declared = CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {declared}"))


def m006_dashboard(connection: Connection) -> None:
    """Keep every version of a project's options."""
    option_versions.create(connection, checkfirst=True)


def m007_details(connection: Connection) -> None:
    """Add what was decided about the parts of a task: the labels of a set, spans, several controls."""
    _add_missing_columns(connection, verdicts)


def m008_slices(connection: Connection) -> None:
    """Add the slice of a sample, the machine's own word beside a person's, and the tasks drawn for a gold check."""
    checks.create(connection, checkfirst=True)
    for table in (samples, verdicts):
        _add_missing_columns(connection, table)


def m009_controls(connection: Connection) -> None:
    """Keep what was said of each control; a project that may have several goes on with the one that it was begun with.

    Until now the first that could be served was, which need not be the first that can be served today: so it is named. To serve
    all is another label config, and a round that asks for more: that is for somebody to decide. What Label Studio repeats of the options it was told counts as older, as after a change of theirs.
    """
    control_labels.create(connection, checkfirst=True)
    _add_missing_columns(connection, opinions)
    v = option_versions.c
    columns = (projects.c.id, projects.c.options, projects.c.label_config, projects.c.label_space)
    for row in connection.execute(select(*columns)).all():
        if row.label_config.count("toName") < 2 or "controls" in row.options:
            continue
        name = str(row.label_space.get("from_name") or "")
        can_be_named = name and name == name.strip() and "," not in name
        options = {**row.options, "controls": name if can_be_named else "first"}
        number = connection.scalar(select(func.max(v.number)).where(v.project_id == row.id)) or 0
        first = {"project_id": row.id, "who": "before CORAL served several controls", "note": ""}
        made = {"created_at": time.time()}
        versions = [
            {**first, **made, "number": number + 1, "options": row.options},
            {**first, **made, "number": number + 2, "options": options, "who": "CORAL"},
        ]
        connection.execute(insert(option_versions), versions)
        connection.execute(update(projects).where(projects.c.id == row.id).values(options=options))


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    m001_first_tables,
    m002_replies,
    m003_opinions,
    m004_spend,
    m005_review,
    m006_dashboard,
    m007_details,
    m008_slices,
    m009_controls,
)


def migrate(connection: Connection) -> list[str]:
    """Apply what is missing inside the caller's transaction, and return the names of what was applied."""
    migrations.create(connection, checkfirst=True)
    known = set(connection.scalars(select(migrations.c.name)))
    applied = []
    for step in MIGRATIONS:
        if step.__name__ not in known:
            step(connection)
            connection.execute(insert(migrations).values(name=step.__name__, applied_at=time.time()))
            applied.append(step.__name__)
    return applied
