"""A Label Studio in memory, with the verbs of our client that rounds, ``connect`` and ``doctor`` use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coral_backend.labelstudio.client import LabelStudioClient, LabelStudioHTTPError, PredictionRow, PushReport
from coral_backend.types import Progress
from tests.stand_ins import set_data_field

URL = "http://label-studio.test"


class FakeLabelStudio(LabelStudioClient):
    """One project with tasks; remembers what it was told.

    Attributes
    ----------
    hooks, backends : list of dict
        As Label Studio answers them.
    refuse : LabelStudioHTTPError or None
        Raised by whatever writes.
    """

    def __init__(self, project_id: int, config: str, texts: Sequence[str] = (), data: Sequence[Any] = ()) -> None:
        self.url = URL
        self.row: dict[str, Any] = {
            "id": project_id, "title": "Film reviews", "label_config": config, "task_number": len(texts), "model_version": "",
        }  # fmt: skip
        extra = list(data) or [{} for _ in texts]
        self.tasks: list[dict[str, Any]] = [
            {"id": i, "data": {"text": t, **extra[i - 1]}} for i, t in enumerate(texts, 1)
        ]
        self.annotated: list[dict[str, Any]] = []
        self.pushed: list[PredictionRow] = []
        self.tabs: list[dict[str, Any]] = []
        self.hooks: list[dict[str, Any]] = []
        self.backends: list[dict[str, Any]] = []
        self.refuse: LabelStudioHTTPError | None = None
        self.kind = "personal"

    # --- account and project --------------------------------------------------------------------------------------

    def token_kind(self) -> Any:
        return self.kind

    def whoami(self) -> dict[str, Any]:
        return {"email": "tester@example.com"}

    def version(self) -> str:
        return "1.23.2"

    def projects(self) -> list[dict[str, Any]]:
        return [self.row]

    def project(self, project_id: int) -> dict[str, Any]:
        if project_id != self.row["id"]:
            raise LabelStudioHTTPError(f"Label Studio answered GET api/projects/{project_id}/ with HTTP 404.", 404)
        return dict(self.row)

    def request(self, method: str, path: str, **options: Any) -> Any:
        if method == "GET":
            return {"api/ml": self.backends, "api/webhooks/": self.hooks}[path]
        if self.refuse is not None:
            raise self.refuse
        if (method, path) == ("POST", "api/webhooks/"):
            made = {**options["body"], "id": len(self.hooks) + 100}
            self.hooks.append(made)
            return made
        assert method == "DELETE"
        self.hooks = [hook for hook in self.hooks if not path.endswith(f"/{hook['id']}/")]
        return None

    def connect(self, project_id: int, url: str, **told: Any) -> tuple[int, int]:
        if self.refuse is not None:
            raise self.refuse
        hook = {
            "id": 5, "url": f"{url}/webhook", "headers": {"X-Coral-Secret": told["secret"]}, "is_active": True,
            "send_payload": True,
        }  # fmt: skip
        self.hooks = [hook]
        self.backends = [
            {"id": 6, "url": url, "state": "CO", "readable_state": "Connected", **told, "project": project_id}
        ]
        return 6, 5

    # --- rounds ---------------------------------------------------------------------------------------------------

    def iter_tasks(
        self, project_id: int, updated_after: str | None = None, progress: Progress | None = None
    ) -> Iterator[dict[str, Any]]:
        yield from self.tasks

    def annotated_tasks(self, project_id: int, updated_after: str | None = None) -> Iterator[dict[str, Any]]:
        yield from self.annotated

    def push_predictions(
        self, project_id: int, rows: Sequence[PredictionRow], progress: Progress | None = None
    ) -> PushReport:
        self.pushed = list(rows)
        return PushReport(len(rows), len(rows))

    def select_version(self, project_id: int, version: str) -> None:
        self.row["model_version"] = version

    def views(self, project_id: int) -> list[dict[str, Any]]:
        return self.tabs

    def columns(self, project_id: int) -> list[dict[str, Any]]:
        return []

    def run_action(
        self,
        project_id: int,
        action: str,
        task_ids: Sequence[int],
        body: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = False,
    ) -> None:
        set_data_field([task["data"] for task in self.tasks if task["id"] in task_ids], action, body or {})

    def update_project(self, project_id: int, **changes: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.row |= changes

    def create_view(self, project_id: int, data: Mapping[str, Any]) -> int:
        self.tabs.append({"id": len(self.tabs) + 1, "data": dict(data)})
        return len(self.tabs)

    def update_view(self, project_id: int, view_id: int, data: Mapping[str, Any]) -> None:
        self.tabs[view_id - 1]["data"] = dict(data)

    def view_count(self, project_id: int, view_id: int) -> int:
        token = self.tabs[view_id - 1]["data"]["filters"]["items"][0]["value"]
        return sum(token in json.dumps(row[1]) for row in self.pushed)
