"""A store with a project, six tasks, two rounds and two human labels, as the CLI, export and doctor find one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from coral_backend.settings import Settings
from coral_backend.store import Lease, Store
from coral_backend.types import Answer, Flag, HumanLabel, LabelSpace, Project, Round, Sample, Source, Stage, Verdict

CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    '<Choice value="pos"/><Choice value="neg"/></Choices></View>'
)
SPACE = LabelSpace("Choices", "label", "text", "text", ("pos", "neg"))
PROJECT = 1
VERSION = "coral-r1-abc123"

TEXTS = ("good film", "bad film", "so-so", "fine", "", "came later")
LONG_AGO = "2026-11-21T10:00:00Z"


def settings_in(folder: Path, **more: Any) -> Settings:
    """Return settings that reach nothing outside `folder`."""
    return Settings.load({}, model_dir=folder, **more)


def save_project(store: Store, project_id: int = PROJECT, **more: Any) -> Project:
    store.save_project(Project(project_id, "Film reviews", CONFIG, "hash", SPACE, **more))
    return store.project(project_id)


def put_sample(store: Store, task_id: int, text: str, label: str | None, *, round_number: int = 1) -> Sample:
    """Put a sample with the annotator's answer to it."""
    sample = Sample(task_id, text, None if text else "'text' is empty")
    store.put_samples(PROJECT, [sample])
    reason = None if label else "The answer names no label."
    answer = Answer(label, "raw", reason, annotator="recorded:llm", prompt_tokens=10, completion_tokens=2)
    store.put_llm_label(PROJECT, round_number, sample, answer, prompt_version="p1")
    return sample


def verdict(task_id: int, label: str, flag: Flag, rank: int, **more: Any) -> Verdict:
    given = {"prediction_label": label, "prediction_score": 0.7, "llm_label": label, "slm_label": label}
    values = {**given, "slm_score": 0.7, "p_clean": 0.9, "loss": 0.3, "source": Source.LLM, "score": 0.7, **more}
    return Verdict(task_id, label=label, flag=flag, rank=rank, **values)


def finish_round(store: Store, verdicts: list[Verdict], *, retrain: bool = False, version: str = VERSION) -> Round:
    """Make a round that ended well with `verdicts`, which are about the texts as they stand now."""
    texts = {sample.task_id: sample.content_hash for sample in store.samples(PROJECT)}
    verdicts = [replace(v, content_hash=texts.get(v.task_id)) for v in verdicts]
    begun = store.create_round(PROJECT, {"epochs": 3}, retrain=retrain)
    lease = store.take_lease(f"round-{begun.id}")
    assert isinstance(lease, Lease)
    store.put_verdicts(PROJECT, begun.id, verdicts, lease)
    store.update_round(begun.id, lease, stage=Stage.PUSH)
    flags = {str(flag): sum(v.flag is flag for v in verdicts) for flag in Flag}
    metrics = {
        "tasks": len(verdicts),
        "annotated": len(verdicts),
        "abstained": 0,
        "annotator": "recorded:llm",
        "flags": flags,
        "agreement": {"n": 2, "llm": 0.5, "slm": 1.0},
        "seconds": {"distil": 12.5},
        "notes": ["early stop after epoch 2"],
        "pushed": {"sent": len(verdicts), "created": len(verdicts), "dropped": []},
    }
    store.finish_round(begun.id, lease, version, metrics)
    store.drop_lease(lease)
    return store.round(begun.id)


def fill(store: Store) -> Store:
    """Put the whole content into `store`."""
    save_project(store)
    for task_id, (text, label) in enumerate(zip(TEXTS, ("pos", "pos", "neg", "pos", None, "neg"), strict=True), 1):
        put_sample(store, task_id, text, label)
    put_sample(store, 2, TEXTS[1], "neg", round_number=2)
    finish_round(
        store,
        [
            verdict(1, "pos", Flag.CLEAN, 4),
            verdict(2, "neg", Flag.INCONSISTENT, 1, llm_label="neg", slm_label="neg"),
            verdict(3, "pos", Flag.NOISY, 2, source=Source.SLM, llm_label="neg", prediction_label="neg"),
            verdict(4, "neg", Flag.CLEAN, 3, source=Source.HUMAN, llm_label="pos", slm_score=0.8),
            Verdict(5, None, None, None, Flag.NOISY, 5),
        ],
    )
    store.put_annotations(
        PROJECT,
        [HumanLabel(11, 2, "pos", 7, LONG_AGO), HumanLabel(12, 3, "pos", 8, LONG_AGO)],
    )
    return store
