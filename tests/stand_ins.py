"""Stand-ins for tests of faults that a real part cannot be made to have on demand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coral_backend.exceptions import LabelStudioError
from coral_backend.labelstudio.client import LabelStudioHTTPError, PushReport
from coral_backend.slm.engine import Corpus, Distilled, Earlier, SLMConfig
from coral_backend.types import Floats

CONFIG = """<View><Text name="text" value="$text"/><Choices name="label" toName="text">
<Choice value="bad"/><Choice value="good"/></Choices></View>"""


@dataclass
class FakeLabelStudio:
    """Enough of ``LabelStudioClient`` for a round, in memory; ``down`` makes every call fail."""

    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    config: str = CONFIG
    annotations: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    pushed: dict[tuple[int, str], tuple[list[dict[str, Any]], float | None]] = field(default_factory=dict)
    selected: str = ""
    view_rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    instruction: str = ""
    actions: int = 0
    refuse_actions: bool = False
    down: bool = False

    def _up(self) -> None:
        if self.down:
            raise LabelStudioError("Label Studio does not answer.")

    def project(self, project_id: int) -> dict[str, Any]:
        self._up()
        return {
            "id": project_id, "title": "Test", "label_config": self.config, "model_version": self.selected,
            "expert_instruction": self.instruction,
        }  # fmt: skip

    def iter_tasks(self, _: int, updated_after: str | None = None, progress: Any = None) -> Iterator[dict[str, Any]]:
        self._up()
        yield from ({"id": task_id, "data": data} for task_id, data in self.tasks.items())

    def annotated_tasks(self, _: int, updated_after: str | None = None) -> Iterator[dict[str, Any]]:
        self._up()
        for task_id, given in self.annotations.items():
            yield {"id": task_id, "data": self.tasks[task_id], "annotations": given}

    def push_predictions(self, _: int, rows: Sequence[Any], progress: Any = None) -> PushReport:
        self._up()
        new = [row for row in rows if (row[0], row[3]) not in self.pushed]
        self.pushed.update({(task_id, version): (result, score) for task_id, result, score, version in new})
        return PushReport(len(new), len(new), (), len(rows) - len(new))

    def select_version(self, _: int, version: str) -> None:
        self._up()
        self.selected = version

    def views(self, _: int) -> list[dict[str, Any]]:
        return list(self.view_rows.values())

    def create_view(self, _: int, data: Mapping[str, Any]) -> int:
        view_id = len(self.view_rows) + 1
        self.view_rows[view_id] = {"id": view_id, "data": dict(data)}
        return view_id

    def update_view(self, _: int, view_id: int, data: Mapping[str, Any]) -> None:
        self.view_rows[view_id] = {"id": view_id, "data": dict(data)}

    def view_count(self, _: int, view_id: int) -> int:
        token = self.view_rows[view_id]["data"]["filters"]["items"][0]["value"]
        return sum(token in str(result) for result, _score in self.pushed.values())

    def request(self, method: str, path: str, **_: Any) -> Any:
        """Answer for one annotation, as ``GET api/annotations/{id}/``."""
        self._up()
        wanted = int(path.strip("/").rpartition("/")[2])
        for given in self.annotations.values():
            if any(annotation["id"] == wanted for annotation in given):
                return {}
        raise LabelStudioHTTPError("There is no such annotation.", 404)

    def delete_task_predictions(self, _: int, task_ids: Sequence[int]) -> None:
        self._up()
        self.pushed = {key: row for key, row in self.pushed.items() if key[0] not in task_ids}

    def columns(self, _: int) -> list[dict[str, Any]]:
        keys = dict.fromkeys(key for data in self.tasks.values() for key in data)
        return [{"id": key, "parent": "data"} for key in keys]

    def run_action(
        self, _: int, action: str, task_ids: Sequence[int], body: Mapping[str, Any], *, repeatable: bool = False
    ) -> None:
        self._up()
        self.actions += 1
        if self.refuse_actions:
            raise LabelStudioHTTPError("Label Studio answered POST api/dm/actions with HTTP 500: no such action.", 500)
        set_data_field([self.tasks[task_id] for task_id in task_ids if task_id in self.tasks], action, body)

    def update_project(self, _: int, **changes: Any) -> None:
        self._up()
        self.config = changes.get("label_config", self.config)
        self.instruction = changes.get("expert_instruction", self.instruction)


def set_data_field(rows: Sequence[dict[str, Any]], action: str, body: Mapping[str, Any]) -> None:
    """Do to task data what Label Studio's action "Add Or Modify Data Field" does."""
    assert action == "add_data_field"
    name, kind, value = body["value_name"], body["value_type"], body["value"]
    for data in rows:
        if kind == "Expression":
            command, arguments = value.split("(")
            assert command == "replace"
            old, new = json.loads(f"[{arguments.removesuffix(')')}]")
            data[name] = data[name].replace(old, new)
        else:
            data[name] = {"String": str, "Number": float}[kind](value)


def annotation(annotation_id: int, label: str, at: str = "2026-01-01T10:00:00Z") -> dict[str, Any]:
    """Return an annotation of `CONFIG` as Label Studio sends it."""
    region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    return {"id": annotation_id, "result": [region], "updated_at": at, "completed_by": 1, "was_cancelled": False}


def quick_distil(
    corpus: Corpus,
    config: SLMConfig,
    *,
    progress: Callable[[int, int, Mapping[str, Any]], None],
    save_to: Path,
    earlier: Earlier | None = None,
) -> Distilled:
    """Stand in for the training: an SLM that believes the word "good" and has no doubts to speak of."""
    assert earlier is None, "it leaves nothing that could serve again"
    progress(1, 1, {"epoch": 1, "loss": 0.1})
    save_to.mkdir(parents=True, exist_ok=True)
    says = np.array(["good" in text for text in corpus.texts], dtype=int)
    n = len(corpus.texts)
    probs = np.full((n, corpus.n_classes), 0.1)
    probs[np.arange(n), says] = 0.9
    given = np.where(corpus.human_labels >= 0, corpus.human_labels, corpus.llm_labels)
    losses = np.where(given >= 0, -np.log(probs[np.arange(n), np.maximum(given, 0)]), np.nan)
    p_clean = np.where(corpus.llm_labels >= 0, probs[np.arange(n), np.maximum(corpus.llm_labels, 0)], np.nan)
    features = np.stack([says, np.arange(n) / n], axis=1).astype(np.float32)
    return Distilled(probs, losses, p_clean, features, [{"epoch": 1}], {"means": [0.1, 2.3]}, {"training": 0.0}, [])


class QuickModel:
    """Stand in for a trained model: it believes the same word as ``quick_distil``."""

    @classmethod
    def load(cls, _: Path) -> QuickModel:
        return cls()

    def predict(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        probs = np.array([[0.1, 0.9] if "good" in text else [0.9, 0.1] for text in texts])
        return probs, np.zeros((len(texts), 2), dtype=np.float32)

    def p_clean(self, losses: Floats) -> Floats:
        return np.asarray(np.exp(-losses))
