"""Does every verb say in one line what it did, or what is wrong and what to do?"""

from __future__ import annotations

import csv
import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from coral_backend import cli, console
from coral_backend.exceptions import EndpointError, LabelStudioError, QueueUnavailableError
from coral_backend.labelstudio.hint import LINE
from coral_backend.rounds import round_lease
from coral_backend.store import Lease, Store
from coral_backend.sync import refresh_project
from coral_backend.types import Flag, Round, RoundStatus, Source, Stage
from tests import filled_store as filled
from tests.fake_label_studio import FakeLabelStudio

ROOT = Path(__file__).resolve().parents[1]
CANARY = "canary-4711-secret"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the verbs in a folder of their own, with no setting of this machine, and give the log back."""
    import os

    for name in [n for n in os.environ if n.startswith(("CORAL_", "OPENAI_", "LABEL_STUDIO_", "REDIS_", "DATABASE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("CORAL_PUBLIC_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'coral.sqlite3'}")
    yield made
    made.close()


def coral(*words: str) -> Result:
    return CliRunner().invoke(cli.main, list(words), prog_name="coral")


def told(result: Result) -> str:
    """Return the error line of a verb that failed as it should."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.stderr.strip()


class ScriptedRunner:
    """Stands in for ``RoundRunner``: ends rounds at once, in the way that the test wants."""

    end: Exception | None = None
    status = RoundStatus.DONE
    ran: Sequence[int] = ()

    def __init__(self, store: Store, *_: Any, watch: Any, **__: Any) -> None:
        self.store, self.watch = store, watch

    def run(self, round_id: int) -> Round:
        type(self).ran = [*self.ran, round_id]
        self.watch(Stage.ANNOTATE, 1, 2, {"annotator": "recorded:llm"})
        if self.end is not None:
            raise self.end
        return complete(self.store, round_id, self.status)


def complete(store: Store, round_id: int, status: RoundStatus = RoundStatus.DONE) -> Round:
    lease = store.take_lease(round_lease(round_id))
    assert isinstance(lease, Lease)
    if status is RoundStatus.DONE:
        metrics = {"flags": {"clean": 3, "noisy": 2, "inconsistent": 1}, "tasks": 6, "annotator": "[b]recorded[/b]"}
        store.finish_round(round_id, lease, filled.VERSION, metrics)
    else:
        store.set_round_status(round_id, status, "The endpoint refuses the key.")
    store.drop_lease(lease)
    return store.round(round_id)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedRunner]:
    scripted = type("Scripted", (ScriptedRunner,), {})
    monkeypatch.setattr("coral_backend.rounds.RoundRunner", scripted)
    return scripted


# --- start-up -----------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom coral_backend import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'label_studio_sdk', 'label_studio_ml', 'sqlalchemy', 'numpy', 'openai',"
        " 'pydantic', 'flask', 'rq', 'rich'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "HEAVY []" in done.stdout
    assert "coral demo" in done.stdout


