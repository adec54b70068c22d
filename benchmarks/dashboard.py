"""How fast does each page of the dashboard answer over a large project?

``python -m benchmarks.dashboard [--tasks 10000] [--json OUT]`` fills a store with a made-up project (two rounds, labels of
people, features, hostile texts), starts gunicorn on loopback and asks for every page as a browser does. Goal: 300 ms.
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.web import PASSWORD, Web, cpu_seconds, serving
from coral_backend import corpus_arrays
from coral_backend.demo.data import SHIPPED_DEFINITIONS, shipped
from coral_backend.labelstudio.texts import clean
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Demo, HumanLabel, Project, Round, Sample, Stage

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}",
    "\u202ethis runs from right to left\u202c مرحبا שלום",
    "👍🏽\U0001f469\u200d\U0001f469\u200d\U0001f467 " * 5,
    "before\x00after",
    "no blanks " + "x" * 3000,
)
"""Texts that a page must show as they are."""

PROMPTED = {"prompt_tokens": 212, "completion_tokens": 6}


def fill(settings: Settings, tasks: int, *, project_id: int = 1, people: int = 300, seed: int = 0) -> Project:
    """Fill the store of `settings` with a project of `tasks` samples, a round and a retraining, and return it.

    Parameters
    ----------
    people : int
        Labels of people, all right: half of them on the most doubtful tasks of the first round, half anywhere.
    """
    from coral_backend.backend import connect_project

    rng = np.random.default_rng(seed)
    corpus, store = shipped(), Store(settings.store_url)
    project = connect_project(store, settings, project_id, corpus.label_config(), title="Customer messages")
    labels, k = project.label_space.labels, len(project.label_space.labels)
    rows = [corpus.rows[i % len(corpus.rows)] for i in range(tasks)]
    texts = [row.text if i < len(corpus.rows) else f"{row.text} ({i})" for i, row in enumerate(rows)]
    for place, text in enumerate(HOSTILE):
        texts[min(place, tasks - 1)] = text
    gold = np.array([labels.index(str(row.gold)) for row in rows])
    wrong = rng.random(tasks) < 0.17
    llm = np.where(wrong, (gold + rng.integers(1, k, tasks)) % k, gold)
    llm[rng.random(tasks) < 0.02] = -1
    samples = [Sample(i + 1, clean(text)) for i, text in enumerate(texts)]
    store.put_samples(project_id, samples)
    _answers(store, project_id, samples, [labels[i] if i >= 0 else None for i in llm])
    for revision in range(2):
        human = store.human_labels(project_id)
        noise = 1.1 - 0.25 * revision
        arrays = _arrays(
            rng,
            gold,
            llm,
            k=k,
            noise=noise,
            human=[labels.index(str(human[s.task_id].label)) if s.task_id in human else -1 for s in samples],
        )
        done = _finish(settings, store, project, arrays, llm, revision=revision, demos=_demos(rows))
        if not revision:
            queue = [v.task_id for v in store.verdicts(project_id, done.id)]
            chance = rng.choice(queue, people // 2, replace=False).tolist()
            looked_at = list(dict.fromkeys([*queue[: people - people // 2], *chance]))
            at = "2026-11-21T10:00:00Z"
            store.put_annotations(
                project_id, [HumanLabel(i, i, labels[gold[i - 1]], 1, at, lead_time=4.0) for i in looked_at]
            )
    store.close()
    return project


def _demos(rows: Sequence[Any]) -> tuple[Demo, ...]:
    first = {str(row.gold): row.text for row in reversed(rows)}
    return tuple(Demo(first[label], label) for label in SHIPPED_DEFINITIONS if label in first)


def _answers(store: Store, project_id: int, samples: Sequence[Sample], said: Sequence[str | None]) -> None:
    # Straight into the table: one transaction an answer, as a round does it, would take minutes here.
    from coral_backend.store import tables

    rows = [
        {
            "project_id": project_id, "task_id": s.task_id, "round_number": 1, "content_hash": s.content_hash, "label": label,
            "raw": json.dumps({"label": label}), "reason": None if label else "The answer names no label.", "confidence": None,
            "annotator": "openai:gpt-4o-mini", "prompt_version": "bench", **PROMPTED, "seconds": 0.4, "created_at": time.time(),
        }
        for s, label in zip(samples, said, strict=True)
    ]  # fmt: skip
    with store.writing() as connection:
        connection.execute(tables.llm_labels.insert(), rows)


def _arrays(
    rng: np.random.Generator, gold: Any, llm: Any, *, k: int, noise: float, human: Sequence[int]
) -> corpus_arrays.Arrays:
    """Return what an SLM might say that sees through most of the annotator's errors."""
    n, known = len(gold), np.asarray(human)
    centres = rng.normal(size=(k, 64)) * 1.3
    features = (centres[gold] + rng.normal(size=(n, 64)) * noise).astype(np.float32)
    logits = rng.normal(size=(n, k)) * noise * 1.3
    logits[np.arange(n), gold] += 3.2
    logits[np.arange(n), np.maximum(known, 0)] += np.where(known >= 0, 0.8, 0.0)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = np.where(llm >= 0, -np.log(probs[np.arange(n), np.maximum(llm, 0)]), np.nan)
    p_clean = np.where(np.isnan(losses), np.nan, 1 / (1 + np.exp(3.0 * (losses - 2.2))))
    return corpus_arrays.Arrays(np.arange(1, n + 1), probs, losses, p_clean, features)


