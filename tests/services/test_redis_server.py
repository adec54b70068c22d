"""Our own redis-server: private, persistent, shared, and never left behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coral_backend.exceptions import QueueUnavailableError
from coral_backend.services import redis_server
from coral_backend.services.redis_server import RedisServer, find_binary

ROOT = Path(__file__).resolve().parents[2]

OWNER = """
import sys, time
from pathlib import Path
from coral_backend.services.redis_server import RedisServer
server = RedisServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "coral") as server:
        yield server


def client_of(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def wait_until(condition: Callable[[], Any]) -> Any:
    """Return the condition's first true value; the suite's timeout ends a wait in vain."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


def test_it_answers_at_the_address_that_it_writes_down(server: RedisServer) -> None:
    written = server.data_dir / "redis.url"
    assert written.read_text() == server.url + "\n"
    with redis.Redis.from_url(written.read_text().strip()) as client:
        assert client.ping()


def test_only_its_owner_can_reach_it(server: RedisServer) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    for name in (server.data_dir / "redis.url", server.folder / "redis.conf", server.folder / "redis.log"):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600
    with client_of(server) as client:
        assert client.config_get("port")["port"] == "0"


def test_it_refuses_rather_than_forgets_and_writes_everything_down(server: RedisServer) -> None:
    with client_of(server) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendonly")["appendonly"] == "yes"


def test_what_it_holds_survives_a_stop_and_a_kill(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    with client_of(server) as client:
        client.set("kept", "1")
    server.stop()
    assert not server.ping()

    server.start()
    pid = server.pid
    assert pid is not None
    with client_of(server) as client:
        assert client.get("kept") == b"1"
        client.set("kept too", "1")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.pid not in (None, pid) and server.ping())
    with client_of(server) as client:
        assert client.get("kept too") == b"1"
    server.stop()


def test_a_second_start_uses_the_first_server(server: RedisServer) -> None:
    with RedisServer(server.data_dir) as second:
        assert (second.owned, second.url, second.ping()) == (False, server.url, True)
    assert server.ping()  # the guest's stop does not end it


def test_a_guest_goes_on_when_the_owner_ends(tmp_path: Path) -> None:
    owner, guest = RedisServer(tmp_path), RedisServer(tmp_path)
    owner.start()
    guest.start()
    with client_of(owner) as client:
        client.set("kept", "1")
    owner.stop()
    wait_until(lambda: guest.owned)
    with client_of(guest) as client:
        assert client.get("kept") == b"1"
    guest.stop()
    assert not guest.ping()


def test_a_killed_owner_leaves_neither_server_nor_obstacle(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        first = int(owner.stdout.readline())
        owner.kill()
    with RedisServer(tmp_path) as server:  # socket, lock file and log of the first are still there
        assert server.owned
        assert server.pid != first
        assert server.ping()
    wait_until(lambda: not Path(f"/proc/{first}").exists() or " Z " in Path(f"/proc/{first}/stat").read_text())


@pytest.mark.parametrize("name", ["with space", 'quo"te', "per%20cent", "ü?#", "x" * 120])
def test_any_folder_will_do(name: str, tmp_path: Path) -> None:
    with RedisServer(tmp_path / name) as server:
        assert len(os.fsencode(server.socket)) <= 107
        with client_of(server) as client:
            client.set("kept", "1")
        assert list((tmp_path / name / "redis").glob("appendonly*"))
    if len(name) > 100:
        server.socket.parent.rmdir()


def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    planted = tmp_path / "planted"
    planted.symlink_to(elsewhere)
    monkeypatch.setattr(redis_server, "_socket_path", lambda _folder: planted / "redis.sock")
    with pytest.raises(QueueUnavailableError, match=r"planted must be a folder of the user"):
        RedisServer(tmp_path / "coral").start()


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "CONFIG", "no-such-directive {socket} {folder}\n")
    server = RedisServer(tmp_path)
    with pytest.raises(QueueUnavailableError, match="no-such-directive"):
        server.start()
    monkeypatch.undo()
    with server:  # the failed start holds no lock
        assert server.ping()


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ("Redis server v=7.2.11 sha=0", True),
        ("Valkey server v=8.1.4 sha=0", True),
        ("Redis server v=7.0.15 sha=0", False),
        ("something else", False),
    ],
)
def test_the_machines_own_server_is_taken_if_it_is_recent(
    told: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text(f"#!/bin/sh\necho '{told}'\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (find_binary() == binary) is taken


def test_no_server_at_all_is_told_with_three_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(QueueUnavailableError, match=r"Install Redis or Valkey, or .* or set REDIS_URL"):
        find_binary()
