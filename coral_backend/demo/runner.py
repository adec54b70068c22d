"""What does ``coral demo`` do? Starts every part on loopback, labels a corpus in a real Label Studio, says what came out.

All of it lives in one folder; a second start goes on with what is there, and the end of this process is the end of all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from coral_backend.connect import connect
from coral_backend.demo import report
from coral_backend.demo.data import RECORDED_KEY, Corpus, load, shipped
from coral_backend.exceptions import ConflictError, CoralError, UnavailableError
from coral_backend.follow import bars, follow
from coral_backend.jobs import request_advance, request_round
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.services.label_studio_server import LabelStudioServer
from coral_backend.services.processes import Supervisor, free_port, stop_on_signals
from coral_backend.services.redis_server import RedisServer
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Project, Round, RoundStatus
from coral_backend.up import start_processes

__all__ = ["DemoOptions", "run_demo"]

STATE_FILE = "demo.json"
ENV_FILE = "env"
HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class DemoOptions:
    """What the user asked for.

    Attributes
    ----------
    data : Path or None
        A CSV, TSV or JSONL of the user's; None takes the shipped messages.
    text, gold, noisy_labels : str
        Names of columns.
    labels : tuple of str
        The label set; empty takes it from the columns.
    rows : int or None
        Only so many rows, chosen at random.
    once : bool
        End after the round instead of staying up.
    json_path : Path or None
        Where the figures go.
    folder : Path
        Everything the demo keeps.
    label_studio_venv : Path
        The environment of Label Studio.
    """

    data: Path | None = None
    text: str = "text"
    gold: str | None = None
    noisy_labels: str | None = None
    labels: tuple[str, ...] = ()
    rows: int | None = None
    once: bool = False
    json_path: Path | None = None
    folder: Path = Path(".coral/demo")
    label_studio_venv: Path = field(default_factory=lambda: REPOSITORY / ".venv-labelstudio")


@dataclass
class Parts:
    """What runs while the demo does."""

    settings: Settings
    store: Store
    client: LabelStudioClient
    label_studio: LabelStudioServer
    supervisor: Supervisor


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """Run the demo and return the exit code: 0 when the round is done and pushed."""
    console = console or Console(stderr=True)
    corpus = _corpus(options)
    stop_on_signals()
    clock = Stopwatch()
    try:
        with ExitStack() as stack:
            with clock("start"):
                parts = _start(options, stack, console)
            with clock("import"):
                project, gold = _project(parts, corpus, options, console)
            current = _round(parts, project, console)
            clock.stop()
            figures = report.figures(parts.store, parts.client, current, gold, clock.seconds)
            _say(options, parts, project, figures, console)
            if not options.once:
                _stay(parts, console)
    except KeyboardInterrupt:
        console.print("\nStopped; `make demo` goes on from here.")
        return 130 if options.once else 0
    except CoralError as error:
        console.print(f"[red]{type(error).__name__}[/]: {error}", highlight=False)
        return 1
    return 0


class Stopwatch:
    """Seconds of each named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)

    def stop(self) -> None:
        """Note the seconds since the beginning as ``total``."""
        self.seconds["total"] = round(time.monotonic() - self._began, 3)


def _corpus(options: DemoOptions) -> Corpus:
    if options.data is None:
        if options.noisy_labels or options.labels:
            raise ConflictError("--noisy-labels and --labels describe a file of yours: name it with --data.")
        return shipped(rows=options.rows)
    return load(
        options.data,
        text=options.text,
        gold=options.gold,
        noisy=options.noisy_labels,
        labels=options.labels,
        rows=options.rows,
    )


# --- parts --------------------------------------------------------------------------------------------------------


def _start(options: DemoOptions, stack: ExitStack, console: Console) -> Parts:
    """Start Redis, Label Studio, the web process and a worker; the `stack` ends them in reverse."""
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    supervisor = stack.enter_context(Supervisor(folder / "logs"))
    with bars(console) as display:
        line = display.add_task("Starting", total=4, note="Redis")
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        display.update(line, advance=1, note="Label Studio (a first start takes a minute)")
        label_studio = LabelStudioServer(options.label_studio_venv, folder / "label-studio")
        stack.callback(label_studio.stop)
        label_studio.start()
        label_studio.wait_ready()
        display.update(line, advance=1, note="web")
        settings, env = _environment(folder, label_studio)
        port = int(settings.public_url.rpartition(":")[2])
        start_processes(
            supervisor, settings, HOST, port, env=env, tell=lambda _: display.update(line, advance=1, note="worker")
        )
        display.update(line, note="")
    store = Store(settings.store_url)
    stack.callback(store.close)
    client = LabelStudioClient(label_studio.url, label_studio.api_token())
    return Parts(settings, store, client, label_studio, supervisor)


