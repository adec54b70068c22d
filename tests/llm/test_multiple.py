"""Are sets of labels asked for, and read as what they say and as nothing else?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral_backend.labels import MULTIPLE, micro_f1, read_set, write_set
from coral_backend.llm.base import asked
from coral_backend.llm.client import Endpoint
from coral_backend.llm.embedded import EmbeddedAnnotator
from coral_backend.llm.forms.multiple import recorded_set
from coral_backend.llm.openai import OpenAIAnnotator
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.recorded import RecordedAnnotator
from coral_backend.types import Answer, Demo, LabelSpace, Sample
from strategies.tasks import load
from tests.llm.test_annotators import embed
from tests.scripted_openai import ScriptedOpenAI, completion

LABELS = ("sports", "politics, home", "7", "IT")
SPACE = LabelSpace("Choices", "topics", "text", "text", LABELS, kind=MULTIPLE)


def prompt(space: LabelSpace = SPACE, demos: tuple[Demo, ...] = (), **more: Any) -> Prompt:
    return Prompt.build(load("multilabel"), space, demos, **more)


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [
        ('{"labels": ["IT", "sports"]}', ["sports", "IT"]),
        ('{"labels": []}', []),
        ("[]", []),
        ('["it ", "Sports"]', ["sports", "IT"]),
        ('{"Labels": ["sports", "SPORTS", "sports"]}', ["sports"]),
        ('{"labels": "politics, home"}', ["politics, home"]),
        ("politics, home", ["politics, home"]),
        ('"sports"', ["sports"]),
        ("7", ["7"]),
        ('```json\n{"labels": ["7"], "why": "so"}\n```', ["7"]),
        ("<think>IT?</think>{\"labels\": [\"sports\"]}", ["sports"]),
    ],
)  # fmt: skip
def test_a_set_is_read(answer: str, chosen: list[str]) -> None:
    assert prompt().read(answer) == (write_set(chosen, LABELS), None)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("", "empty"),
        ('{"labels": ["sports", "music"]}', "'music' is none of the 4 labels"),
        ('{"labels": [7]}', "lists no labels"),
        ('{"labels": null}', "lists no labels"),
        ('{"labels": {"sports": true}}', "lists no labels"),
        ('{"labels": ["sports"], "labels": ["IT"]}', "2 lists of labels"),
        ('{"label": "sports"}', "0 lists of labels"),
        ("sports, IT", "no list of the 4 labels"),
        ("null", "lists no labels"),
        ("none", "no list of the 4 labels"),
        ('{"labels": ["sports"', "broken JSON"),
        ("[" * 100_000, "broken JSON"),
    ],
)
def test_what_is_no_set_of_these_labels_is_none(answer: str, says: str) -> None:
    label, reason = prompt().read(answer)
    assert label is None
    assert reason is not None
    assert says in reason


def test_where_one_is_required_the_empty_set_is_no_answer_and_the_prompt_says_so() -> None:
    free, bound = prompt(), prompt(replace(SPACE, required=True))
    assert bound.read('{"labels": []}') == (None, "the answer names no label, and at least one is required")
    assert "At least one label applies" in bound.messages("x")[1]["content"]
    assert "At least one label applies" not in free.messages("x")[1]["content"]
    assert "at least one" in bound.repair("x", "[]")[-1]["content"]
    assert bound.version != free.version


def test_the_prompt_shows_lists_and_confines_to_them() -> None:
    asks = prompt(
        demos=(Demo("a goal", '["sports"]'), Demo("nothing", "[]"), Demo("x", '["gone"]'), Demo("y", "sports"))
    )
    assert [demo.text for demo in asks.demos] == ["a goal", "nothing"]
    system, user = (message["content"] for message in asks.messages("some text"))
    assert '{"content": "a goal", "labels": ["sports"]}' in user
    assert '{"content": "nothing", "labels": []}' in user
    assert "There are 4 labels: 'sports', 'politics, home', '7' and 'IT'" in system
    assert "all of 'sports', 'politics, home', '7' and 'IT' that apply" in user
    schema = asks.response_format()["json_schema"]["schema"]
    assert schema["properties"] == {"labels": {"type": "array", "items": {"type": "string", "enum": list(LABELS)}}}
    assert schema["required"] == ["labels"]
    assert asks.answers() == {}
    many = prompt(replace(SPACE, labels=tuple(f"l{i}" for i in range(40))))
    assert "all of the 40 labels listed above that apply" in many.messages("x")[1]["content"]


def test_letters_stand_for_no_sets_and_sureness_is_of_all_of_it() -> None:
    asks = prompt(coded=True, verbalised=True)
    assert asks.codes == {}
    assert '"confidence": 0 to 100' in asks.messages("x")[1]["content"]
    assert asks.sureness('{"labels": ["IT"], "confidence": 80}') == 0.8


@given(st.lists(st.sampled_from(LABELS)))
def test_what_an_example_shows_is_read_back(chosen: list[str]) -> None:
    said = write_set(chosen, LABELS)
    example = prompt().form.example(Demo("text", said))
    assert recorded_set(str(said), LABELS) == (said, None)
    assert set(example["labels"]) == set(chosen)


@pytest.mark.parametrize(
    ("recorded", "chosen"),
    [
        ('["IT", "sports"]', ["sports", "IT"]),
        ("[7]", ["7"]),
        ("[]", []),
        ("sports; IT", ["sports", "IT"]),
        ("politics, home|IT", ["politics, home", "IT"]),
        ("politics, home", ["politics, home"]),
        ("sports,it", ["sports", "IT"]),
        ("sports\nIT\n", ["sports", "IT"]),
        ("7", ["7"]),
    ],
)
def test_recorded_sets_are_read(recorded: str, chosen: list[str]) -> None:
    assert recorded_set(recorded, LABELS) == (write_set(chosen, LABELS), None)


@pytest.mark.parametrize("recorded", ["music", '["sports", "music"]', "sports; music", '{"a": 1}', '[["sports"]]'])
def test_recorded_sets_with_other_labels_are_none(recorded: str) -> None:
    label, reason = recorded_set(recorded, LABELS)
    assert label is None
    assert "is none of the 4 labels" in str(reason)


def test_the_recorded_annotator_answers_with_sets() -> None:
    found = run(
        RecordedAnnotator("said"),
        [
            Sample(1, "a", recorded='["sports"]'),
            Sample(2, "b", recorded=""),
            Sample(3, "c", recorded="x"),
            Sample(4, "d", recorded="[]"),
        ],
    )
    assert [found[i].label for i in (1, 2, 3, 4)] == ['["sports"]', None, None, "[]"]
    assert found[3].reason == "The recorded label 'x' is none of the 4 labels of the label config."


def test_without_an_llm_a_text_gets_every_label_that_is_nearly_as_near() -> None:
    space = LabelSpace("Choices", "topics", "text", "text", ("billing", "delivery", "text"), kind=MULTIPLE)
    demos = (Demo("billing charge", '["billing"]'), Demo("delivery parcel", '["delivery"]'), Demo("late", "[]"))
    found = run(EmbeddedAnnotator(embed), [Sample(1, "billing"), Sample(2, "billing delivery")], prompt(space, demos))
    assert found[1].label == '["billing"]'
    assert found[2].label == '["billing", "delivery"]'
    assert 0 < (found[1].confidence or 0) <= 1


def test_an_endpoint_is_asked_once_more_for_a_label_that_does_not_exist() -> None:
    def answer(call: object) -> object:
        return completion('{"labels": ["IT", "sports"]}')

    with ScriptedOpenAI(answer) as server:  # type: ignore[arg-type]
        server.script += [completion('{"labels": ["IT", "music"]}'), completion('{"labels": ["IT"]}')]
        found = run(OpenAIAnnotator(Endpoint(server.base_url, "none", "scripted")), [Sample(1, "chips")])
        assert found[1].label == '["IT"]'
        assert "music" in found[1].raw
        assert [call.is_repair for call in server.history][-1]
        server.script += [completion('{"labels": ["music"]}'), completion("music")]
        lost = run(OpenAIAnnotator(Endpoint(server.base_url, "none", "scripted")), [Sample(2, "a song")])
        assert lost[2].label is None
        assert "none of the 4 labels" in str(lost[2].reason) or "no list" in str(lost[2].reason)


def run(who: object, samples: list[Sample], asks: Prompt | None = None) -> dict[int, Answer]:
    answers: dict[int, Answer] = {}
    who.annotate(  # type: ignore[attr-defined]
        asked(samples, asks or prompt()),
        lambda sample, answer: answers.__setitem__(sample.task_id, answer),
        lambda: None,
    )
    return answers


def test_micro_f1_counts_labels_over_all_tasks() -> None:
    assert micro_f1(['["a", "b"]', None], ['["a"]', "[]"]) == 0.6667
    assert micro_f1([], []) is None
    assert micro_f1(["[]"], ["[]"]) == 1.0
    assert micro_f1(['["a"]', '["b", "c"]'], ['["b"]', '["b", "c"]']) == 0.6667
    assert read_set("[]") == ()
