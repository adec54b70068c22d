"""A real PostgreSQL for the tests: a server of our own from the machine's binaries, on a socket in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

STARTS_WITHIN = 60.0
"""Seconds; a busy machine takes some."""


def binaries() -> Path:
    """Return the folder of the server's binaries; without them skip the test, or in CI fail it."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    if found := Path(on_path) if on_path else next(reversed(debian), None):
        return found.parent
    message = "no PostgreSQL server: on Debian `apt-get install postgresql`, or put its initdb on the PATH."
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Start a server and return the URL of its only database; it ends with the tests, however they end."""
    programs, user = binaries(), _owner()
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:  # a socket's path must be short
        folder = Path(name)
        if os.getuid() == 0:
            shutil.chown(folder, user)
        how = ["--username", "coral", "--auth", "trust", "--encoding", "UTF8", "--no-sync"]
        made = _as(user, programs / "initdb", "--pgdata", folder / "data", *how)
        subprocess.run(made, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            command = _as(user, programs / "postgres", "-D", folder / "data", *options)
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            _wait(server, folder)
            yield f"postgresql://coral@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def empty_postgres(postgres_server: str) -> str:
    """Return the URL of a database without a table."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres_server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'coral.sqlite3'}"
    made: str = request.getfixturevalue("empty_postgres")
    return made


def _owner() -> str:
    """Return who the server runs as: it refuses to be root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _as(user: str, *command: str | Path) -> list[str]:
    """Return `command` run by `user`, and ended with this process; SIGQUIT is the server's word for at once."""
    change = ["--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *change, "--pdeathsig", "QUIT", *map(str, command)]


def _wait(server: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and server.poll() is None:
        try:
            psycopg.connect(f"postgresql://coral@/postgres?host={folder}").close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text(errors='replace')[-2000:]}")
