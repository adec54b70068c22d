"""Does our own Label Studio start again on its data, listen on loopback only, keep its secrets, and leave nothing behind?"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coral_backend.exceptions import ConflictError, LabelStudioError
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.services.label_studio_server import LabelStudioServer
from tests.label_studio_fixture import ROOT, LabelStudioUnderTest, label_studio_venv

EMAIL = "tester@example.com"


def listeners(port: int) -> set[str]:
    """Return the local addresses (hexadecimal, as the kernel writes them) that listen on `port`."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.rpartition(":")[2], 16) == port:
                found.add(address.rpartition(":")[0])
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_listens_on_loopback_only(label_studio_server: LabelStudioServer) -> None:
    assert label_studio_server.url.startswith("http://127.0.0.1:")
    assert listeners(int(label_studio_server.url.rpartition(":")[2])) == {"0100007F"}


def test_its_secrets_are_in_one_file_only(label_studio: LabelStudioUnderTest) -> None:
    server = label_studio.server
    kept = server.data_dir / "credentials.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert json.loads(kept.read_text())["token"] == label_studio.token
    assert stat.S_IMODE(server.log_file.stat().st_mode) == 0o600
    command = Path(f"/proc/{server.pid}/cmdline").read_text()
    log = server.log_file.read_text(errors="replace")
    for secret in (server.password, label_studio.token):
        assert secret not in command
        assert secret not in log


def test_the_token_is_made_once(label_studio: LabelStudioUnderTest) -> None:
    assert label_studio.server.api_token() == label_studio.token


def test_two_servers_on_one_folder_are_refused(label_studio_server: LabelStudioServer) -> None:
    other = LabelStudioServer(label_studio_server.venv, label_studio_server.data_dir, email=EMAIL)
    with pytest.raises(ConflictError, match="already runs"):
        other.start()
    assert other.pid is None


def test_a_second_start_goes_on_with_the_data(
    label_studio: LabelStudioUnderTest, label_studio_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = label_studio.new_project(["made after the copy"])
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-the-parent")
    monkeypatch.setenv("LABEL_STUDIO_PORT", "1")
    kept = json.loads((label_studio_copy / "credentials.json").read_text())
    kept.pop("token")  # Label Studio tells a token once only: a lost one is made anew
    (label_studio_copy / "credentials.json").write_text(json.dumps(kept))
    with LabelStudioServer(label_studio_venv(), label_studio_copy, email=EMAIL) as server:
        pid = server.pid
        assert pid is not None
        assert server.password == label_studio.server.password
        assert server.url != label_studio.url
        assert b"canary-of-the-parent" not in Path(f"/proc/{pid}/environ").read_bytes()
        with LabelStudioClient(server.url, server.api_token()) as client:
            assert client.whoami()["email"] == EMAIL
            assert project not in [found["id"] for found in client.projects()]
        wrong = LabelStudioServer(server.venv, server.data_dir, email=EMAIL, password="not the one")
        wrong._port = server._port
        wrong._kept.pop("token")
        with pytest.raises(LabelStudioError, match="refuses the login") as caught:
            wrong.api_token()
        assert "not the one" not in str(caught.value)
    assert not alive(pid)
    assert server.pid is None
    server.stop()


def test_a_crash_of_the_parent_leaves_nothing_behind(label_studio_copy: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from coral_backend.services.label_studio_server import LabelStudioServer\n"
        f"s = LabelStudioServer(Path(sys.argv[1]), Path(sys.argv[2]), email={EMAIL!r})\n"
        "s.start(); s.wait_ready(); print(s.pid, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(label_studio_venv()), str(label_studio_copy)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_an_end_while_starting_is_told_with_the_log(tmp_path: Path) -> None:
    server = LabelStudioServer(
        label_studio_venv(), tmp_path, email=EMAIL, password="canary-word", env={"LABEL_STUDIO_DJANGO_DB": "nonsense"}
    )
    with pytest.raises(LabelStudioError, match=r"ended while it started.*nonsense") as caught, server:
        pytest.fail("it started")
    assert "canary-word" not in str(caught.value)
    assert server.pid is None


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LabelStudioError, match=f"Port {port} is taken"):
            LabelStudioServer(label_studio_venv(), tmp_path, port).start()


def test_an_environment_without_label_studio_is_told(tmp_path: Path) -> None:
    server = LabelStudioServer(tmp_path / "venv", tmp_path / "data")
    with pytest.raises(LabelStudioError, match="No Label Studio in"):
        server.start()
    with pytest.raises(LabelStudioError, match="no address"):
        _ = server.url


def test_a_made_password_survives(tmp_path: Path) -> None:
    first = LabelStudioServer(tmp_path / "venv", tmp_path / "data", email="a@b.co")
    first._keep(password=first.password)
    assert LabelStudioServer(tmp_path / "venv", tmp_path / "data", email="a@b.co").password == first.password
    assert LabelStudioServer(tmp_path / "venv", tmp_path / "data", email="c@d.co").password != first.password
    assert len(first.password) >= 16
    assert os.access(first.data_dir, os.W_OK)
