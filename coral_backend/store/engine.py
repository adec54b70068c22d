"""How is the database opened? SQLite (WAL) or PostgreSQL behind one SQLAlchemy engine."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from coral_backend.exceptions import SettingsError

BUSY_SECONDS = 30.0
"""How long a writer waits for another before SQLite gives up."""

WAL_PAGES = 10_000
"""Pages (40 MB) after which SQLite moves its log into the file, while the writer waits for the disk. With SQLite's own 1,000
that is every 200 answers of an LLM."""


def open_engine(url: str) -> Engine:
    """Return an engine for `url`; SQLite's folder is made, with access for its owner only.

    Raises
    ------
    SettingsError
        If `url` is no SQLAlchemy URL of SQLite or PostgreSQL. The URL itself is not shown: it may hold a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError("DATABASE_URL cannot be parsed. Example: postgresql://user:password@host/coral.") from None
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(url, parsed.database)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, hide_parameters=True)
    raise SettingsError(f"DATABASE_URL names {parsed.get_backend_name()!r}; CORAL works with sqlite and postgresql.")


def _open_sqlite(url: str, database: str | None) -> Engine:
    if not database or database == ":memory:":
        raise SettingsError("DATABASE_URL names an SQLite database in memory; web and worker need a file.")
    Path(database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling is switched off; _begin_sqlite does it.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"wal_autocheckpoint={WAL_PAGES}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A writer that begins as a reader cannot wait for another writer (SQLITE_BUSY_SNAPSHOT): it must say so at once.
    writes = connection.get_execution_options().get("coral_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def move_log(engine: Engine) -> None:
    """Move SQLite's log into the file, as far as nobody reads from it; it holds up nobody, and what fails is tried again later."""
    with suppress(SQLAlchemyError, sqlite3.Error), engine.connect() as connection:
        connection.connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")


def storable(text: str | None) -> str | None:
    """Make a text storable everywhere: PostgreSQL takes no NUL, neither database a lone surrogate."""
    return None if text is None else text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