@pytest.mark.parametrize("verb", sorted(cli.main.commands))
def test_every_verb_has_a_help(verb: str) -> None:
    result = coral(verb, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: coral {verb}")


def test_the_promised_verbs_are_there() -> None:
    assert set(cli.main.commands) == {
        "changes", "check", "connect", "demo", "doctor", "export", "rollback", "round", "serve", "status", "strategies", "up", "worker",
    }  # fmt: skip


# --- errors -------------------------------------------------------------------------------------------------------


def test_an_error_is_one_line_and_debug_shows_where_it_comes_from() -> None:
    line = told(coral("status", "--project", "9"))
    assert line.startswith("Error: Project 9 is not connected")
    assert len(line.splitlines()) == 1
    assert coral("--debug", "status", "--project", "9").exception.__class__.__name__ == "NotFoundError"


def test_a_misspelt_setting_is_told_by_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORAL_EPOCH", "3")
    for words in (["status"], ["round"], ["export", "--output", "x.csv"], ["up"], ["serve"], ["worker"]):
        assert "Unknown setting CORAL_EPOCH" in told(coral(*words))
    result = coral("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["checks"][0]["found"] == "Unknown setting CORAL_EPOCH."


def test_a_foreign_error_shows_its_kind_and_not_its_text(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    filled.fill(store)

    def fail(*_: object) -> None:
        raise RuntimeError(f"request with {CANARY}")

    monkeypatch.setattr("coral_backend.status.status_of", fail)
    line = told(coral("status"))
    assert "Unexpected RuntimeError" in line
    assert CANARY not in line


def test_a_database_that_is_away_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://coral:{CANARY}@127.0.0.1:9/coral")
    line = told(coral("status"))
    assert "database" in line or "psycopg" in line
    assert CANARY not in line


def test_without_label_studio_a_round_fails_with_the_missing_setting(store: Store) -> None:
    filled.save_project(store)
    result = coral("round", "--here")
    assert "LABEL_STUDIO_URL is not set" in told(result)


# --- connect ------------------------------------------------------------------------------------------------------


def test_connect_says_what_it_did_and_no_secret(monkeypatch: pytest.MonkeyPatch, store: Store, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "_client", lambda _: FakeLabelStudio(1, filled.CONFIG))
    result = coral("connect", "--project", "1", "--option", "epochs=5")
    assert result.exit_code == 0, result.output
    for words in (
        "pos, neg",
        "/webhook (id 5)",
        "(id 6, 'CORAL')",
        "epochs=5",
        "Next: coral round --project 1",
        "note",
    ):
        assert words in result.output
    secrets = json.loads((tmp_path / "secrets.json").read_text())
    assert str(tmp_path / "secrets.json") in result.output
    assert not [value for value in secrets.values() if value in result.output]
    assert "Connected again" in coral("connect", "--project", "1").output
    assert "name=value" in told(coral("connect", "--project", "1", "--option", "epochs"))
    assert "no project 8" in told(coral("connect", "--project", "8"))


# --- status and export --------------------------------------------------------------------------------------------


def test_status_shows_the_rounds_as_table_and_as_json(store: Store) -> None:
    filled.fill(store)
    result = coral("status")
    assert result.exit_code == 0, result.output
    for words in ("Film reviews", "6, 1 without a readable text", filled.VERSION, "early stop"):
        assert words in result.output
    found = json.loads(coral("status", "--json").stdout)
    (project,) = found["projects"]
    assert project["flags"] == {"clean": 2, "noisy": 2, "inconsistent": 1}
    (line,) = project["rounds"]
    # People said "pos" of task 2 (LLM and SLM: "neg") and of task 3 (LLM: "neg", SLM: "pos").
    assert (line["name"], line["llm"], line["slm"], line["compared"]) == ("1", 0.0, 0.5, 2)
    assert project["tokens"] == {"prompt": 70, "completion": 14}
    assert found["queue"]["workers"] == []


def test_status_shows_an_active_round_and_takes_no_title_for_markup(store: Store) -> None:
    filled.save_project(store)
    store.save_project(filled.save_project(store).__class__(1, "[red]x[/nope]", filled.CONFIG, "hash", filled.SPACE))
    begun = store.create_round(1, {})
    store.set_round_status(begun.id, RoundStatus.PAUSED, "No quota [/left].")
    result = coral("status")
    assert result.exit_code == 0, result.output
    assert "[red]x[/nope]" in result.output
    assert "round 1 is paused" in result.output
    assert "No quota [/left]." in result.output


def test_status_before_anything_is_connected() -> None:
    result = coral("status")
    assert result.exit_code == 0
    assert "coral connect" in result.output


def test_export_writes_and_counts(store: Store, tmp_path: Path) -> None:
    filled.fill(store)
    filled.put_sample(store, 7, "=1+1", "pos")
    result = coral("export", "--output", "labels.csv")
    assert result.exit_code == 0, result.output
    assert "7 tasks (csv)" in result.output
    assert "1 cells" in result.output
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        assert [row["task_id"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5", "6", "7"]
    assert "4 tasks (jsonl)" in coral("export", "--clean-only", "--format", "jsonl", "--output", "clean").output
    assert "tells no format" in told(coral("export", "--output", "labels"))


def a_retraining(store: Store) -> None:
    """Fill the store, and retrain on the label that people gave to task 3; task 1 changes along with it."""
    first = filled.fill(store).round(1)
    verdicts = {v.task_id: v for v in store.verdicts(filled.PROJECT, first.id)}
    verdicts[3] = replace(verdicts[3], source=Source.HUMAN, flag=Flag.CLEAN)
    verdicts[1] = replace(verdicts[1], label="neg", score=0.6, source=Source.SLM, flag=Flag.INCONSISTENT)
    filled.finish_round(store, list(verdicts.values()), retrain=True, version="coral-r1.1-def456")


def test_changes_shows_what_a_retraining_changed_elsewhere(store: Store) -> None:
    a_retraining(store)
    assert "elsewhere 1 labels and 1 flags changed, of 5 tasks" in coral("status").output
    result = coral("changes")
    assert result.exit_code == 0, result.output
    for words in (
        "good film",
        "pos → neg",
        "70.0% → 60.0%",
        "clean → inconsistent",
        "(by a person)",
        "Round 1.1 learned",
    ):
        assert words in result.output, words
    found = json.loads(coral("changes", "1.1", "--json", "--limit", "1").stdout)
    assert found["effect"] == {
        "round": "1.1", "before": "1", "people": 1, "labels": 1, "flags": 1, "tasks": 1, "compared": 5,
    }  # fmt: skip
    assert [change["task_id"] for change in found["changes"]] == [3]
    assert "no round '9'" in told(coral("changes", "9"))
    assert "nothing to be compared with" in told(coral("changes", "1"))


def test_rollback_says_what_serves_now(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    a_retraining(store)
    client = FakeLabelStudio(1, filled.CONFIG, filled.TEXTS)
    digest = refresh_project(store, client, 1).config_hash
    monkeypatch.setattr(cli, "_client", lambda _: client)
    assert "labels of project 1 were changed" in told(coral("rollback", "1"))
    with closing(sqlite3.connect("coral.sqlite3")) as database, database:
        database.execute("UPDATE rounds SET config_hash = ?", [digest])
    result = coral("rollback", "1")
    assert result.exit_code == 0, result.output
    assert f"Round 1 of project 1 serves again instead of round 1.1 ({filled.VERSION})." in result.output
    assert "1 came after it and wait for the next round" in result.output
    assert client.row["model_version"] == store.project(1).model_version == filled.VERSION
    assert "serves already" in told(coral("rollback", "1"))


def test_connect_puts_the_hint_in_and_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeLabelStudio(1, filled.CONFIG, filled.TEXTS)
    monkeypatch.setattr(cli, "_client", lambda _: client)
    assert "one line in the form" in coral("connect", "--project", "1", "--hint").output
    digest = store.project(1).config_hash
    assert client.row["label_config"] == filled.CONFIG.replace("<View>", f"<View>{LINE}")
    assert store.project(1).label_config == client.row["label_config"]
    assert "  hint " not in coral("connect", "--project", "1").output
    assert LINE in client.row["label_config"], "connecting again changes nothing"
    assert "none in the form" in coral("connect", "--project", "1", "--no-hint").output
    assert client.row["label_config"] == filled.CONFIG
    assert store.project(1).config_hash == digest


def test_of_several_projects_one_must_be_named(store: Store) -> None:
    filled.fill(store)
    filled.save_project(store, 2)
    assert "2 projects are connected" in told(coral("export", "--output", "labels.csv"))
    assert coral("export", "--project", "2", "--output", "labels.csv").exit_code == 0


# --- rounds -------------------------------------------------------------------------------------------------------


def test_without_a_worker_a_round_runs_in_this_process(
    store: Store, runner: type[ScriptedRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://ls.test/")
    filled.fill(store)
    result = coral("round")
    assert result.exit_code == 0, result.output
    for words in ("No worker is running", "Round 2 of project 1", "3 clean, 2 noisy, 1 inconsistent", filled.VERSION):
        assert words in result.output
    assert "[b]recorded[/b]" in result.output
    assert "http://ls.test/projects/1/data" in result.output


def test_here_runs_a_retraining_in_this_process(store: Store, runner: type[ScriptedRunner]) -> None:
    filled.fill(store)
    result = coral("round", "--here", "--retrain")
    assert "Round 1.1 of project 1" in result.output
    assert "No worker" not in result.output


def test_a_round_that_pauses_or_fails_exits_with_its_reason(store: Store, runner: type[ScriptedRunner]) -> None:
    filled.fill(store)
    runner.status = RoundStatus.PAUSED
    assert "paused at sync: The endpoint refuses the key." in told(coral("round", "--here"))
    # It is there still, and wants to be resumed.
    assert "--resume" in told(coral("round", "--here"))
    runner.status = RoundStatus.DONE
    result = coral("round", "--here", "--resume")
    assert (result.exit_code, "goes on at sync" in result.output) == (0, True)


@pytest.mark.parametrize("end", [LabelStudioError("Label Studio is away."), EndpointError("The key is wrong.")])
def test_an_absent_part_says_how_to_go_on(store: Store, runner: type[ScriptedRunner], end: Exception) -> None:
    filled.fill(store)
    runner.end = end
    result = coral("round", "--here")
    assert str(end) in told(result)
    assert "go on with: coral round --project 1" in result.stderr
    active = store.active_round(1)
    assert active is not None
    runner.end = None
    assert "is under way" in coral("round", "--here").output
    assert list(runner.ran) == [active.id, active.id]


def test_ctrl_c_leaves_the_round(store: Store, runner: type[ScriptedRunner]) -> None:
    filled.fill(store)
    runner.end = KeyboardInterrupt()  # type: ignore[assignment]
    result = coral("round", "--here")
    assert (result.exit_code, "go on with" in result.output) == (130, True)
    assert store.active_round(1) is not None


def test_pause_and_cancel(store: Store) -> None:
    filled.fill(store)
    assert "no active round" in told(coral("round", "--pause"))
    assert "no paused round" in told(coral("round", "--resume"))
    begun = store.create_round(1, {})
    assert "is paused at sync" in coral("round", "--pause").output
    assert store.round(begun.id).status is RoundStatus.PAUSED
    assert "is cancelled" in coral("round", "--cancel").output
    assert store.round(begun.id).status is RoundStatus.CANCELLED


def test_detach_without_redis_leaves_the_round_for_a_worker(store: Store) -> None:
    filled.fill(store)
    result = coral("round", "--detach")
    assert result.exit_code == 0, result.output
    assert "it waits for a worker" in result.output
    active = store.active_round(1)
    assert active is not None
    assert active.status is RoundStatus.PENDING


def test_here_and_detach_exclude_each_other() -> None:
    assert coral("round", "--here", "--detach").exit_code == 2


def test_a_round_that_a_worker_runs_is_followed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.fill(store)
    asked: list[int] = []

    def ask(_settings: object, round_id: int, **_: object) -> None:
        asked.append(round_id)
        complete(store, round_id)  # a quick worker

    monkeypatch.setattr(cli, "_worker_is_alive", lambda _: True)
    monkeypatch.setattr("coral_backend.jobs.request_advance", ask)
    result = coral("round")
    assert result.exit_code == 0, result.output
    assert "3 clean" in result.output
    assert len(asked) == 1


def test_following_can_be_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.fill(store)

    def leave(*_: object, **__: object) -> Round:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_worker_is_alive", lambda _: True)
    monkeypatch.setattr("coral_backend.jobs.request_advance", lambda *_, **__: None)
    monkeypatch.setattr("coral_backend.follow.follow", leave)
    result = coral("round")
    assert (result.exit_code, "goes on without you" in result.output) == (130, True)


def test_a_queue_that_goes_away_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.fill(store)

    def away(*_: object, **__: object) -> None:
        raise QueueUnavailableError("Redis does not answer.")

    monkeypatch.setattr(cli, "_worker_is_alive", lambda _: True)
    monkeypatch.setattr("coral_backend.jobs.request_advance", away)
    assert "Redis does not answer" in told(coral("round"))


def test_the_table_shows_what_label_studio_did_not_take(store: Store) -> None:
    filled.fill(store)
    done = filled.finish_round(store, [filled.verdict(1, "pos", Flag.CLEAN, 1)], retrain=True, version="v2")
    changed = type(done)(
        **{**vars(done), "metrics": {**done.metrics, "pushed": {"sent": 2, "created": 1, "dropped": [7]}}}
    )
    screen = console.terminal()
    with screen.capture() as capture:
        screen.print(console.round_table(changed))
    assert "1 of 2; not taken by Label Studio: tasks 7" in capture.get()


# --- the rest -----------------------------------------------------------------------------------------------------


def test_doctor_names_cures_and_exits_with_1() -> None:
    result = coral("doctor")
    assert result.exit_code == 1
    for words in ("coral worker", "LABEL_STUDIO_API_KEY", "→", "Something needs mending"):
        assert words in result.output
    found = json.loads(coral("doctor", "--json").stdout)
    assert found["ok"] is False
    assert {check["status"] for check in found["checks"]} <= {"ok", "warn", "fail", "skip"}


def test_strategies_lists_what_can_be_named() -> None:
    result = coral("strategies")
    assert result.exit_code == 0, result.output
    for name in ("sentiment", "topic", "self_labeling", "distilled_selection", "single"):
        assert name in result.output


OWN = """\
title: Urgency of a ticket
tags: [Choices]
slm: text
task_description: How urgent is it? {labels}
demonstration: "{demonstrations}"
output_control: "{query}"
"""


def test_strategies_says_where_each_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "urgency.yaml").write_text(OWN)
    (folder / "wrong.yaml").write_text(OWN.replace("{query}", "{text}"))
    monkeypatch.setenv("CORAL_STRATEGIES", str(folder))
    lines = coral("strategies").output.splitlines()
    assert any("urgency" in line and line.endswith(f"[{folder / 'urgency.yaml'}]") for line in lines)
    assert any("topic" in line and line.endswith("[built in]") for line in lines)
    assert "    wrong.yaml, line 6: 'output_control' has the unknown placeholder {text}. " in "\n".join(lines)
    kinds = {entry["kind"]: entry for entry in json.loads(coral("strategies", "--json").stdout)}
    assert set(kinds) == {"task", "annotation", "demonstration", "distillation"}
    (folder / "topic.yaml").write_text(OWN)
    assert "comes with CORAL; give the file another name" in told(coral("strategies"))


def test_strategies_checks_files_of_the_users(tmp_path: Path) -> None:
    right, wrong, taken = (tmp_path / f"{name}.yaml" for name in ("urgency", "wrong", "topic"))
    right.write_text(OWN)
    wrong.write_text(OWN.replace("Choices", "KeyPoint").replace("How urgent", "How {x} urgent"))
    taken.write_text(OWN)
    done = coral("strategies", "--check", str(right))
    assert (done.exit_code, done.output) == (0, "urgency.yaml: nothing is wrong.\n")
    done = coral("strategies", "--check", str(right), "--check", str(wrong), "--check", str(taken))
    assert (done.exit_code, done.stdout) == (1, "urgency.yaml: nothing is wrong.\n")
    assert [line.partition(": '")[0] for line in done.stderr.splitlines()] == [
        "wrong.yaml, line 2", "wrong.yaml, line 4", "topic.yaml",
    ]  # fmt: skip


def test_demo_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []

    def run(options: Any) -> int:
        seen.append(options)
        return 3

    monkeypatch.setattr("coral_backend.demo.runner.run_demo", run)
    (tmp_path / "data.csv").write_text("text,gold\na,b\n")
    result = coral(
        "demo", "--data", "data.csv", "--gold", "gold", "--noisy-labels", "llm", "--labels", "b, c", "--rows", "5", "--once",
        "--json", "out.json", "--dir", "there",
    )  # fmt: skip
    assert result.exit_code == 3
    (options,) = seen
    assert (options.data, options.gold, options.noisy_labels) == (Path("data.csv"), "gold", "llm")
    assert (options.labels, options.rows, options.once) == (("b", "c"), 5, True)
    assert (options.json_path, options.folder) == (Path("out.json"), Path("there"))


@pytest.mark.parametrize("verb", ["serve", "up"])
def test_a_taken_port_is_told(verb: str) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in told(coral(verb, "--port", port))
