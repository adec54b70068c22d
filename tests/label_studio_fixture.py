"""A real Label Studio for the tests: one for the whole session, on SQLite in a temporary folder."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.services.label_studio_server import LabelStudioServer

ROOT = Path(__file__).resolve().parent.parent

CONFIG = """<View>
  <Text name="text" value="$text"/>
  <Choices name="label" toName="text" choice="single" required="true">
    <Choice value="positive"/><Choice value="negative"/>
  </Choices>
</View>"""


@dataclass
class LabelStudioUnderTest:
    """A running server with its token, and a client of it."""

    server: LabelStudioServer
    token: str
    client: LabelStudioClient
    _titles: Iterator[int] = field(default_factory=count)

    @property
    def url(self) -> str:
        return self.server.url

    def new_project(self, texts: list[str] | None = None, label_config: str = CONFIG) -> tuple[int, list[int]]:
        """Make a project with one task a text; return its id and the ids of its tasks."""
        project = int(self.client.create_project(f"test project {next(self._titles)}", label_config)["id"])
        ids = self.client.import_tasks(project, [{"data": {"text": text}} for text in texts]) if texts else []
        return project, ids

    def annotate(self, task_id: int, label: str | None, *, skip: bool = False, **more: Any) -> dict[str, Any]:
        """Submit what a person would: a label, an empty form (None), or a skip."""
        chosen = {"choices": [label]} if label else {"choices": []}
        region = {"id": "person", "from_name": "label", "to_name": "text", "type": "choices", "value": chosen}
        body = {"result": [region] if label else [], "was_cancelled": skip, "lead_time": 1.5, **more}
        return dict(self.client.request("POST", f"api/tasks/{task_id}/annotations/", body=body))


def label_studio_venv() -> Path:
    """Return the environment that Label Studio is installed in; without one skip the test, or in CI fail it."""
    venv = Path(os.environ.get("LABEL_STUDIO_VENV") or ROOT / ".venv-labelstudio")
    if (venv / "bin" / "label-studio").exists():
        return venv
    message = f"no Label Studio in {venv}: `make test` makes it; or set LABEL_STUDIO_VENV."
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def label_studio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """Start Label Studio once a session: about half a minute, most of it database migrations."""
    server = LabelStudioServer(
        label_studio_venv(), tmp_path_factory.mktemp("label-studio"), email="tester@example.com", legacy_tokens=True
    )
    with server:
        yield server


@pytest.fixture(scope="session")
def label_studio(label_studio_server: LabelStudioServer) -> Iterator[LabelStudioUnderTest]:
    """Return the session's Label Studio with a logged-in client."""
    token = label_studio_server.api_token()
    with LabelStudioClient(label_studio_server.url, token) as client:
        yield LabelStudioUnderTest(label_studio_server, token, client)


@pytest.fixture
def new_project(label_studio: LabelStudioUnderTest) -> Callable[..., tuple[int, list[int]]]:
    """Return a function that makes a fresh project."""
    return label_studio.new_project


@pytest.fixture
def label_studio_copy(label_studio: LabelStudioUnderTest, tmp_path: Path) -> Path:
    """Return a data folder with a copy of the session's database, so that a second server starts in seconds."""
    source, target = label_studio.server.data_dir, tmp_path / "copy"
    target.mkdir()
    for name in (".env", "credentials.json"):
        shutil.copy(source / name, target / name)
    with (
        closing(sqlite3.connect(source / "label_studio.sqlite3")) as old,
        closing(sqlite3.connect(target / "label_studio.sqlite3")) as new,
    ):
        old.backup(new)
    return target
