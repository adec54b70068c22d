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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from coral_backend.connect import connect
from coral_backend.demo import report
from coral_backend.demo.data import RECORDED_KEY, Corpus, load, shipped
from coral_backend.demo.notice import warn
from coral_backend.demo.state import DemoState, Entry, kept_port, write_atomically
from coral_backend.exceptions import (
    ConflictError,
    CoralError,
    InputError,
    LabelConfigError,
    NotFoundError,
    UnavailableError,
)
from coral_backend.follow import bars, follow
from coral_backend.jobs import request_advance, request_round
from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError
from coral_backend.labelstudio.control_tags import parse_config
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
SHOWN_LABELS = 10
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
    _refuse_unwritable(options.json_path)
    corpus = _corpus(options, console)
    stop_on_signals()
    clock = Stopwatch()
    try:
        with ExitStack() as stack:
            state = DemoState(options.folder / STATE_FILE, _teller(console))
            with clock("start"):
                parts = _start(
                    options, stack, console, lambda settings: _warn(settings, corpus, state, options, console)
                )
            with clock("import"):
                project, gold = _project(parts, corpus, state, console)
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
        console.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False)
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


def _refuse_unwritable(path: Path | None) -> None:
    """Refuse a file for the figures that could not be written when the round is done, minutes later."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise InputError(f"--json names {path}, and there is no folder {path.parent}. Make it, or name another file.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"--json names {path}, which cannot be written. Name a file in a folder of yours.")


def _corpus(options: DemoOptions, console: Console) -> Corpus:
    """Return what there is to label, with labels that Label Studio can offer."""
    if options.data is None:
        if options.noisy_labels or options.labels:
            raise ConflictError("--noisy-labels and --labels describe a file of yours: name it with --data.")
        return shipped(rows=options.rows)
    corpus = load(
        options.data,
        text=options.text,
        gold=options.gold,
        noisy=options.noisy_labels,
        labels=options.labels,
        rows=options.rows,
    )
    try:
        parse_config(corpus.label_config())
    except LabelConfigError as error:
        raise InputError(
            f"The labels of {corpus.name} make no label config. {error} Correct them, or use --labels."
        ) from None
    if options.noisy_labels and not options.labels and not any(row.gold for row in corpus.rows):
        _teller(console)(_labels_found(corpus, options.noisy_labels))
    return corpus


def _labels_found(corpus: Corpus, column: str) -> str:
    shown = ", ".join(repr(label[:40]) for label in corpus.labels[:SHOWN_LABELS])
    more = f" and {len(corpus.labels) - SHOWN_LABELS} more" if len(corpus.labels) > SHOWN_LABELS else ""
    return (
        f"Labels found in column {column!r}: {shown}{more}. "
        "--labels a,b,c restricts them: other values then count as no label."
    )


def _teller(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line as it is: names and labels are no markup."""
    return lambda line: console.print(line, markup=False, highlight=False)


# --- parts --------------------------------------------------------------------------------------------------------


def _start(options: DemoOptions, stack: ExitStack, console: Console, announce: Callable[[Settings], None]) -> Parts:
    """Start Redis, Label Studio, the web process and a worker; the `stack` ends them in reverse.

    `announce` is called when the settings are known and nothing could be annotated yet.
    """
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    supervisor = stack.enter_context(Supervisor(folder / "logs"))
    with bars(console) as display:
        line = display.add_task("Starting", total=5, note="Redis")
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        display.update(line, advance=1, note="Label Studio (a first start takes a minute)")
        label_studio = LabelStudioServer(options.label_studio_venv, folder / "label-studio")
        stack.callback(label_studio.stop)
        label_studio.start()
        label_studio.wait_ready()
        display.update(line, advance=1, note="web")
        settings, env = _environment(folder, label_studio, _teller(console))
        announce(settings)
        port = int(settings.public_url.rpartition(":")[2])
        start_processes(
            supervisor, settings, HOST, port, env=env, tell=lambda _: display.update(line, advance=1, note="worker")
        )
        display.update(line, note="")
    store = Store(settings.store_url)
    stack.callback(store.close)
    client = LabelStudioClient(label_studio.url, label_studio.api_token())
    return Parts(settings, store, client, label_studio, supervisor)


