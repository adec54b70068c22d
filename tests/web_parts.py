"""What the tests of the web process share: a project with a finished round, and Label Studio's requests word for word."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coral_backend.backend import connect_project
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Flag, Round, Sample, Source, Verdict

PASSWORD = "pässword-2"
SECRET = "webhook-secret-3"
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text">'
    '<Choice value="good"/><Choice value="bad"/></Choices></View>'
)
RENAMED = CONFIG.replace('value="bad"', 'value="awful"')
UNSERVABLE = '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image"/></View>'
VERSION = "coral-r1-abc"


def settings_in(folder: Path, **more: Any) -> Settings:
    """Return settings that read nothing of the environment."""
    return Settings.load({}, model_dir=folder, basic_auth_password=PASSWORD, webhook_secret=SECRET, **more)


def store_in(settings: Settings) -> Store:
    """Return the store of `settings` with project 1 connected."""
    store = Store(settings.store_url)
    connect_project(store, settings, 1, CONFIG, title="One")
    return store


def text_of(task_id: int) -> str:
    """Return the text of a made-up task."""
    return f"text of task {task_id}"


def verdict(task_id: int, label: str | None = "good", score: float | None = 0.75) -> Verdict:
    """Return a verdict about ``text_of(task_id)`` whose pre-annotation is `label`."""
    return Verdict(
        task_id,
        label,
        score,
        Source.LLM,
        Flag.NOISY,
        rank=task_id,
        prediction_label=label,
        prediction_score=score,
        content_hash=Sample(task_id, text_of(task_id)).content_hash,
    )


def finish_round(
    store: Store,
    verdicts: Sequence[Verdict],
    *,
    project_id: int = 1,
    version: str = VERSION,
) -> Round:
    """Let a round come to its end with `verdicts`, so that the project serves them."""
    ids = [v.task_id for v in verdicts]
    store.put_samples(project_id, [Sample(task_id, text_of(task_id)) for task_id in ids])
    begun = store.create_round(project_id, {})
    lease = store.take_lease(f"round-{begun.id}")
    assert lease is not None
    store.put_verdicts(project_id, begun.id, verdicts, lease)
    store.finish_round(begun.id, lease, version, {})
    return store.round(begun.id)


def task(task_id: int, text: str | None = None, project_id: int = 1) -> dict[str, Any]:
    """Return a task as Label Studio sends it to ``/predict``."""
    return {
        "id": task_id,
        "data": {"text": text_of(task_id) if text is None else text},
        "meta": {},
        "is_labeled": False,
        "project": project_id,
        "annotations": [],
        "predictions": [],
    }


def asked(
    *tasks: Any, project: Any = "1.1795254643", config: str | None = CONFIG, context: Any = None
) -> dict[str, Any]:
    """Return a body of ``/predict``."""
    params = {"login": None, "password": None, "context": context}
    return {"tasks": list(tasks), "project": project, "label_config": config, "params": params}


def annotation(
    annotation_id: int, task_id: int, label: str | None = "bad", *, at: int = 1, skipped: bool = False
) -> dict[str, Any]:
    """Return an annotation whose state is of second `at`."""
    region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    return {
        "id": annotation_id,
        "result": [] if label is None else [region],
        "was_cancelled": skipped,
        "ground_truth": False,
        "created_at": "2026-11-21T09:00:00.000000Z",
        "updated_at": f"2026-11-21T09:00:{at:02}.000000Z",
        "lead_time": 3.2,
        "task": task_id,
        "project": 1,
        "completed_by": 1,
    }


def event(action: str, *, project_id: int = 1, config: str = CONFIG, title: str = "One", **more: Any) -> dict[str, Any]:
    """Return a webhook body; `more` are the keys beside ``action`` and ``project``."""
    return {"action": action, "project": {"id": project_id, "title": title, "label_config": config}, **more}


def basic(user: str = "coral", password: str = PASSWORD) -> dict[str, str]:
    """Return the header of basic auth."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def chosen(prediction: Mapping[str, Any]) -> Any:
    """Return the label of a prediction."""
    return prediction["result"][0]["value"]["choices"][0]
