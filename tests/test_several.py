"""Is each of several controls asked about, learned, judged and shown, in one round, and does one correction teach one of them?"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_plus

import pytest
from flask.testing import FlaskClient
from pyarrow import parquet
from rich.console import Console
from werkzeug.test import TestResponse

from coral_backend import annotate, catch_up, export
from coral_backend.app import create_app
from coral_backend.console import project_panel
from coral_backend.controls import project_of, settings_of, verdict_of
from coral_backend.estimate import estimate
from coral_backend.exceptions import SettingsError, TrainingError
from coral_backend.labels import SEVERAL, SINGLE, read_controls
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.llm.base import Question, abstained
from coral_backend.rounds import RoundRunner
from coral_backend.settings import Settings
from coral_backend.slm.engine import Corpus, Distilled, SLMConfig
from coral_backend.status import status_of
from coral_backend.store import Store
from coral_backend.store.controls import view_of
from coral_backend.sync import refresh_project
from coral_backend.types import Answer, Flag, Project, Round, RoundStatus, Sample, Source, Stage
from tests.stand_ins import FakeLabelStudio, QuickModel, quick_distil
from tests.web_parts import basic, settings_in

CONFIG = """<View><Text name="text" value="$text"/>
<Choices name="mood" toName="text"><Choice value="bad"/><Choice value="good"/></Choices>
<Choices name="about food" toName="text"><Choice value="no"/><Choice value="yes"/></Choices></View>"""
MOOD, FOOD = "mood", "about food"

TEXTS = [
    "good film",
    "bad film",
    "very good soup",
    "so bad",
    "good, good",
    "bad soup",
    "rather good",
    "not bad but bad",
]


class TwoMindedLLM:
    """An annotator that is asked one question at a time: it errs about the mood of task 1, and abstains on the food of task 2."""

    name, is_llm = "scripted:test", True

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.words: dict[str, str] = {}
        self.demos: dict[str, set[str]] = {MOOD: set(), FOOD: set()}
        self.silent: set[str] = set()

    def annotate(
        self,
        questions: Iterable[Question],
        on_answer: Callable[[Sample, Answer], None],
        check: Callable[[], None],
    ) -> None:
        for question in list(questions):
            check()
            sample, prompt = question.sample, question.prompt
            control = MOOD if prompt.labels == ("bad", "good") else FOOD
            self.asked.append((control, sample.task_id))
            self.words[control] = prompt.messages(sample.text)[0]["content"]
            self.demos[control] |= {demo.label for demo in prompt.demos}
            on_answer(sample, abstained(sample, self.name) or self._answer(control, sample))

    def _answer(self, control: str, sample: Sample) -> Answer:
        if (control, sample.task_id) == (FOOD, 2) or control in self.silent:
            return Answer(None, "?", reason="no label in it", annotator=self.name)
        label = ("good" if "good" in sample.text else "bad") if control == MOOD else "no"
        if control == FOOD and "soup" in sample.text:
            label = "yes"
        if (control, sample.task_id) == (MOOD, 1):
            label = "bad"
        return Answer(label, label, confidence=0.7 if control == MOOD else 0.9, annotator=self.name, prompt_tokens=10)


def two_minded_distil(corpus: Corpus, config: SLMConfig, **more: Any) -> Distilled:
    """Stand in for both trainings: the word "good" tells the mood, the word "soup" tells of food."""
    if "yes" in {sentence.split()[-1].strip('".') for sentences in corpus.label_sentences for sentence in sentences}:
        texts = [text.replace("good", "fine").replace("soup", "good") for text in corpus.texts]
        return quick_distil(replace(corpus, texts=texts), config, **more)
    return quick_distil(corpus, config, **more)


class World:
    """A store, a Label Studio in memory, an annotator, and the runner between them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, config: str = CONFIG) -> None:
        self.settings = Settings.load({}, model_dir=folder, n_demos=2, annotate_chunk=3)
        self.store = Store(self.settings.store_url)
        self.studio = FakeLabelStudio({i + 1: {"text": text} for i, text in enumerate(TEXTS)}, config)
        self.llm = TwoMindedLLM()
        monkeypatch.setattr("coral_backend.slm.engine.distil", two_minded_distil)
        monkeypatch.setattr(annotate, "make_annotator", lambda *_: self.llm)
        refresh_project(self.store, self.client, 1)

    @property
    def client(self) -> LabelStudioClient:
        return cast("LabelStudioClient", self.studio)

    @property
    def project(self) -> Project:
        return self.store.project(1)

    def run(self, *, retrain: bool = False, **options: Any) -> Round:
        settings = self.settings.model_copy(update=options)
        begun = self.store.create_round(1, settings.public(), retrain=retrain)
        return RoundRunner(self.store, settings, lambda: self.client).run(begun.id)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.store.close()