def _environment(
    folder: Path, label_studio: LabelStudioServer, tell: Callable[[str], None]
) -> tuple[Settings, dict[str, str]]:
    """Return the settings of this demo and the environment that gives them to its processes."""
    own = {
        "MODEL_DIR": str(folder),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.api_token(),
        "CORAL_PUBLIC_URL": f"http://{HOST}:{_port(folder, tell)}",
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


def _port(folder: Path, tell: Callable[[str], None]) -> int:
    """Return the web process's port of the last start if it is free: Label Studio knows the backend by its address."""
    file = folder / "web.port"
    port = kept_port(file, tell) or free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            port = free_port()
    write_atomically(file, str(port))
    return port


def _warn(settings: Settings, corpus: Corpus, state: DemoState, options: DemoOptions, console: Console) -> None:
    entry = state.get(_fingerprint(corpus))
    warn(
        settings,
        console,
        project_id=entry.project if entry else None,
        rows=len(corpus.rows),
        options=_options(corpus),
        wait=not options.once,
    )


# --- project ------------------------------------------------------------------------------------------------------


def _project(parts: Parts, corpus: Corpus, state: DemoState, console: Console) -> tuple[Project, dict[int, str]]:
    """Return the project of this corpus, made and connected when it is not there, and the gold label of each task."""
    key = _fingerprint(corpus)
    entry = _complete(parts.client, corpus, state, key, console) or _import(parts.client, corpus, state, key, console)
    connect(parts.store, parts.settings, parts.client, entry.project, options=_options(corpus))
    _connect_others(parts, state, key, console)
    gold = {task_id: row.gold for task_id, row in zip(entry.tasks or (), corpus.rows, strict=True) if row.gold}
    return parts.store.project(entry.project), gold


def _complete(client: LabelStudioClient, corpus: Corpus, state: DemoState, key: str, console: Console) -> Entry | None:
    """Return the project of an earlier start; None, and no trace of it, if it cannot be used."""
    entry = state.get(key)
    if entry is None:
        return None
    there = _exists(client, entry.project)
    if there and entry.tasks is not None and len(entry.tasks) == len(corpus.rows):
        return entry
    if there and entry.tasks is None:
        console.print(f"The import into project {entry.project} was interrupted; it is replaced by a new one.")
        client.request("DELETE", f"api/projects/{entry.project}/")
    elif not there:
        console.print(f"Project {entry.project} is gone from Label Studio; the corpus is imported anew.")
    state.drop(key)
    return None


def _exists(client: LabelStudioClient, project_id: int) -> bool:
    try:
        client.project(project_id)
    except LabelStudioHTTPError as error:
        if error.http_status != 404:
            raise
        return False
    return True


def _import(client: LabelStudioClient, corpus: Corpus, state: DemoState, key: str, console: Console) -> Entry:
    """Make the project; it is known before the first task is sent, so that an interrupted import is noticed."""
    title = f"CORAL demo: {corpus.name}"[:50]
    project_id = int(client.create_project(title, corpus.label_config(), description=INSTRUCTION)["id"])
    state.put(key, Entry(project_id))
    tasks = corpus.tasks()
    with bars(console) as display:
        line = display.add_task("Importing", total=len(tasks), note="")
        ids = client.import_tasks(
            project_id, tasks, lambda done, total, _: display.update(line, completed=done, total=total)
        )
    entry = Entry(project_id, tuple(ids))
    state.put(key, entry)
    return entry


INSTRUCTION = (
    "Made by coral demo. Open the tab Noisy or Inconsistent and choose 'Label Tasks As Displayed' beside the big button: "
    "the most doubtful task comes first."
)


def _options(corpus: Corpus) -> dict[str, Any]:
    """Return the project's own settings: labels that exist already stand for the annotator's."""
    recorded = any(row.noisy is not None for row in corpus.rows)
    return {"annotator": "recorded", "recorded_key": RECORDED_KEY} if recorded else {}


def _connect_others(parts: Parts, state: DemoState, key: str, console: Console) -> None:
    """Tell the projects of other corpora where this start listens: the port may have changed."""
    for other, entry in state.others(key):
        if entry.tasks is None:
            continue
        try:
            connect(parts.store, parts.settings, parts.client, entry.project)
        except NotFoundError:
            state.drop(other)
        except CoralError as error:
            _teller(console)(f"Project {entry.project}, of another corpus, could not be connected again: {error}")


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
    # Never cut: these lines are commands and addresses that people copy.
    console.print(report.where_to_look(login, figures, options.folder, over=options.once), soft_wrap=True)


def _stay(parts: Parts, console: Console) -> None:
    console.print("Running. Correct some labels and watch the worker retrain; Ctrl-C stops everything.")
    while parts.label_studio.pid is not None:
        time.sleep(1.0)
    raise UnavailableError(f"Label Studio ended; see {parts.label_studio.log_file}.")
