"""Does the demo find its project again, whatever became of it, and refuse early what cannot end well?"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from coral_backend.demo import report, runner
from coral_backend.demo.data import Corpus, Row
from coral_backend.demo.runner import DemoOptions, Parts, run_demo
from coral_backend.demo.state import DemoState, Entry
from coral_backend.exceptions import InputError
from coral_backend.labelstudio.client import LabelStudioHTTPError
from coral_backend.store import Store
from coral_backend.types import Project
from tests import filled_store as filled
from tests.fake_label_studio import FakeLabelStudio

URL = "http://127.0.0.1:9"
CORPUS = Corpus("mine.csv", (Row("a", "x"), Row("b", "y"), Row("c")), ("x", "y"), {})


class Projects(FakeLabelStudio):
    """Several projects, each with its tasks and the address it is connected to."""

    def __init__(self) -> None:
        super().__init__(0, "")
        self.made: dict[int, list[Any]] = {}
        self.configs: dict[int, str] = {}
        self.addresses: dict[int, str] = {}
        self.interrupt = False

    def create_project(self, title: str, label_config: str, description: str = "") -> dict[str, Any]:
        number = len(self.configs) + 1
        self.made[number], self.configs[number] = [], label_config
        return {"id": number}

    def project(self, project_id: int) -> dict[str, Any]:
        if project_id not in self.made:
            raise LabelStudioHTTPError("HTTP 404", 404)
        return {"id": project_id, "title": "Demo", "label_config": self.configs[project_id], "model_version": ""}

    def import_tasks(self, project_id: int, tasks: Sequence[Any], *_: Any, **__: Any) -> list[int]:
        if self.interrupt:
            raise KeyboardInterrupt
        self.made[project_id] = list(tasks)
        return [100 * project_id + i for i in range(len(tasks))]

    def connect(self, project_id: int, url: str, **told: Any) -> tuple[int, int]:
        self.addresses[project_id] = url
        return 6, 5

    def request(self, method: str, path: str, **options: Any) -> Any:
        if method == "DELETE" and path.startswith("api/projects/"):
            del self.made[int(path.split("/")[2])]
            return None
        return super().request(method, path, **options)


class Demo:
    """What a start of the demo works with; each ``project()`` is a start of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.client, self.out = folder, Projects(), io.StringIO()
        self.settings = filled.settings_in(folder, public_url=URL)
        self.store = Store(self.settings.store_url)

    @property
    def state(self) -> DemoState:
        return DemoState(self.folder / "demo.json", lambda line: print(line, file=self.out))

    def project(self, corpus: Corpus = CORPUS) -> tuple[Project, dict[int, str]]:
        parts = cast(Parts, type("P", (), {"settings": self.settings, "store": self.store, "client": self.client}))
        return runner._project(parts, corpus, self.state, Console(file=self.out, width=300))


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    made = Demo(tmp_path)
    yield made
    made.store.close()


def test_a_second_start_finds_the_project(demo: Demo) -> None:
    project, gold = demo.project()
    assert gold == {100: "x", 101: "y"}
    assert demo.project() == (project, gold)
    assert list(demo.client.made) == [1]


def test_an_interrupted_import_is_replaced(demo: Demo) -> None:
    demo.client.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        demo.project()
    assert demo.state.get(runner._fingerprint(CORPUS)) == Entry(1)
    demo.client.interrupt = False
    assert demo.project()[0].id == 2
    assert list(demo.client.made) == [2], "the half-made one is gone"
    assert "import into project 1 was interrupted" in demo.out.getvalue()


def test_a_project_deleted_in_label_studio_is_imported_anew(demo: Demo) -> None:
    demo.project()
    del demo.client.made[1]
    project, gold = demo.project()
    assert (project.id, gold) == (2, {200: "x", 201: "y"})
    assert "Project 1 is gone" in demo.out.getvalue()
    assert demo.project()[0].id == 2


def test_a_damaged_state_file_imports_anew_and_says_so(demo: Demo) -> None:
    demo.project()
    path = demo.folder / "demo.json"
    path.write_text(path.read_text()[:20])
    assert demo.project()[0].id == 2
    assert demo.out.getvalue().count("demo.json is damaged") == 1


def test_the_projects_of_other_corpora_learn_the_new_address(demo: Demo) -> None:
    other, gone = (Corpus(name, CORPUS.rows, CORPUS.labels, {}) for name in ("other.csv", "gone.csv"))
    for corpus in (CORPUS, other, gone):
        demo.project(corpus)
    del demo.client.made[3]
    demo.settings = demo.settings.model_copy(update={"public_url": "http://127.0.0.1:10"})
    demo.project()
    assert demo.client.addresses == {1: "http://127.0.0.1:10", 2: "http://127.0.0.1:10", 3: URL}
    assert demo.state.get(runner._fingerprint(gone)) is None


def test_a_port_is_kept_while_it_is_free(tmp_path: Path) -> None:
    port = runner._port(tmp_path, pytest.fail)
    assert runner._port(tmp_path, pytest.fail) == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert runner._port(tmp_path, pytest.fail) != port
    told: list[str] = []
    (tmp_path / "web.port").write_text("")
    assert runner._port(tmp_path, told.append) > 0
    assert len(told) == 1


# --- what is refused before anything starts ---------------------------------------------------------------------------


def test_figures_that_could_not_be_written_are_refused_first(tmp_path: Path) -> None:
    options = DemoOptions(json_path=tmp_path / "missing" / "x.json", folder=tmp_path / "demo")
    with pytest.raises(InputError, match=r"there is no folder .*missing"):
        run_demo(options, Console(file=io.StringIO()))
    assert list(tmp_path.iterdir()) == []


def labels_said(path: Path, **how: Any) -> str:
    out = io.StringIO()
    runner._corpus(DemoOptions(data=path, **how), Console(file=out, width=1000))
    return out.getvalue()


def test_labels_of_the_noisy_column_are_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,said,gold\n" + "".join(f"t{i},[b]l{i:02},g{i % 2}\n" for i in range(12)))
    line = labels_said(path, noisy_labels="said")
    assert line.count("\n") == 1
    assert "'[b]l00', '[b]l01'" in line
    assert "'[b]l09' and 2 more. --labels a,b,c restricts them" in line
    assert labels_said(path, noisy_labels="said", gold="gold") == ""
    assert labels_said(path, noisy_labels="said", labels=("a", "b")) == ""


@pytest.mark.parametrize("labels", [("a", "\ufb01"), ("a", "\x01")])
def test_labels_that_no_config_takes_are_refused_first(tmp_path: Path, labels: tuple[str, str]) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,said\n" + "".join(f"t,{label}\n" for label in (*labels, "fi")), encoding="utf-8")
    with pytest.raises(InputError, match=r"The labels of x\.csv make no label config"):
        labels_said(path, noisy_labels="said")


def test_what_people_copy_is_not_cut_on_a_narrow_terminal(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    login = report.Login("http://127.0.0.1:46947", 1, "coral@localhost.local", "secret-of-the-demo")
    narrow = Console(file=io.StringIO(), width=60)
    text = report.where_to_look(login, {"label_studio": {"tabs": {"Noisy (1)": 1}}}, folder, over=True)
    narrow.print(text, soft_wrap=True)
    assert isinstance(narrow.file, io.StringIO)
    lines = narrow.file.getvalue().splitlines()
    assert any(line.endswith("coral export --project 1 --output labels.xlsx") and str(folder) in line for line in lines)
