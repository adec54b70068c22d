"""The supervisor with real processes: order, readiness, restarts, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coral_backend.exceptions import UnavailableError
from coral_backend.services import processes
from coral_backend.services.processes import Process, Supervisor, free_port

ROOT = Path(__file__).resolve().parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path) as supervisor:
        yield supervisor


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until(condition: Callable[[], Any]) -> Any:
    """Return the condition's first true value; the suite's timeout ends a wait in vain."""
    while not (value := condition()):
        time.sleep(0.02)
    return value


def gone(pid: int) -> bool:
    """Whether `pid` is dead; one that nobody has reaped yet counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_start_waits_until_the_process_is_ready(supervisor: Supervisor, tmp_path: Path) -> None:
    mark = tmp_path / "ready"
    code = f"import pathlib, time; time.sleep(0.3); pathlib.Path({str(mark)!r}).touch(); time.sleep(600)"
    supervisor.start(Process(name="slow", command=python(code), ready=mark.exists))
    assert mark.exists()
    assert supervisor.running("slow")


def test_the_output_goes_into_a_log_that_only_the_owner_reads(supervisor: Supervisor) -> None:
    code = "import sys, time; print('out', flush=True); print('err', file=sys.stderr, flush=True); time.sleep(600)"
    supervisor.start(Process(name="talker", command=python(code)))
    log = supervisor.log_file("talker")
    wait_until(lambda: log.read_text().count("\n") == 2)
    assert sorted(log.read_text().split()) == ["err", "out"]
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_process_that_ends_before_it_is_ready_is_an_error_with_its_last_words(supervisor: Supervisor) -> None:
    process = Process(name="broken", command=python("raise SystemExit('no such database')"), ready=lambda: False)
    with pytest.raises(UnavailableError, match=r"broken ended before it was ready.*broken\.log.*no such database"):
        supervisor.start(process)
    assert not supervisor.running("broken")


def test_last_words_show_no_secret(supervisor: Supervisor) -> None:
    process = Process(name="broken", command=python("raise SystemExit('password=hunter2')"), ready=lambda: False)
    with pytest.raises(UnavailableError) as caught:
        supervisor.start(process)
    assert "hunter2" not in str(caught.value)


def test_a_process_that_is_not_ready_in_time_is_stopped(supervisor: Supervisor) -> None:
    pids: list[int] = []

    def ready() -> bool:
        pids.append(supervisor.pid("never") or 0)
        return False

    with pytest.raises(UnavailableError, match="never was not ready in 0 s"):
        supervisor.start(Process(name="never", command=SLEEP, ready=ready, ready_seconds=0.2))
    assert gone(pids[0])


def test_a_command_that_does_not_exist_is_told(supervisor: Supervisor) -> None:
    with pytest.raises(UnavailableError, match="nonesuch cannot be started: No such file"):
        supervisor.start(Process(name="x", command=["nonesuch"], ready=lambda: False))


def test_a_name_is_given_once(supervisor: Supervisor) -> None:
    supervisor.start(Process(name="one", command=SLEEP))
    with pytest.raises(ValueError, match="'one' is supervised already"):
        supervisor.start(Process(name="one", command=SLEEP))


def test_a_process_that_dies_comes_back(supervisor: Supervisor) -> None:
    supervisor.start(Process(name="phoenix", command=SLEEP))
    first = supervisor.pid("phoenix")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    second = wait_until(lambda: supervisor.pid("phoenix") not in (None, first) and supervisor.pid("phoenix"))
    assert second != first


def test_a_process_that_dies_at_once_is_started_ever_more_slowly(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FIRST_BACKOFF", 0.01)
    supervisor.start(Process(name="hopeless", command=python("print('again', flush=True)")))
    wait_until(lambda: supervisor.log_file("hopeless").read_text().count("again") >= 3)
    assert supervisor._children["hopeless"].deaths >= 2


def test_processes_end_in_the_reverse_of_their_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    open(sys.argv[1], 'a').write(sys.argv[2] + ' ')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    with Supervisor(tmp_path) as supervisor:
        for name in ("first", "second", "third"):
            log = supervisor.log_file(name)
            supervisor.start(Process(name=name, command=[*python(code), str(order), name]))
            wait_until(log.read_text)
    assert order.read_text().split() == ["third", "second", "first"]


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Process(name="stubborn", command=python(code), grace_seconds=0.2))
        child = int(wait_until(lambda: supervisor.log_file("stubborn").read_text().strip()))
        pid = supervisor.pid("stubborn")
    assert pid is not None
    assert gone(pid)
    wait_until(lambda: gone(child))


SUPERVISED = """
import signal, sys, time
from pathlib import Path
from coral_backend.services.processes import Process, Supervisor, stop_on_signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background has it ignored
stop_on_signals()
try:
    with Supervisor(Path(sys.argv[1])) as supervisor:
        for name in ("a", "b"):
            supervisor.start(Process(name=name, command=[sys.executable, "-c", "import time; time.sleep(600)"]))
        print(supervisor.pid("a"), supervisor.pid("b"), flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_the_supervisor_ends_its_processes(signum: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUPERVISED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.send_signal(signum)
        rest = owner.stdout.read()
    wait_until(lambda: all(map(gone, pids)))
    assert rest == ("" if signum == signal.SIGKILL else "stopped\n")


def test_nothing_is_started_after_the_stop(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.stop()
    with pytest.raises(UnavailableError, match="is stopping"):
        supervisor.start(Process(name="late", command=SLEEP))


def test_free_port_can_be_bound() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
