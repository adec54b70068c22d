"""How fast does the web process answer, and how much memory does it take, also while a model is trained beside it?

``python -m benchmarks.web [--load] [--json OUT]`` starts gunicorn on loopback over a made-up project and calls it as Label
Studio does: one connection a request. Goals: 100 stored predictions under 200 ms, a webhook under 50 ms at p99, 600 MB.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "benchmark"  # noqa: S105 - of a server on loopback that lives for seconds
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    '<Choice value="positive"/><Choice value="negative"/></Choices></View>'
)
START_SECONDS = 60.0

TRAINING = """
import os, sys, torch
os.nice(int(sys.argv[1]))
torch.set_num_threads(2)
layers = torch.nn.Sequential(*(torch.nn.Linear(384, 384) for _ in range(12)))
steps = torch.optim.AdamW(layers.parameters())
rows = torch.randn(32 * 128, 384)
while True:
    steps.zero_grad()
    layers(rows).square().mean().backward()
    steps.step()
"""
"""As heavy as training the SLM: the shapes of MiniLM, a batch of 32 texts of 128 tokens, both cores."""


@dataclass(frozen=True)
class Web:
    """A running web process.

    Attributes
    ----------
    pid : int
        Of gunicorn's master; the worker is its child.
    start_seconds : float
        From the start of the process to its first answer.
    """

    port: int
    pid: int
    start_seconds: float

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send one request over a connection of its own and return status and JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith((b"{", b"[")) else text.decode()
        finally:
            connection.close()

    def rss_mb(self) -> dict[str, float]:
        """Return the resident memory of the worker, and of master and worker together, in MB of a million bytes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        sizes = [_rss(pid) for pid in (str(self.pid), *children)]
        return {"worker": max(sizes[1:]), "all": sum(sizes)}


@contextmanager
def serving(environ: Mapping[str, str], *, log_file: Path) -> Iterator[Web]:
    """Run gunicorn as it is run for real, on a free port of loopback; stop it in the end.

    Parameters
    ----------
    environ : mapping
        The settings; beside them the process gets only what Python needs.
    log_file : Path
        Where its output goes.
    """
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        "python:coral_backend.gunicorn_conf",
        "-b",
        "127.0.0.1:0",
        "_wsgi:app",
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CORAL_")}
    began = time.monotonic()
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env={**kept, **environ}, stdout=log, stderr=log)
    try:
        port = _wait(process, log_file, lambda: _port(log_file))
        web = Web(port, process.pid, 0.0)
        _wait(process, log_file, lambda: web.call("GET", "/health")[0] == 200)
        yield Web(port, process.pid, time.monotonic() - began)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], log_file: Path, look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except OSError:  # not listening yet
            pass
        time.sleep(0.02)
    raise RuntimeError(f"gunicorn did not start within {START_SECONDS:.0f} s:\n{log_file.read_text()[-2000:]}")


def _port(log_file: Path) -> int | None:
    found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log_file.read_text())
    return int(found[1]) if found else None


def _rss(pid: str) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def make_project(folder: Path, tasks: int) -> None:
    """Fill the store in `folder` with project 1: `tasks` samples, each with a verdict of a finished round."""
    from coral_backend.backend import connect_project
    from coral_backend.settings import Settings
    from coral_backend.store import Store
    from coral_backend.types import Flag, Sample, Source, Verdict

    settings = Settings.load({}, model_dir=folder)
    store = Store(settings.store_url)
    connect_project(store, settings, 1, CONFIG, title="Benchmark")
    ids = range(1, tasks + 1)
    store.put_samples(1, [Sample(i, _text(i)) for i in ids])
    begun = store.create_round(1, {})
    lease = store.take_lease(f"round-{begun.id}")
    assert lease is not None
    verdicts = [
        Verdict(
            i,
            "positive",
            0.9,
            Source.LLM,
            Flag.CLEAN,
            rank=i,
            prediction_label="positive",
            prediction_score=0.9,
            content_hash=Sample(i, _text(i)).content_hash,
        )
        for i in ids
    ]
    store.put_verdicts(1, begun.id, verdicts, lease)
    store.finish_round(begun.id, lease, "coral-r1-benchmark", {})
    store.close()


def _text(task_id: int) -> str:
    return f"review {task_id}: " + "a film that takes its time and knows what it wants to say . " * 2 + "good"


def _predict_body(ids: Sequence[int]) -> dict[str, Any]:
    tasks = [{"id": i, "data": {"text": _text(i)}, "meta": {}, "project": 1, "predictions": []} for i in ids]
    return {"tasks": tasks, "project": "1.1795254643", "label_config": CONFIG, "params": {"context": None}}