def _environment(folder: Path, label_studio: LabelStudioServer) -> tuple[Settings, dict[str, str]]:
    """Return the settings of this demo and the environment that gives them to its processes."""
    own = {
        "MODEL_DIR": str(folder),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.api_token(),
        "CORAL_PUBLIC_URL": f"http://{HOST}:{_port(folder)}",
    }
    _write_env(folder / ENV_FILE, own)
    mine = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL")}
    env = {**mine, **own}
    return Settings.load(env), env


def _write_env(path: Path, own: Mapping[str, str]) -> None:
    """Write what makes ``coral round`` and the others work on the demo: ``. .coral/demo/env``. It holds the token."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"export {key}={shlex.quote(value)}\n" for key, value in own.items())


def _port(folder: Path) -> int:
    """Return the web process's port of the last start if it is free: Label Studio knows the backend by its address."""
    kept = folder / "web.port"
    port = int(kept.read_text()) if kept.exists() else free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            port = free_port()
    kept.write_text(str(port))
    return port


# --- project ------------------------------------------------------------------------------------------------------


def _project(parts: Parts, corpus: Corpus, options: DemoOptions, console: Console) -> tuple[Project, dict[int, str]]:
    """Return the project of this corpus, made and connected when it is not there, and the gold label of each task."""
    state_file = options.folder / STATE_FILE
    state = json.loads(state_file.read_text()) if state_file.exists() else {}
    key = _fingerprint(corpus)
    entry = state.get(key)
    if entry is None:
        entry = _import(parts, corpus, console)
        state_file.write_text(json.dumps({**state, key: entry}))
    project_id, task_ids = int(entry["project"]), [int(i) for i in entry["tasks"]]
    _connect(parts, project_id, recorded=any(row.noisy is not None for row in corpus.rows))
    gold = {task_id: row.gold for task_id, row in zip(task_ids, corpus.rows, strict=True) if row.gold}
    return parts.store.project(project_id), gold


def _import(parts: Parts, corpus: Corpus, console: Console) -> dict[str, Any]:
    title = f"CORAL demo: {corpus.name}"[:50]
    made = parts.client.create_project(title, corpus.label_config(), description=INSTRUCTION)
    tasks = corpus.tasks()
    with bars(console) as display:
        line = display.add_task("Importing", total=len(tasks), note="")
        ids = parts.client.import_tasks(
            int(made["id"]), tasks, lambda done, total, _: display.update(line, completed=done, total=total)
        )
    return {"project": int(made["id"]), "tasks": ids}


INSTRUCTION = (
    "Made by coral demo. Open the tab Noisy or Inconsistent and choose 'Label Tasks As Displayed' beside the big button: "
    "the most doubtful task comes first."
)


def _connect(parts: Parts, project_id: int, *, recorded: bool) -> None:
    options = {"annotator": "recorded", "recorded_key": RECORDED_KEY} if recorded else {}
    connect(parts.store, parts.settings, parts.client, project_id, options=options)


def _fingerprint(corpus: Corpus) -> str:
    facts = [[row.text, row.noisy] for row in corpus.rows]
    return hashlib.sha256(json.dumps([corpus.name, corpus.labels, facts]).encode()).hexdigest()[:16]


# --- round --------------------------------------------------------------------------------------------------------


def _round(parts: Parts, project: Project, console: Console) -> Round:
    """Return the round that serves; run the first one, or one that was interrupted, to its end."""
    active = parts.store.active_round(project.id)
    if active is None and project.active_round is not None:
        console.print(f"Round {parts.store.round(project.active_round).name} is there already.")
        return parts.store.round(project.active_round)
    if active is None:
        active = request_round(parts.settings, parts.store, project.id)
    elif active.status is RoundStatus.PAUSED:
        parts.store.set_round_status(active.id, RoundStatus.PENDING)
    request_advance(parts.settings, active.id, stage=active.stage)
    done = follow(parts.store, active.id, console)
    if done.status is not RoundStatus.DONE:
        raise UnavailableError(f"Round {done.name} is {done.status}: {done.error}")
    return done


# --- the end ------------------------------------------------------------------------------------------------------


def _say(options: DemoOptions, parts: Parts, project: Project, figures: dict[str, Any], console: Console) -> None:
    if options.json_path is not None:
        options.json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    console.print(report.table(figures))
    login = report.Login(parts.label_studio.url, project.id, parts.label_studio.email, parts.label_studio.password)
    console.print(report.where_to_look(login, figures, options.folder, over=options.once))


def _stay(parts: Parts, console: Console) -> None:
    console.print("Running. Correct some labels and watch the worker retrain; Ctrl-C stops everything.")
    while parts.label_studio.pid is not None:
        time.sleep(1.0)
    raise UnavailableError(f"Label Studio ended; see {parts.label_studio.log_file}.")