def _finish(
    settings: Settings, store: Store, project: Project, arrays: corpus_arrays.Arrays, llm: Any,
    *, revision: int, demos: tuple[Demo, ...],
) -> Round:  # fmt: skip
    begun = store.create_round(project.id, settings.public(), retrain=bool(revision))
    lease = store.take_lease(f"round-{begun.id}")
    assert lease is not None
    corpus_arrays.save_arrays(
        corpus_arrays.round_folder(settings, begun), arrays.task_ids, SimpleNamespace(**vars(arrays))
    )
    verdicts = corpus_arrays.judge(store, project, arrays, 0.5).verdicts
    store.put_verdicts(project.id, begun.id, verdicts, lease)
    known = arrays.losses[np.isfinite(arrays.losses)]
    low, high = known[known < 2.2], known[known >= 2.2]
    history = [
        {"epoch": e, "stage": "warm-up" if e == 1 else "training", "loss": round(1.6 / e + 0.1, 3), "n_clean": len(low),
         "mask_rate": 0.5 + e / 10, "changed": round(0.3 / e, 3), "seconds": 8.1}
        for e in range(1, 5)
    ]  # fmt: skip
    total = len(llm)
    progress = {
        str(stage): {"done": total, "total": total, "seconds": 3.0}
        for stage in (Stage.SYNC, Stage.ANNOTATE, Stage.DISTIL)
    }
    store.update_round(begun.id, lease, stage=Stage.PUSH, demos=demos, progress=progress)
    flags = {name: sum(v.flag == name for v in verdicts) for name in ("clean", "noisy", "inconsistent")}
    gmm = {
        "means": [float(low.mean()), float(high.mean())],
        "variances": [float(low.var()), float(high.var())],
        "weights": [len(low) / len(known), len(high) / len(known)],
    }
    metrics = {
        "tasks": total, "annotated": int((llm >= 0).sum()), "abstained": int((llm < 0).sum()),
        "annotator": "openai:gpt-4o-mini", "flags": flags, "history": history, "gmm": gmm, "notes": [],
        "human_labels": len(store.human_labels(project.id)),
        "seconds": {"sync": 3.1, "annotate": 0.4 if revision else 412.0, "distil": 148.2, "flag": 1.1, "push": 6.0},
        "pushed": {"sent": total, "created": total, "dropped": [], "present": 0},
    }  # fmt: skip
    if begun.parent_id is not None:
        metrics["effect"] = store.count_changes(project.id, begun.parent_id, begun.id)
    store.finish_round(begun.id, lease, f"coral-r{begun.name}-{'4be1c0' if revision else '9d02aa'}", metrics)
    store.drop_lease(lease)
    return store.round(begun.id)


