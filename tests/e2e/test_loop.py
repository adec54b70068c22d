"""Does the whole loop turn on real parts: Label Studio, Redis, gunicorn, a worker, the SLM? One story, told in order.

Tasks are imported, the project is connected, round 1 runs on the worker; predictions, scores and tabs are seen through Label
Studio's own API; a person corrects a label, the webhook arrives, the retrained version replaces the old one; a task that is
imported later gets its label by itself.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from coral_backend.auth import secrets_for
from coral_backend.connect import connect
from coral_backend.demo.data import Corpus, shipped
from coral_backend.jobs import request_round
from coral_backend.labelstudio.predictions import other_version
from coral_backend.labelstudio.tabs import tab_counts
from coral_backend.rollback import roll_back
from coral_backend.services.processes import Supervisor, free_port
from coral_backend.services.redis_server import RedisServer
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Round, RoundStatus, Source
from coral_backend.up import start_processes
from tests.label_studio_fixture import LabelStudioUnderTest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROWS, WRONG = 140, 28


@dataclass
class Loop:
    """A connected project and everything around it."""

    studio: LabelStudioUnderTest
    settings: Settings
    store: Store
    project_id: int
    task_ids: list[int]
    corpus: Corpus
    wrong: set[int]
    supervisor: Supervisor

    @property
    def version(self) -> str:
        return self.store.project(self.project_id).model_version

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 400.0) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.3)
        rounds = [(r.name, str(r.status), str(r.stage), r.error) for r in self.store.rounds(self.project_id)]
        log = self.supervisor.log_file("worker").read_text()[-2000:]
        pytest.fail(f"{what}: not within {seconds:.0f} s; rounds {rounds}; worker's log: {log}")

    def wait_for_round(self, name: str) -> Round:
        def over() -> Round | None:
            found = next((r for r in self.store.rounds(self.project_id) if r.name == name), None)
            if found is not None and found.status in (RoundStatus.FAILED, RoundStatus.PAUSED):
                pytest.fail(f"round {name} is {found.status}: {found.error}")
            return found if found is not None and found.status is RoundStatus.DONE else None

        done: Round = self.wait(f"round {name}", over)
        return done

    def prediction_of(self, task_id: int) -> dict[str, Any]:
        """Return what Label Studio shows for a task under the selected version."""
        task = self.studio.client.request("GET", f"api/tasks/{task_id}/")
        selected = self.studio.client.project(self.project_id)["model_version"]
        return next(p for p in task["predictions"] if p["model_version"] == selected)


def chosen(result: list[dict[str, Any]]) -> str:
    choices: list[str] = result[0]["value"]["choices"]
    return choices[0]


@pytest.fixture(scope="module")
def loop(label_studio: LabelStudioUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """Start Redis, web and worker, and connect a project of the shipped messages with a fifth of the labels wrong."""
    folder = tmp_path_factory.mktemp("coral")
    corpus = shipped(rows=ROWS)
    rng = random.Random(0)
    wrong = set(rng.sample(range(ROWS), WRONG))
    tasks = [
        {"data": {"text": row.text, "said": _other(corpus, row.gold, rng) if i in wrong else row.gold}}
        for i, row in enumerate(corpus.rows)
    ]
    project_id, _ = label_studio.new_project(label_config=corpus.label_config())
    task_ids = label_studio.client.import_tasks(project_id, tasks)
    port = free_port()
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("CORAL_", "OPENAI_"))},
        "MODEL_DIR": str(folder),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "CORAL_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "CORAL_EPOCHS": "1",
        "CORAL_RETRAIN_AFTER": "2",
        "CORAL_RETRAIN_SECONDS": "3600",
        "CORAL_RECONCILE_SECONDS": "3600",
    }
    settings = Settings.load(env)
    with ExitStack() as stack:
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        supervisor = stack.enter_context(Supervisor(folder / "logs"))
        start_processes(supervisor, settings, "127.0.0.1", port, env=env, tell=lambda _: None)
        store = Store(settings.store_url)
        stack.callback(store.close)
        options = {"annotator": "recorded", "recorded_key": "said"}
        connect(store, settings, label_studio.client, project_id, options=options)
        request_round(settings, store, project_id)
        yield Loop(label_studio, settings, store, project_id, task_ids, corpus, wrong, supervisor)


def _other(corpus: Corpus, label: str | None, rng: random.Random) -> str:
    return rng.choice([other for other in corpus.labels if other != label])


def test_1_the_round_labels_scores_and_pushes(loop: Loop) -> None:
    done = loop.wait_for_round("1")
    client = loop.studio.client
    versions = client.model_versions(loop.project_id)
    assert versions.pop(str(done.model_version)) == ROWS
    differ = [v for v in loop.store.verdicts(loop.project_id, done.id) if v.llm_label != v.slm_label]
    assert versions == ({other_version(str(done.model_version)): len(differ)} if differ else {})
    assert client.project(loop.project_id)["model_version"] == done.model_version == loop.version
    assert client.scored_tasks(loop.project_id) == ROWS, "the Prediction score column is filled"
    assert done.metrics["pushed"]["created"] == done.metrics["pushed"]["sent"] == ROWS + len(differ)
    assert done.metrics["columns"]["problem"] is None
    data = client.request("GET", f"api/tasks/{loop.task_ids[0]}/")["data"]
    verdict = loop.store.verdicts(loop.project_id, done.id, [loop.task_ids[0]])[0]
    assert (data["text"], data["coral_llm"]) == (loop.corpus.rows[0].text, verdict.llm_label)
    assert (data["coral_rank"], data["coral_flag"]) == (f"{verdict.rank:06d}", str(verdict.flag))


def test_2_the_tabs_show_every_task_once_and_the_wrong_labels_first(loop: Loop) -> None:
    done = loop.wait_for_round("1")
    counts = tab_counts(loop.studio.client, loop.project_id)
    assert sum(counts.values()) == ROWS
    assert [title.split("(")[0].strip() for title in counts] == ["Noisy", "Inconsistent", "Clean"]
    for title, count in counts.items():
        assert f"({count})" in title
        assert len(title) <= 17
    ranked = [v.task_id for v in loop.store.verdicts(loop.project_id, done.id)]
    first = {loop.task_ids.index(task_id) for task_id in ranked[: ROWS // 5]}
    assert len(first & loop.wrong) > WRONG * 0.4, "a random queue would find a fifth of the wrong labels there"


def test_3_predict_answers_what_was_pushed(loop: Loop) -> None:
    loop.wait_for_round("1")
    task = loop.studio.client.request("GET", f"api/tasks/{loop.task_ids[0]}/")
    body = {"tasks": [task], "project": f"{loop.project_id}.1", "label_config": loop.corpus.label_config()}
    known = secrets_for(loop.settings)
    auth = (loop.settings.basic_auth_user, known.password)
    answer = httpx.post(f"{loop.settings.public_url}/predict", json=body, auth=auth, timeout=30.0).json()
    [entry] = answer["results"]
    pushed = loop.prediction_of(loop.task_ids[0])
    assert (entry["model_version"], chosen(entry["result"])) == (loop.version, chosen(pushed["result"]))
    assert entry["score"] == pytest.approx(pushed["score"])


def test_4_a_correction_arrives_and_the_retrained_version_replaces_the_old(loop: Loop) -> None:
    first = loop.wait_for_round("1")
    places = sorted(loop.wrong)[:3]
    for place in places[:2]:
        gold = str(loop.corpus.rows[place].gold)
        loop.studio.annotate(
            loop.task_ids[place], gold, parent_prediction=loop.prediction_of(loop.task_ids[place])["id"]
        )
    loop.wait("the webhooks", lambda: len(loop.store.human_labels(loop.project_id)) == 2, seconds=30)
    again = loop.wait_for_round("1.1")
    assert again.model_version != first.model_version
    assert loop.studio.client.project(loop.project_id)["model_version"] == again.model_version
    verdicts = {v.task_id: v for v in loop.store.verdicts(loop.project_id, again.id)}
    for place in places[:2]:
        task_id, gold = loop.task_ids[place], str(loop.corpus.rows[place].gold)
        assert (verdicts[task_id].label, verdicts[task_id].source) == (gold, Source.HUMAN)
        assert chosen(loop.prediction_of(task_id)["result"]) == gold
    human = loop.store.human_labels(loop.project_id)[loop.task_ids[places[0]]]
    assert human.prediction_version == first.model_version, "what pre-filled the form is known"
    assert again.metrics["agreement"]["n"] == 2


def test_5_a_task_imported_later_gets_its_label_by_itself(loop: Loop) -> None:
    loop.wait("no round under way", lambda: loop.store.active_round(loop.project_id) is None)
    before = loop.version
    text = "My parcel has not come yet, the tracking says it is on its way since Monday. Where is it?"
    [task_id] = loop.studio.client.import_tasks(loop.project_id, [{"data": {"text": text, "said": "delivery"}}])

    def shown() -> list[dict[str, Any]]:
        task = loop.studio.client.request("GET", f"api/tasks/{task_id}/")
        return [p for p in task["predictions"] if p["model_version"] == before]

    [prediction] = loop.wait("the late task's prediction", shown, seconds=120)
    assert chosen(prediction["result"]) == "delivery"
    assert 0.0 <= prediction["score"] <= 1.0
    assert loop.version == before, "no new version for a late task"


def test_6_deleting_the_annotation_takes_the_human_label_back(loop: Loop) -> None:
    human = next(iter(loop.store.human_labels(loop.project_id).values()))
    loop.studio.client.request("DELETE", f"api/annotations/{human.annotation_id}/")
    loop.wait("the deletion", lambda: human.task_id not in loop.store.human_labels(loop.project_id), seconds=30)


def test_7_the_counts_in_the_titles_follow_by_themselves(loop: Loop) -> None:
    loop.wait("no round under way", lambda: loop.store.active_round(loop.project_id) is None)

    def tidied() -> bool:
        project = loop.store.project(loop.project_id)
        return project.tidied_change == project.changes

    loop.wait("the tabs", tidied, seconds=90)
    for title, count in tab_counts(loop.studio.client, loop.project_id).items():
        assert f"({count})" in title


def test_8_an_older_round_serves_again(loop: Loop) -> None:
    loop.wait("no round under way", lambda: loop.store.active_round(loop.project_id) is None)
    first, human = loop.wait_for_round("1"), loop.store.human_labels(loop.project_id)
    done = roll_back(loop.store, loop.settings, lambda: loop.studio.client, loop.project_id, "1")
    assert (done.before, done.model_kept) == ("1.1", True)
    assert loop.version == loop.studio.client.project(loop.project_id)["model_version"] == first.model_version
    assert loop.store.human_labels(loop.project_id) == human
    assert loop.studio.client.scored_tasks(loop.project_id) >= ROWS
    for title, count in tab_counts(loop.studio.client, loop.project_id).items():
        assert f"({count})" in title
