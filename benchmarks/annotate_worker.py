"""A worker that annotates, as a process that can be measured and killed: the real round, store and annotator.

``python -m benchmarks.annotate_worker '{"model_dir": ..., "base_url": ..., "project": 1, ...}'`` prints a line of JSON when it is done.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from coral_backend.labelstudio.control_tags import config_hash, parse_config
from coral_backend.llm.base import Question, make_annotator
from coral_backend.rounds import RoundRunner, prompt_for, round_lease
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Answer, Project, Sample, Stage
from coral_backend.worker import prepare as prepare_worker

CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    '<Choice value="positive"/><Choice value="negative"/></Choices></View>'
)
KEY = "benchmark-key"


@dataclass(frozen=True)
class Job:
    """What a worker does.

    Attributes
    ----------
    model_dir : str
        Where the store lies, and ``redis.url`` if there is a Redis.
    project : int
        Each worker of one store has a project of its own.
    items : int
        Texts, all different.
    stream : bool
        Feed the annotator from a generator, instead of running the annotate stage of a round over stored samples.
    """

    model_dir: str
    base_url: str
    project: int = 1
    items: int = 1000
    concurrency: int = 64
    timeout_s: float = 60.0
    rpm: int | None = None
    stream: bool = False

    @property
    def settings(self) -> Settings:
        """The settings as a worker would read them."""
        env = {
            "MODEL_DIR": self.model_dir,
            "OPENAI_BASE_URL": self.base_url,
            "OPENAI_API_KEY": KEY,
            "CORAL_LLM_MODEL": "scripted",
            "CORAL_LLM_CONCURRENCY": str(self.concurrency),
            "CORAL_LLM_TIMEOUT_S": str(self.timeout_s),
            "CORAL_DEMOS": "0",
            "CORAL_ANNOTATE_CHUNK": str(self.items),
        }
        return Settings.load(env if self.rpm is None else {**env, "CORAL_LLM_RPM": str(self.rpm)})


def text(project: int, number: int) -> str:
    """Return a made-up review; no two are equal."""
    return f"Review {number} of shop {project}: " + "the film takes its time and knows what it wants to say. " * 6


def prepare(job: Job) -> int:
    """Fill the store of a job with its project, samples and a round that is about to annotate; return the round's id."""
    store = Store(job.settings.store_url)
    store.save_project(Project(job.project, "Benchmark", CONFIG, config_hash(CONFIG), parse_config(CONFIG)))
    if not job.stream:
        store.put_samples(job.project, [Sample(i, text(job.project, i)) for i in range(1, job.items + 1)])
    begun = store.create_round(job.project, {})
    lease = store.take_lease(round_lease(begun.id))
    assert lease is not None
    store.update_round(begun.id, lease, stage=Stage.ANNOTATE)
    store.drop_lease(lease)
    store.close()
    return begun.id


def work(job: Job) -> dict[str, Any]:
    """Do the job and return what it took."""
    settings = job.settings
    store = Store(settings.store_url)
    begun = store.active_round(job.project)
    assert begun is not None, "prepare comes first"
    cpu, clock = time.process_time(), time.perf_counter()
    if job.stream:
        _stream(job, settings, store)
    else:
        runner = RoundRunner(store, settings, _no_label_studio)
        while store.round(begun.id).stage is Stage.ANNOTATE:
            runner.advance(begun.id)
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    store.close()
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_rss_mb": peak_rss_mb(), "rss_mb_by_items": _rss_seen}


_rss_seen: dict[int, float] = {}


def _stream(job: Job, settings: Settings, store: Store) -> None:
    """Label a corpus that is nowhere in memory."""
    project = store.project(job.project)
    prompt = prompt_for(settings, project, ())
    done = 0

    def questions() -> Iterator[Question]:
        for i in range(1, job.items + 1):
            yield Question(Sample(i, text(job.project, i)), prompt)

    def keep(sample: Sample, answer: Answer) -> None:
        nonlocal done
        store.put_llm_label(job.project, 1, sample, answer, prompt_version=prompt.version)
        done += 1
        if done in (job.items // 10, job.items):
            _rss_seen[done] = rss_mb()

    make_annotator(settings, None, store.replies).annotate(questions(), keep, lambda: None)


def rss_mb() -> float:
    """Return what is resident now, in MB of a million bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def peak_rss_mb() -> float:
    """Return the most that was resident, in MB; not ``ru_maxrss``, which begins with what the parent had."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def _no_label_studio() -> NoReturn:
    raise AssertionError("annotating needs no Label Studio")


if __name__ == "__main__":
    prepare_worker()  # a job is a fork of a worker that has done this
    print(json.dumps(work(Job(**json.loads(sys.argv[1])))))
