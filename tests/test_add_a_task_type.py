"""Does docs/ADD_A_TASK_TYPE.md lead from nothing to a working strategy, word for word?"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_backend.labelstudio.control_tags import CONTROL_TAGS
from strategies.tasks import mistakes
from strategies.tasks.base import TaskStrategy
from tests.label_studio_fixture import label_studio_venv
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, label

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "ADD_A_TASK_TYPE.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def endpoint() -> Iterator[ScriptedOpenAI]:
    """Stand in for the LLM: it knows every answer."""
    gold = {row["ticket"]: row["urgency"] for row in csv.DictReader(BLOCKS[0].split("END'\n")[1].splitlines())}

    def answer(call: Call) -> Reply:
        return label(gold.get(call.text, "low"))

    with ScriptedOpenAI(answer=answer) as server:
        yield server


def run(script: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run commands as a reader of the page would: in a shell of the environment, in a folder of his own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORAL_", "OPENAI_", "REDIS_", "DATABASE_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **more}
    return subprocess.run(
        ["bash", "-e"], input=script, cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_the_strategy_is_written_checked_and_listed(tmp_path: Path) -> None:
    done = run("".join(BLOCKS[:4]), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "urgency.yaml: nothing is wrong.\n" in done.stdout
    assert re.search(r"^  urgency +Urgency of a ticket .*\[.*my-strategies/urgency\.yaml\]$", done.stdout, re.MULTILINE)
    assert re.search(r"^  topic .*\[built in\]$", done.stdout, re.MULTILINE)


def test_a_mistake_is_told_as_the_page_shows_it(tmp_path: Path) -> None:
    assert run("".join(BLOCKS[:2]), tmp_path).returncode == 0
    path = tmp_path / "my-strategies" / "urgency.yaml"
    path.write_text(path.read_text().replace("levels: {labels}", "levels: {lables}"))
    done = run(BLOCKS[2], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("urgency.yaml, line 8: ")
    assert done.stderr in PAGE


def test_the_page_names_every_key_and_every_tag() -> None:
    table = PAGE.partition("## What a file may hold")[2]
    named = set(re.findall(r"`(\w+)`", table))
    assert set(TaskStrategy.__dataclass_fields__) - {"name"} <= named
    assert set(CONTROL_TAGS) <= named


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_whole_page_labels_tickets(tmp_path: Path, endpoint: ScriptedOpenAI) -> None:
    assert len(BLOCKS) == 5
    llm = {"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": "test-key", "CORAL_LLM_MODEL": "scripted"}
    done = run("".join(BLOCKS), tmp_path, LABEL_STUDIO_VENV=str(label_studio_venv()), OMP_NUM_THREADS="1", **llm)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"task strategy\W+urgency", done.stderr)
    figures = json.loads((tmp_path / "urgency.json").read_text())
    assert (figures["task_strategy"], figures["tasks"], figures["annotated"]) == ("urgency", 18, 18)
    assert figures["pushed"] == {"sent": 18, "created": 18}
    assert figures["gold_accuracy"]["llm"] == 1.0
    asked = [call.messages for call in endpoint.history]
    assert len(asked) >= 18
    assert all("You sort the tickets of a help desk" in messages[0]["content"] for messages in asked)
    assert all("people cannot work, lose money or are in danger" in messages[0]["content"] for messages in asked)
    assert mistakes(tmp_path / "my-strategies" / "urgency.yaml", CONTROL_TAGS) == []