def _webhook_body(number: int, tasks: int) -> dict[str, Any]:
    region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["negative"]}}
    task_id = number % tasks + 1
    annotation = {
        "id": number,
        "result": [region],
        "was_cancelled": False,
        "ground_truth": False,
        "updated_at": "2026-11-21T09:49:01.397171Z",
        "lead_time": 3.2,
        "task": task_id,
        "completed_by": 1,
    }
    project = {"id": 1, "title": "Benchmark", "label_config": CONFIG, "parsed_label_config": {"filler": "x" * 1900}}
    task = {"id": task_id, "data": {"text": _text(task_id)}}
    return {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": project, "task": task}


def _timed(call: Callable[[int], tuple[int, Any]], times: int, *, pause: float = 0.0) -> dict[str, float]:
    """Return p50, p99 and the maximum of `times` calls in milliseconds; `pause` seconds lie between two."""
    seconds = []
    for number in range(1, times + 1):
        began = time.perf_counter()
        status, answer = call(number)
        seconds.append(time.perf_counter() - began)
        if status != 200:
            raise RuntimeError(f"answered {status}: {answer}")
        time.sleep(pause)
    seconds.sort()
    at = {"p50": seconds[times // 2], "p99": seconds[min(times - 1, int(times * 0.99))], "max": seconds[-1]}
    return {name: round(value * 1000, 2) for name, value in at.items()}


def cpu_seconds(pid: int) -> float:
    """Return the processor time of the worker below gunicorn's master `pid`."""
    child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(web: Web, tasks: int, *, repeat: int = 1) -> dict[str, Any]:
    """Call every route as often as its percentiles need, times `repeat`."""
    auth = {"Authorization": "Basic " + base64.b64encode(f"coral:{PASSWORD}".encode()).decode()}
    secret = {"X-Coral-Secret": PASSWORD}
    setup = {"project": "1.1795254643", "schema": CONFIG, "hostname": "", "access_token": "", "extra_params": None}
    hundred, all_of_them = _predict_body(range(1, min(tasks, 100) + 1)), _predict_body(range(1, tasks + 1))

    def post(path: str, body: Any, headers: Mapping[str, str] = auth) -> tuple[int, Any]:
        return web.call("POST", path, body, headers)

    _, first = post("/predict", hundred)  # the first request of a process opens the database
    if not all(first["results"]):
        raise RuntimeError("the made-up tasks are not the stored ones: this would measure something else")
    events = 500 * repeat
    before = cpu_seconds(web.pid)
    webhook = _timed(lambda n: post("/webhook", _webhook_body(n, tasks), secret), events, pause=0.01)
    cpu_ms = (cpu_seconds(web.pid) - before) / events * 1000
    return {
        "webhook_ms": {**webhook, "cpu": round(cpu_ms, 2)},
        "health_ms": _timed(lambda _n: web.call("GET", "/health"), 100 * repeat, pause=0.005),
        "setup_ms": _timed(lambda _n: post("/setup", setup), 100 * repeat, pause=0.005),
        "predict_100_ms": _timed(lambda _n: post("/predict", hundred), 100 * repeat, pause=0.02),
        f"predict_{tasks}_ms": _timed(lambda _n: post("/predict", all_of_them), repeat),
        "metrics_ms": _timed(lambda _n: web.call("GET", "/metrics", None, auth), repeat),
        "rss_mb": {name: round(size, 1) for name, size in web.rss_mb().items()},
    }


@contextmanager
def training(nice: int) -> Iterator[None]:
    """Keep both cores busy as a training does; `nice` is how much it steps back for others, 0 to 19."""
    process = subprocess.Popen([sys.executable, "-c", TRAINING, str(nice)])
    try:
        time.sleep(5)  # torch is loaded and the first steps are done
        if process.poll() is not None:
            raise RuntimeError("the training beside the web process did not start")
        yield
    finally:
        process.kill()
        process.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="samples of the project")
    parser.add_argument("--load", action="store_true", help="train on both cores meanwhile")
    parser.add_argument("--nice", type=int, default=0, help="niceness of that training, 0 to 19")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder, options.tasks)
        environ = {
            "MODEL_DIR": str(folder),
            "CORAL_BASIC_AUTH_PASSWORD": PASSWORD,
            "CORAL_WEBHOOK_SECRET": PASSWORD,
            "CORAL_LOG_LEVEL": "WARNING",
        }
        with (
            serving(environ, log_file=folder / "web.log") as web,
            training(options.nice) if options.load else nullcontext(),
        ):
            figures = {
                "start_seconds": round(web.start_seconds, 2),
                "load": options.load,
                "nice": options.nice,
                "tasks": options.tasks,
            }
            figures |= measure(web, options.tasks, repeat=2)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
