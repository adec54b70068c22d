"""Does the backend answer as Label Studio and both lines of label-studio-ml expect, and does it lose nothing?"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from label_studio_ml.model import LabelStudioMLBase, LabelStudioMLManager
from pydantic import SecretStr

from coral_backend import backend as backend_module
from coral_backend.backend import CoralBackend, connect_project, nudge_worker, options_from, parse_project_id
from coral_backend.exceptions import (
    ConflictError,
    InputError,
    LabelConfigError,
    NotFoundError,
    QueueUnavailableError,
    StoreUnavailableError,
)
from coral_backend.labelstudio.predictions import prediction_row
from coral_backend.llm.base import _MAKERS
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import RoundStatus
from strategies.tasks import FOLDER
from tests.web_parts import (
    CONFIG,
    RENAMED,
    UNSERVABLE,
    VERSION,
    annotation,
    chosen,
    event,
    finish_round,
    settings_in,
    store_in,
    task,
    verdict,
)


@dataclass
class Parts:
    settings: Settings
    store: Store
    nudged: list[int] = field(default_factory=list)

    def backend(self, project_id: int | str | None = 1, label_config: str | None = None) -> CoralBackend:
        return CoralBackend(
            project_id, label_config, settings=self.settings, store=self.store, nudge=self.nudged.append
        )


@pytest.fixture
def parts(tmp_path: Path, url: str) -> Iterator[Parts]:
    settings = settings_in(tmp_path, database_url=SecretStr(url))
    store = store_in(settings)
    yield Parts(settings, store)
    store.close()


# --- predict ----------------------------------------------------------------------------------------------------------


def test_a_stored_verdict_is_the_very_prediction_that_is_pushed(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1, "bad", 0.25)])
    [prediction] = parts.backend().predict([task(1)])
    project = parts.store.project(1)
    _, result, score, version = prediction_row(project.label_space, project.model_version, verdict(1, "bad", 0.25))
    assert prediction == {"result": result, "score": score, "model_version": version}
    assert (chosen(prediction), prediction["score"], prediction["model_version"]) == ("bad", 0.25, VERSION)
    assert parts.nudged == []


def test_one_entry_a_task_in_their_order_whatever_the_tasks_are(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1, "good"), verdict(2, "bad")])
    tasks: list[Any] = [task(2), "no task", task(99), task(1), {"data": {}}, None, task(2), {"id": True}, task(-1)]
    answers = parts.backend().predict(tasks)
    assert [a and chosen(a) for a in answers] == ["bad", [], [], "good", [], [], "bad", [], []]


def test_no_tasks_no_answers(parts: Parts) -> None:
    assert parts.backend().predict([]) == []


def test_an_unknown_task_is_noted_for_the_worker(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1)])
    assert parts.backend().predict([task(1), task(5), task(6)])[1:] == [[], []]
    assert parts.store.wanted(1) == [5, 6]
    assert parts.nudged == [1]


def test_before_the_first_round_every_task_waits_for_the_worker(parts: Parts) -> None:
    assert parts.backend().predict([task(1)]) == [[]]
    assert parts.store.wanted(1) == [1]


def test_a_task_whose_text_changed_is_unknown(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1)])
    assert parts.backend().predict([task(1, "another text")]) == [[]]
    assert parts.store.wanted(1) == [1]
    assert [sample.text for sample in parts.store.samples(1)] == ["another text"]
    # The stored text is the new one now; the verdict is still about the old one.
    assert parts.backend().predict([task(1, "another text")]) == [[]]
    assert chosen(parts.backend().predict([task(1)])[0]) == "good"


def test_a_verdict_about_nobody_knows_which_text_does_not_count(parts: Parts) -> None:
    finish_round(parts.store, [replace(verdict(1), content_hash=None)])
    assert parts.backend().predict([task(1)]) == [[]]


def test_of_duplicate_ids_only_the_one_with_the_labelled_text_is_known(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1)])
    first, second = parts.backend().predict([task(1), task(1, "another text")])
    assert chosen(first) == "good"
    assert second == []


@pytest.mark.parametrize("data", [{}, {"text": None}, {"text": ["nested"]}, {"text": ""}, None])
def test_a_task_that_cannot_be_labelled_wakes_nobody(parts: Parts, data: Any) -> None:
    assert parts.backend().predict([{"id": 4, "data": data}]) == [[]]
    assert parts.store.wanted(1) == []
    assert parts.nudged == []
    [sample] = parts.store.samples(1)
    assert sample.problem


def test_a_verdict_without_a_label_is_known_and_not_asked_for_again(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1, None, None)])
    [prediction] = parts.backend().predict([task(1)])
    assert "score" not in prediction
    assert parts.store.wanted(1) == []


@pytest.mark.parametrize("text", ["NUL \x00 and \ud800 surrogate", "  padded \n", "x" * 50_000])
def test_a_text_that_is_stored_differently_is_still_recognised(parts: Parts, text: str) -> None:
    backend = parts.backend()
    backend.predict([task(1, text)])
    stored = {sample.task_id: sample for sample in parts.store.samples(1)}
    begun = finish_round(parts.store, [verdict(2)])
    parts.store.put_verdicts(1, begun.id, [replace(verdict(1), content_hash=stored[1].content_hash)], None)
    assert parts.store.put_samples(1, [stored[1]]) == 0
    assert chosen(backend.predict([task(1, text)])[0]) == "good"


def test_ten_thousand_tasks_in_one_request(parts: Parts) -> None:
    finish_round(parts.store, [verdict(i) for i in range(1, 10_001)])
    answers = parts.backend().predict([task(i) for i in range(1, 10_101)])
    assert [bool(answer) for answer in answers] == [True] * 10_000 + [False] * 100
    assert len(parts.store.wanted(1)) == 100


def test_an_unknown_project_says_which_are_connected(parts: Parts) -> None:
    with pytest.raises(NotFoundError, match=r"Project 8 is not connected to CORAL \(connected: \[1\]\)"):
        parts.backend(8).predict([task(1)])


def test_a_database_that_refuses_to_write_does_not_cost_the_stored_predictions(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_round(parts.store, [verdict(1)])

    def full(*_args: Any, **_kwargs: Any) -> int:
        raise StoreUnavailableError("The database does not answer (disk is full).")

    monkeypatch.setattr(parts.store, "put_samples", full)
    known, unknown = parts.backend().predict([task(1), task(2)])
    assert chosen(known) == "good"
    assert unknown == []


def test_without_a_queue_the_task_waits_in_the_database(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from coral_backend import jobs

    def down(*_args: Any) -> None:
        raise QueueUnavailableError("Redis at 127.0.0.1:1 does not answer")

    monkeypatch.setattr(jobs, "request_catch_up", down)
    answers = CoralBackend(1, settings=parts.settings, store=parts.store).predict([task(1)])
    assert answers == [[]]
    assert parts.store.wanted(1) == [1]
    assert "does not answer" in caplog.text


def test_the_queue_is_asked_for_the_project(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_backend import jobs

    heard: list[int] = []
    monkeypatch.setattr(jobs, "request_catch_up", lambda _settings, project_id: heard.append(project_id))
    nudge_worker(parts.settings, 7)
    assert heard == [7]


def added(parts: Parts, *tasks: Any) -> list[int]:
    """Let Label Studio tell of new tasks; return those that wait for a label then."""
    parts.backend().fit("TASKS_CREATED", event("TASKS_CREATED", tasks=list(tasks)))
    return parts.store.wanted(1)


def test_tasks_that_come_before_any_round_wait_for_it_without_a_mark(parts: Parts) -> None:
    assert added(parts, task(5)) == []
    assert parts.nudged == []


def test_tasks_that_come_while_the_first_round_runs_are_not_forgotten(parts: Parts) -> None:
    parts.store.create_round(1, {})
    assert added(parts, task(5), {"id": 6, "data": {}, "project": 1}) == [5]


def test_tasks_that_come_while_a_round_replaces_one_of_another_config_are_not_forgotten(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1)])
    connect_project(parts.store, parts.settings, 1, RENAMED)
    assert added(parts, task(5)) == []
    parts.store.create_round(1, {})
    assert added(parts, task(6)) == [6]
    parts.backend().predict([task(1)])
    assert parts.store.wanted(1) == [1, 6]


# --- the label config -------------------------------------------------------------------------------------------------


def test_a_config_that_came_with_the_request_updates_the_project_and_hides_old_labels(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1, "good")])
    assert parts.backend(1, RENAMED).predict([task(1)]) == [[]]
    assert parts.store.project(1).label_space.labels == ("good", "awful")
    # Nothing but a round can label under the new config.
    assert parts.store.wanted(1) == []
    assert parts.nudged == []


def test_the_old_config_back_shows_the_old_labels_again(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1, "good")])
    parts.backend(1, RENAMED).predict([task(1)])
    assert chosen(parts.backend(1, CONFIG).predict([task(1)])[0]) == "good"


def test_a_round_under_way_becomes_stale_when_the_labels_change(parts: Parts) -> None:
    begun = parts.store.create_round(1, {})
    connect_project(parts.store, parts.settings, 1, RENAMED)
    now = parts.store.round(begun.id)
    assert now.status is RoundStatus.STALE
    assert "label config" in str(now.error)


def test_a_new_look_of_the_config_leaves_the_round_alone(parts: Parts) -> None:
    begun = parts.store.create_round(1, {})
    look = CONFIG.replace("<View>", '<View style="color: red">')
    assert connect_project(parts.store, parts.settings, 1, look).label_config == look
    assert parts.store.round(begun.id).status is RoundStatus.PENDING


def test_connecting_again_keeps_title_options_and_version(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1)])
    connect_project(parts.store, parts.settings, 1, CONFIG, options={"epochs": 5})
    again = connect_project(parts.store, parts.settings, 1, RENAMED)
    assert (again.title, again.options, again.model_version) == ("One", {"epochs": 5}, VERSION)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"openai_api_key": "sk-canary"}, "openai_api_key cannot be set"),
        ({"epochs": 0}, "epochs|greater"),
        ({"p_threshold": "nonsense"}, "number"),
        ({"model_dir": "/"}, "model_dir cannot be set"),
        ({"task_strategy": "/etc/hostname"}, "'/etc/hostname'. Allowed: auto, .*sentiment.* set CORAL_TASK in"),
        ({"task_strategy": "nonsense"}, "task_strategy is 'nonsense'"),
        ({"slm_model": "/etc"}, "'/etc'. Allowed: embedded. .* set CORAL_SLM_MODEL in CORAL's environment"),
        ({"slm_model": "somebody/model"}, "slm_model is 'somebody/model'"),
        ({"demonstration": "nonsense"}, "Allowed: distilled_selection, retrieval, self_labeling"),
        ({"annotation": "nonsense"}, "Allowed: chain, single, small_first, two_candidates, vote"),
        ({"first_demonstration": "nonsense"}, "first_demonstration is 'nonsense'"),
        ({"annotator": "nobody"}, "Allowed: auto, openai, embedded, recorded"),
    ],
)
def test_options_that_a_project_may_not_have(parts: Parts, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        connect_project(parts.store, parts.settings, 1, CONFIG, options=options)
    assert "sk-canary" not in str(caught.value)
    assert parts.store.project(1).options == {}


def test_every_name_that_exists_may_be_an_option(parts: Parts) -> None:
    names = {"annotator": "recorded", "task_strategy": "topic", "demonstration": "self_labeling"}
    names |= {"annotation": "chain", "llm_models": "a,b"}
    options = {**names, "first_demonstration": "distilled_selection", "slm_model": "embedded"}
    assert connect_project(parts.store, parts.settings, 1, CONFIG, options=options).options == options
    assert set(backend_module.ANNOTATORS) == {"auto", *_MAKERS}


def test_a_strategy_in_the_users_folder_may_be_an_option_by_its_name(parts: Parts, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(FOLDER / "topic.yaml", folder / "ours.yaml")
    ours = settings_in(tmp_path, strategies=folder)
    with pytest.raises(InputError, match="task_strategy is 'ours'"):
        connect_project(parts.store, parts.settings, 1, CONFIG, options={"task_strategy": "ours"})
    assert connect_project(parts.store, ours, 1, CONFIG, options={"task_strategy": "ours"}).options


def test_a_path_may_come_back_from_label_studio_but_not_be_chosen_there(parts: Parts, tmp_path: Path) -> None:
    ours = settings_in(tmp_path, slm_model="our/model")
    assert connect_project(parts.store, ours, 1, CONFIG, options={"slm_model": "our/model"}).options
    # As `coral connect` does: it stores what was said on the command line, then tells Label Studio, which says it to us.
    parts.store.save_project(replace(parts.store.project(1), options={"task_strategy": "/our/task.yaml"}))
    same = {"task_strategy": "/our/task.yaml", "epochs": 5}
    assert connect_project(parts.store, parts.settings, 1, CONFIG, options=same).options == same
    with pytest.raises(InputError, match="task_strategy"):
        connect_project(parts.store, parts.settings, 1, CONFIG, options={"task_strategy": "/their/task.yaml"})
    assert parts.store.project(1).options == same


@pytest.mark.parametrize("given", [None, "", {}, [], "  "])
def test_empty_extra_params_change_no_option(given: Any) -> None:
    assert options_from(given) is None


def test_extra_params_may_be_an_object_or_its_json() -> None:
    assert options_from({"epochs": 5}) == options_from('{"epochs": 5}') == {"epochs": 5}


@pytest.mark.parametrize("given", ["{", "[1]", [1], 7, "[" * 100_000])
def test_extra_params_of_another_kind_are_refused(given: Any) -> None:
    with pytest.raises(InputError, match="extra_params"):
        options_from(given)


@pytest.mark.parametrize("given", [7, "7", "7.1795254486", {"id": 7}])
def test_what_label_studio_sends_as_project(given: Any) -> None:
    assert parse_project_id(given) == 7


@pytest.mark.parametrize(
    "given",
    ["../../x", "", "7.", ".7", "7.x", "٧", "7\n", 0, -1, True, None, 7.0, 2**31, "9" * 5000, [7], {"id": "../x"}],
)
def test_what_is_no_project(given: Any) -> None:
    with pytest.raises(InputError, match="must be a number"):
        parse_project_id(given)


# --- both lines of label-studio-ml ------------------------------------------------------------------------------------


def test_it_is_an_ml_backend_of_the_installed_line(parts: Parts) -> None:
    assert isinstance(parts.backend(), LabelStudioMLBase)


def test_1_0_9s_manager_can_drive_it(parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    finish_round(parts.store, [verdict(1)])
    monkeypatch.setattr(backend_module, "_default_settings", lambda: parts.settings)
    monkeypatch.setattr(backend_module, "_default_store", lambda _url: parts.store)
    (tmp_path / "upstream").mkdir()
    manager = LabelStudioMLManager()
    manager.initialize(CoralBackend, model_dir=str(tmp_path / "upstream"))
    try:
        manager.fetch("1.1795254643", CONFIG, hostname="http://ls", access_token="canary")
        answers, _ = manager.predict(
            [task(1)], "1.1795254643", CONFIG, False, True, login=None, password=None, context=None
        )
        assert chosen(answers[0]) == "good"
        model = manager._current_model.model
        assert "canary" not in repr(vars(model))
        body = event("ANNOTATION_CREATED", annotation=annotation(9, 1))
        assert model.process_event("ANNOTATION_CREATED", body, "job", {"workdir": "x"})["changed"] == 1
    finally:
        LabelStudioMLManager._current_model = {}
    assert parts.store.human_labels(1)[1].label == "bad"


def test_1_0_9s_training_data_are_annotated_tasks(parts: Parts) -> None:
    tasks = [{**task(1), "annotations": [annotation(1, 1)]}, {**task(2), "annotations": []}]
    assert parts.backend(None).fit(iter(tasks), None)["changed"] == 1
    assert set(parts.store.human_labels(1)) == {1}


def test_without_a_project_the_only_connected_one_is_meant(parts: Parts) -> None:
    finish_round(parts.store, [verdict(1)])
    nameless = {key: value for key, value in task(1).items() if key != "project"}
    assert chosen(parts.backend(None).predict([nameless])[0]) == "good"
    connect_project(parts.store, parts.settings, 2, CONFIG)
    with pytest.raises(InputError, match="Which project"):
        parts.backend(None).predict([nameless])


STAND_IN_2X = """
from abc import ABC