def annotation(annotation_id: int, at: str = "2026-01-01T10:00:00Z", **said: str) -> dict[str, Any]:
    """Return an annotation of `CONFIG`; a control that is not in `said` was left empty."""
    names = {"mood": MOOD, "food": FOOD}
    result = [
        {"from_name": names[name], "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        for name, label in said.items()
    ]
    return {"id": annotation_id, "result": result, "updated_at": at, "completed_by": 1, "was_cancelled": False}


def test_one_round_handles_both(world: World) -> None:
    done = world.run()
    assert done.status is RoundStatus.DONE
    assert world.project.label_space.kind == SEVERAL
    assert Counter(world.llm.asked) == {(control, task): 1 for control in (MOOD, FOOD) for task in range(1, 9)}
    verdicts = {v.task_id: v for v in world.store.verdicts(1, done.id)}
    assert read_controls(verdicts[3].label) == {MOOD: "good", FOOD: "yes"}
    assert [(d.name, d.label, d.flag) for d in verdicts[3].details] == [
        (MOOD, "good", Flag.CLEAN),
        (FOOD, "yes", Flag.CLEAN),
    ]
    wrong = verdicts[1]
    assert read_controls(wrong.llm_label) == {MOOD: "bad", FOOD: "no"}
    assert wrong.flag is not Flag.CLEAN, "one doubtful control makes a doubtful task"
    assert [detail.flag is Flag.CLEAN for detail in wrong.details] == [False, True]
    assert wrong.score == min(detail.score for detail in wrong.details if detail.score is not None)
    assert {v.rank for v in verdicts.values()} == set(range(1, 9))
    silent = verdicts[2]
    assert (read_controls(silent.llm_label), read_controls(silent.prediction_label)) == (
        {MOOD: "bad"},
        {MOOD: "bad", FOOD: "no"},
    ), "where the LLM abstained on one control the SLM fills it"
    told = done.metrics["by_control"]
    assert (told[MOOD]["annotated"], told[FOOD]["annotated"], told[FOOD]["abstained"]) == (8, 7, 1)
    assert done.progress["annotate"]["total"] == done.progress["annotate"]["done"] == 16


def test_each_control_keeps_its_own_answers_and_the_task_what_they_say_together(world: World) -> None:
    world.run()
    both = world.store.llm_labels(1)[1]
    assert (read_controls(both.label), both.confidence, both.prompt_tokens) == ({MOOD: "bad", FOOD: "no"}, 0.7, 20)
    views = {
        space.from_name: view_of(world.store, world.project, space) for space in world.project.label_space.controls
    }
    assert views[FOOD].llm_labels(1)[1].confidence == 0.9
    assert views[FOOD].llm_labels(1)[2].reason == "no label in it"
    assert world.store.llm_labels(1)[2].reason == f"{FOOD}: no label in it"
    for name, view in views.items():
        said = view.opinions.of_round(1, 1)
        assert {len(one) for one in said.values()} == {1}
        assert {one[0].place for one in said.values()} == {0}, name
    assert world.store.opinions.usage(1, 1)["scripted:test"]["asked"] == 16


def test_the_prompts_say_which_question_is_asked(world: World) -> None:
    world.run()
    assert f'This one is called "{FOOD}"' in world.llm.words[FOOD]
    assert f'This one is called "{MOOD}"' in world.llm.words[MOOD]
    assert world.llm.demos[MOOD] <= {"bad", "good"}
    assert world.llm.demos[FOOD] <= {"yes", "no"}
    assert world.llm.demos[FOOD]


def test_predictions_carry_every_control_with_its_own_score(world: World) -> None:
    done = world.run()
    result, score = world.studio.pushed[3, str(done.model_version)]
    assert [region["from_name"] for region in result] == [MOOD, FOOD]
    assert len({region["id"] for region in result}) == 2
    assert [("coral" in region) for region in result] == [True, False]
    assert score == min(region["score"] for region in result)


def test_the_second_round_asks_again_only_about_the_doubtful_control(world: World) -> None:
    first = world.run()
    doubtful = {
        (detail.name, v.task_id)
        for v in world.store.verdicts(1, first.id)
        for detail in v.details
        if detail.flag is not Flag.CLEAN
    }
    world.llm.asked.clear()
    second = world.run()
    assert set(world.llm.asked) == doubtful
    assert read_controls(world.store.llm_labels(1)[1].label) == {MOOD: "bad", FOOD: "no"}, "the other answer is kept"
    assert doubtful == {(MOOD, 1), (FOOD, 2)}
    assert world.store.llm_usage(1)[2]["prompt_tokens"] == 10, "what was paid in the first round is not counted again"
    assert second.demos


def test_a_person_who_fills_one_control_settles_that_one(world: World) -> None:
    world.run()
    world.studio.annotations = {1: [annotation(10, mood="good")], 2: [annotation(11, mood="bad", food="yes")]}
    world.llm.asked.clear()
    again = world.run(retrain=True)
    assert (again.name, world.llm.asked) == ("1.1", [])
    one, two = (next(v for v in world.store.verdicts(1, again.id) if v.task_id == task) for task in (1, 2))
    assert read_controls(one.label) == {MOOD: "good", FOOD: "no"}
    assert [detail.source for detail in one.details] == [Source.HUMAN, Source.LLM]
    assert one.source is Source.HUMAN
    assert [detail.source for detail in two.details] == [Source.HUMAN, Source.HUMAN]
    assert two.rank > one.rank, "what is labelled in full comes last"
    assert again.metrics["agreement"]["n"] == 3
    assert again.metrics["by_control"][FOOD]["human_labels"] == 1


def test_a_later_round_does_not_ask_about_what_a_person_filled(world: World) -> None:
    world.run()
    world.studio.annotations = {2: [annotation(11, food="yes")]}
    world.llm.asked.clear()
    world.run()
    assert (FOOD, 2) not in world.llm.asked


def test_labels_that_exist_already_are_an_object_of_them(tmp_path: Path) -> None:
    studio = FakeLabelStudio(
        {
            1: {"text": "good", "said": {"mood": "good", "about food": "no", "gone": 3}},
            2: {"text": "bad", "said": '{"mood": "bad", "about food": "maybe"}'},
            3: {"text": "so", "said": "good"},
        },
        CONFIG,
    )
    settings = Settings.load({}, model_dir=tmp_path, annotator="recorded", recorded_key="said")
    store = Store(settings.store_url)
    client = cast("LabelStudioClient", studio)
    refresh_project(store, client, 1)
    runner = RoundRunner(store, settings, lambda: client)
    begun = store.create_round(1, settings.public())
    while runner.advance(begun.id).stage in (Stage.SYNC, Stage.ANNOTATE):
        pass
    found = store.llm_labels(1)
    assert {task: read_controls(one.label) for task, one in found.items()} == {
        1: {MOOD: "good", FOOD: "no"},
        2: {MOOD: "bad"},
        3: None,
    }
    assert "The recorded label 'maybe' is none of the 2 labels" in str(found[2].reason)
    assert "holds no label" in str(found[3].reason)
    store.close()


def test_a_task_that_comes_later_is_labelled_by_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    done = world.run()
    monkeypatch.setattr("coral_backend.slm.engine.Model", QuickModel)
    world.studio.tasks[9] = {"text": "good soup"}
    world.store.put_samples(1, [Sample(9, "good soup")], wanted=True)
    world.llm.asked.clear()
    assert catch_up.catch_up(world.store, world.settings, lambda: world.client, 1) > 0
    assert sorted(world.llm.asked) == [(FOOD, 9), (MOOD, 9)]
    [verdict] = world.store.verdicts(1, done.id, [9])
    assert read_controls(verdict.llm_label) == {MOOD: "good", FOOD: "yes"}
    assert len(verdict.details) == 2


def test_a_control_with_too_little_to_learn_from_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(corpus: Corpus, config: SLMConfig, **more: Any) -> Distilled:
        if (corpus.given >= 0).sum() < 2:
            raise TrainingError("0 of 8 samples have a label; the SLM needs at least 2.")
        return two_minded_distil(corpus, config, **more)

    monkeypatch.setattr("coral_backend.slm.engine.distil", picky)
    world.llm.silent = {FOOD}
    world.studio.annotations = {4: [annotation(10, food="no")]}
    done = world.run()
    assert done.status is RoundStatus.DONE
    assert done.metrics["notes"] == [
        f"{FOOD}: nothing was learned. 0 of 8 samples have a label; the SLM needs at least 2."
    ]
    verdicts = {v.task_id: v for v in world.store.verdicts(1, done.id)}
    assert read_controls(verdicts[3].label) == {MOOD: "good"}
    assert read_controls(verdicts[4].label) == {MOOD: "bad", FOOD: "no"}
    food = world.project.label_space.controls[1]
    lease = world.store.take_lease("test")
    assert lease is not None
    part = catch_up.CatchUp(
        view_of(world.store, world.project, food), world.settings, project_of(world.project, food), lease
    )
    assert 20 not in part._known([Sample(20, "soup")], done), "there is no model that could say anything of it"
    world.llm.silent = {MOOD, FOOD}
    world.studio.tasks = {20 + i: {"text": text} for i, text in enumerate(TEXTS)}
    world.studio.annotations = {}
    with pytest.raises(TrainingError, match="mood: nothing was learned"):
        world.run()


def test_a_strategy_of_several_answers_is_followed_for_each_control(world: World) -> None:
    done = world.run(annotation="vote", votes=3, n_demos=0)
    assert done.status is RoundStatus.DONE
    counts = Counter(world.llm.asked)
    assert {counts[MOOD, task] for task in range(1, 9)} <= {2, 3}
    view = view_of(world.store, world.project, world.project.label_space.controls[1])
    assert [one.place for one in view.opinions.of_round(1, 1)[3]] == list(range(counts[FOOD, 3]))


def test_a_control_can_have_options_of_its_own(world: World) -> None:
    own = {FOOD: {"annotation": "vote", "label_definitions": {"yes": "it speaks of food"}, "n_demos": 0}}
    done = world.run(control_options=json.dumps(own), votes=2, label_definitions='{"good": "a joy", "gone": "x"}')
    assert done.status is RoundStatus.DONE
    counts = Counter(control for control, _ in world.llm.asked)
    assert counts[MOOD] == 8
    assert counts[FOOD] > 8
    assert "it speaks of food" in world.llm.words[FOOD]
    assert "a joy" in world.llm.words[MOOD]
    assert world.llm.demos[FOOD] == set()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[]", "JSON object"),
        ("{", "Expecting"),
        ('{"mood": 3}', "is no object"),
        ('{"mood": {"llm_model": "x"}}', "has llm_model; a control may have"),
    ],
)
def test_wrong_options_of_a_control_are_refused(value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Settings.load({"CORAL_CONTROL_OPTIONS": value})


def test_an_option_of_a_control_that_is_out_of_range_names_the_control() -> None:
    settings = Settings.load({"CORAL_CONTROL_OPTIONS": '{"mood": {"votes": 100}}'})
    space = Project(1, "t", "", "", _space(), control="mood")
    with pytest.raises(SettingsError, match="control 'mood'"):
        settings_of(settings, space)


def test_a_verdict_without_details_is_parted_by_its_labels(world: World) -> None:
    done = world.run()
    verdict = replace(world.store.verdicts(1, done.id, [1])[0], details=())
    part = verdict_of(verdict, world.project.label_space.controls[1])
    assert (part.label, part.llm_label, part.score) == ("no", "no", None)


def _space() -> Any:
    from coral_backend.labelstudio.control_tags import parse_config

    return parse_config(CONFIG)


# --- what people see -----------------------------------------------------------------------------------------------------


def test_columns_name_the_doubtful_control_and_tabs_count_tasks(world: World) -> None:
    world.run()
    assert {key: world.studio.tasks[1][key] for key in ("coral_llm_mood", "coral_slm_mood", "coral_doubt")} == {
        "coral_llm_mood": "bad",
        "coral_slm_mood": "good",
        "coral_doubt": MOOD,
    }
    assert world.studio.tasks[1]["coral_llm_about_food"] == "no"
    assert world.studio.tasks[3].get("coral_doubt", "") == ""
    assert "coral_llm" not in world.studio.tasks[1], "the columns of one control do not come"
    counts = {
        str(row["data"]["title"]).partition(" (")[0]: row["data"]["title"] for row in world.studio.view_rows.values()
    }
    assert set(counts) == {"Noisy", "Inconsistent", "Clean"}


def test_a_second_look_is_asked_for_about_one_control(world: World) -> None:
    world.run()
    world.studio.annotations = {3: [annotation(10, mood="good", food="no")]}
    again = world.run(retrain=True)
    [look] = world.store.second_looks(1, standing=True)
    assert (look.task_id, read_controls(look.label), read_controls(look.machine_label)) == (
        3,
        {FOOD: "no"},
        {FOOD: "yes"},
    )
    assert again.metrics["second_looks"] == 1
    assert world.studio.tasks[3]["coral_second_look"] == (f"Person: {FOOD}: no · LLM and SLM: {FOOD}: yes (90 %)")


def test_status_counts_the_labels_of_each_control(world: World) -> None:
    world.run()
    world.studio.annotations = {1: [annotation(10, mood="good")], 3: [annotation(11, mood="good", food="yes")]}
    world.run(retrain=True)
    found = status_of(world.store, 1)
    assert found.labels == ("mood: bad", "mood: good", "about food: no", "about food: yes")
    assert (found.rounds[-1].compared, found.rounds[-1].llm) == (3, round(2 / 3, 4))
    assert found.controls[MOOD]["agreement"] == {"n": 2, "llm": 0.5, "slm": 1.0}
    assert sum(found.controls[FOOD]["flags"].values()) == 8
    with (console := Console(width=200)).capture() as caught:
        console.print(project_panel(found))
    assert "about food" in caught.get()


def test_a_dry_run_counts_the_questions_about_all_controls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real annotator; nothing is asked
    settings = Settings.load(
        {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, model_dir=world.settings.model_dir, n_demos=2
    )
    found = estimate(world.store, settings, 1, lambda: world.client)
    assert (found.asked, found.requests) == (8, 16)
    one = estimate(world.store, settings.model_copy(update={"controls": "mood"}), 1, lambda: world.client)
    assert (one.asked, one.requests) == (8, 8)
    assert 1.8 < found.prompt_tokens / one.prompt_tokens < 2.2


def test_the_table_has_a_group_of_columns_for_each_control(world: World) -> None:
    world.run()
    world.studio.annotations = {1: [annotation(10, mood="good")]}
    world.run(retrain=True)
    table = {row["task_id"]: row for row in export.rows(world.store, 1)}
    assert list(table[1]) == export.columns(world.store, 1)
    first = {name: value for name, value in table[1].items() if name.startswith(f"{FOOD}.") or name == "label"}
    assert first["label"] == '{"mood": "good", "about food": "no"}', (
        "the person's, and the machine's where he said nothing"
    )
    assert (first[f"{FOOD}.label"], first[f"{FOOD}.source"], first[f"{FOOD}.flag"]) == ("no", "llm", "clean")
    assert (table[1]["mood.source"], table[1]["mood.score"], table[1]["mood.human_label"]) == ("human", 1.0, "good")
    clean = {row["task_id"] for row in export.rows(world.store, 1, clean_only=True)}
    assert 1 in clean
    assert 2 not in clean, "one of its controls is doubtful"
    path = export.export(world.store, 1, world.settings.model_dir / "labels.parquet").path
    schema = parquet.read_schema(path)
    assert str(schema.field("mood.score").type) == "double"
    assert schema.field(f"{FOOD}.flag").metadata[b"description"].startswith(f"Of the control {FOOD}: ".encode())


def test_a_name_that_a_spreadsheet_would_compute_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = World(tmp_path, monkeypatch, CONFIG.replace('"mood"', '"=1+1"'))
    path = export.export(evil.store, 1, tmp_path / "labels.csv").path
    header = path.read_text(encoding="utf-8").splitlines()[0]
    assert "'=1+1.label" in header
    assert ",=1+1" not in header
    evil.store.close()


# --- the dashboard -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pages(world: World) -> FlaskClient:
    world.run()
    world.studio.annotations = {1: [annotation(10, mood="good")], 3: [annotation(11, mood="good", food="no")]}
    world.run(retrain=True)
    settings = settings_in(world.settings.model_dir).model_copy(update={"model_dir": world.settings.model_dir})
    return create_app(settings, world.store).test_client()


def get(pages: FlaskClient, path: str, **query: str) -> TestResponse:
    return pages.get(f"/dashboard/projects/1{path}", query_string=query, headers=basic())


def test_every_page_shows_a_project_of_several_controls(pages: FlaskClient) -> None:
    for path in ("", "/samples", "/map", "/quality", "/rounds/1", "/rounds/1.1", "/configuration"):
        assert get(pages, path).status_code == 200, path
    lines = get(pages, "/samples", human="yes").text
    whole = '<strong><span class="part">mood: good</span><span class="part">about food: no</span></strong>'
    assert whole in lines, "what a person left empty is the machine's"
    assert "about food: user" in get(pages, "/rounds/1").text, "both prompts are shown"


def test_the_table_is_asked_for_a_label_of_one_control(pages: FlaskClient) -> None:
    def total(**query: str) -> int:
        found = re.search(r'<strong id="total">(\d+)</strong>', get(pages, "/samples", **query).text)
        assert found is not None
        return int(found[1])

    assert total(llm='{"about food": "yes"}') == 2
    assert total(llm='{"mood": "good"}') == 3
    assert total(human_label='{"about food": "no"}') == 1
    assert (total(wrong="llm"), total(wrong="slm")) == (2, 1)
    assert get(pages, "/samples", llm="good").status_code == 400
    assert "it must name its control" in get(pages, "/samples", llm="good").text


def test_quality_and_map_are_of_one_control_at_a_time(pages: FlaskClient) -> None:
    food = unquote_plus(get(pages, "/quality", control=FOOD).text)
    assert 'llm={"about food": "yes"}' in food, "a cell leads to the tasks with that label of that control"
    assert get(pages, "/quality", control="gone").status_code == 400
    points = {control: get(pages, "/map.bin", round="1.1", control=control).data for control in (MOOD, FOOD)}
    assert {len(data) for data in points.values()} == {4 + 8 * (4 + 2 + 2 + 4)}
    assert points[MOOD] != points[FOOD]
    assert "[&#34;no&#34;, &#34;yes&#34;]" in get(pages, "/map", control=FOOD).text


def test_words_are_set_for_each_control_and_kept(pages: FlaskClient, world: World) -> None:
    page = get(pages, "/configuration").text
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page))
    sent = {
        **hidden,
        "who": "Ada",
        "definition-1-of-1": "it speaks of food",
        "control_options": '{"mood": {"votes": 5}}',
    }
    answer = pages.post("/dashboard/projects/1/configuration", data=sent, headers=basic())
    assert answer.status_code == 303, answer.text
    assert json.loads(str(world.project.options["control_options"])) == {
        MOOD: {"votes": 5},
        FOOD: {"label_definitions": {"yes": "it speaks of food"}},
    }
    page = get(pages, "/configuration").text
    assert 'value="it speaks of food"' in page
    assert "{&#34;mood&#34;: {&#34;votes&#34;: 5}}" in page
    preview = pages.post("/dashboard/projects/1/configuration", data={**sent, "preview": "1"}, headers=basic()).text
    assert "it speaks of food" in preview
    assert "mood: system" in preview


@pytest.mark.parametrize(
    ("sent", "says"),
    [({"controls": "tone"}, "no control"), ({"control_options": '{"tone": {}}'}, "There is no control")],
)
def test_a_control_that_is_not_there_is_named_at_its_field(pages: FlaskClient, sent: dict[str, str], says: str) -> None:
    page = get(pages, "/configuration").text
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page))
    answer = pages.post("/dashboard/projects/1/configuration", data={**hidden, "who": "Ada", **sent}, headers=basic())
    assert answer.status_code == 422
    assert says in answer.text


def test_fewer_controls_are_served_from_when_that_is_saved(pages: FlaskClient, world: World) -> None:
    page = get(pages, "/configuration").text
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page))
    sent = {**hidden, "who": "Ada", "controls": MOOD}
    before = world.project.config_hash
    assert pages.post("/dashboard/projects/1/configuration", data=sent, headers=basic()).status_code == 303
    assert world.project.label_space.kind == SINGLE
    assert world.project.config_hash != before
    done = world.run()
    assert done.config_hash == world.project.config_hash
    assert {v.label for v in world.store.verdicts(1, done.id)} == {"good", "bad"}