PAGES = {
    "projects": "/dashboard/",
    "overview": "/dashboard/projects/1",
    "progress": "/dashboard/projects/1/progress.json",
    "samples": "/dashboard/projects/1/samples",
    "samples, sorted by text": "/dashboard/projects/1/samples?sort=text",
    "samples, sorted by LLM label, page 100": "/dashboard/projects/1/samples?sort=llm_label&page=100",
    "samples, searched": "/dashboard/projects/1/samples?contains=parcel&flag=noisy",
    "samples of a lasso": "/dashboard/projects/1/samples?area=5000,5000,60000,5000,60000,60000,5000,60000",
    "map": "/dashboard/projects/1/map",
    "points of the map": "/dashboard/projects/1/map.bin",
    "quality": "/dashboard/projects/1/quality",
    "round": "/dashboard/projects/1/rounds/1",
    "round, and what it changed": "/dashboard/projects/1/rounds/1.1",
    "configuration": "/dashboard/projects/1/configuration",
    "one text of the map": "/dashboard/projects/1/samples/17.json",
}


def measure(web: Web, repeat: int) -> dict[str, dict[str, float]]:
    """Ask for every page: the first answer (a cold cache), then p50 and the slowest of `repeat`, in ms, processor time, and its size.

    Processor time is what counts on a machine that others use as well.
    """
    auth = {"Authorization": "Basic " + base64.b64encode(f"coral:{PASSWORD}".encode()).decode()}
    found: dict[str, dict[str, float]] = {}
    for name, path in PAGES.items():
        spent, size, before = [], 0, 0.0
        for turn in range(repeat + 1):
            before = cpu_seconds(web.pid) if turn == 1 else before
            connection = HTTPConnection("127.0.0.1", web.port, timeout=60)
            began = time.perf_counter()
            connection.request("GET", path, headers=auth)
            answer = connection.getresponse()
            size = len(answer.read())
            spent.append((time.perf_counter() - began) * 1000)
            connection.close()
            if answer.status != 200:
                raise RuntimeError(f"{path} answered {answer.status}")
        first, rest = spent[0], sorted(spent[1:])
        cpu = (cpu_seconds(web.pid) - before) / repeat * 1000
        found[name] = {
            "first_ms": round(first, 1), "p50_ms": round(rest[len(rest) // 2], 1), "max_ms": round(rest[-1], 1), "cpu_ms": round(cpu, 1),
            "kb": round(size / 1000, 1),
        }  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="samples of the project")
    parser.add_argument("--repeat", type=int, default=15, help="requests a page")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = {"MODEL_DIR": name, "CORAL_BASIC_AUTH_PASSWORD": PASSWORD, "CORAL_LOG_LEVEL": "WARNING"}
        fill(Settings.load({}, model_dir=folder), options.tasks)
        with serving(environ, log_file=folder / "web.log") as web:
            pages = measure(web, options.repeat)
            rss = web.rss_mb()
    print(f"{'page':<42}{'first':>8}{'p50':>8}{'max':>8}{'cpu':>8}{'kB':>9}")
    for page, figures in pages.items():
        print(
            f"{page:<42}"
            + "".join(f"{figures[key]:>8}" for key in ("first_ms", "p50_ms", "max_ms", "cpu_ms"))
            + f"{figures['kb']:>9}"
        )
    print(f"memory: {rss['worker']:.0f} MB (worker)")
    if options.json:
        options.json.write_text(json.dumps({"tasks": options.tasks, "pages": pages, "rss_mb": rss}, indent=2) + "\n")


if __name__ == "__main__":
    main()