class LabelStudioMLBase(ABC):
    def __init__(self, project_id=None, label_config=None):
        raise AssertionError("2.x's constructor writes cache.db")

    @property
    def label_config(self):
        return self.get("label_config")

    @property
    def model_version(self):
        raise AssertionError("2.x reads its cache")

    def predict(self, tasks, context=None, **kwargs):
        raise NotImplementedError

    def fit(self, event, data, **additional_params):
        raise NotImplementedError
"""


@pytest.fixture
def module_2x(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Our module as it is when label-studio-ml 2.x is installed: its base class has the same shape as 2.x's."""
    stand_in = ModuleType("label_studio_ml.model")
    exec(STAND_IN_2X, vars(stand_in))  # noqa: S102 - our own text
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", stand_in)
    spec = importlib.util.spec_from_file_location("backend_2x", backend_module.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "backend_2x", module)
    spec.loader.exec_module(module)
    return module


def test_2xs_calls(parts: Parts, module_2x: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    finish_round(parts.store, [verdict(1)])
    monkeypatch.setattr(module_2x, "_default_settings", lambda: parts.settings)
    monkeypatch.setattr(module_2x, "_default_store", lambda _url: parts.store)
    model = module_2x.CoralBackend(project_id="1", label_config=CONFIG)
    assert chosen(model.predict([task(1)], context={"result": []}, login=None, password=None)[0]) == "good"
    assert (str(model.model_version), model.get("model_version"), model.label_config) == (VERSION, VERSION, CONFIG)
    answer = module_2x.CoralBackend("1", label_config=CONFIG).fit(
        "ANNOTATION_CREATED", {"annotation": annotation(4, 1), "project": {"id": 1, "label_config": CONFIG}}
    )
    assert json.loads(json.dumps(answer))["changed"] == 1
    model.set_extra_params('{"epochs": 4}')
    assert json.loads(str(model.get("extra_params"))) == {"epochs": 4}
    assert not model.has("unheard-of")
    with pytest.raises(InputError, match="follows from its rounds"):
        model.set("model_version", "2")


def test_importing_it_costs_no_torch_and_sets_no_start_method() -> None:
    check = (
        "import sys, multiprocessing as mp; import coral_backend.app; "
        "print('torch' in sys.modules, mp.get_start_method(allow_none=True)); import torch; print(bool(torch.tensor(1)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "None", "True"]


# --- fit --------------------------------------------------------------------------------------------------------------


def test_start_training_retrains_once_a_round_was_done(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_backend import jobs

    monkeypatch.setattr(jobs, "request_advance", lambda *_args, **_kwargs: None)
    assert parts.backend().fit("START_TRAINING", event("START_TRAINING"))["round"] == "1"
    with pytest.raises(ConflictError, match="already has round 1"):
        parts.backend().fit("START_TRAINING", event("START_TRAINING"))
    [begun] = parts.store.rounds(1)
    parts.store.set_round_status(begun.id, RoundStatus.CANCELLED)
    finish_round(parts.store, [verdict(1)])
    assert parts.backend().fit("START_TRAINING", event("START_TRAINING"))["round"] == "2.1"


def test_an_unservable_config_costs_no_human_label(parts: Parts) -> None:
    backend = parts.backend(1, UNSERVABLE)
    body = event("ANNOTATION_CREATED", config=UNSERVABLE, annotation=annotation(1, 1))
    assert backend.fit("ANNOTATION_CREATED", body)["changed"] == 1
    with pytest.raises(LabelConfigError, match="RectangleLabels"):
        backend.fit("PROJECT_UPDATED", event("PROJECT_UPDATED", config=UNSERVABLE))
    assert parts.store.project(1).label_config == CONFIG


@pytest.mark.parametrize("call", [("ANNOTATION_CREATED", None), ("ANNOTATION_CREATED", [1])])
def test_an_event_without_an_object_is_refused(parts: Parts, call: tuple[str, Any]) -> None:
    with pytest.raises(InputError, match="takes a name and an object"):
        parts.backend().fit(*call)
