"""Are tasks and annotations read, whatever stands in them?"""

from __future__ import annotations

from typing import Any

import pytest

from coral_backend.exceptions import InputError
from coral_backend.labelstudio.tasks import human_label_from_annotation, sample_from_task
from coral_backend.types import HumanLabel, LabelSpace, Sample

SPACE = LabelSpace("Choices", "label", "text", "text", ("a", "b"))


def sample(data: Any, recorded_key: str | None = None, max_chars: int = 100) -> Sample:
    return sample_from_task(SPACE, {"id": 7, "data": data}, recorded_key=recorded_key, max_chars=max_chars)


def test_a_text_is_taken_as_it_is() -> None:
    assert sample({"text": "It was  good.\nReally."}) == Sample(7, "It was  good.\nReally.")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "no key 'text'; it has none"),
        ({"title": 1, "body": 2}, "no key 'text'; it has 'title', 'body'"),
        ({"text": None}, "is null"),
        ({"text": True}, "is true or false"),
        ({"text": ["a"]}, "is a list"),
        ({"text": {"de": "gut"}}, "is an object"),
        ({"text": float("nan")}, "is a float"),
        ({"text": ""}, "is empty"),
        ({"text": " \n\t "}, "is empty"),
        ({"text": "\x00\x00"}, "is empty"),
        (None, "data is null"),
        ("text", "data is a str"),
        (["text"], "data is a list"),
    ],
)
def test_what_is_no_text_is_a_problem_of_that_task_alone(data: Any, says: str) -> None:
    got = sample(data)
    assert got.text == ""
    assert got.problem is not None
    assert says in got.problem


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\x00b", "a b"),
        ("a\ud800b", "a\ufffdb"),
        ("\x1b[31mred", "[31mred"),
        (1917, "1917"),
        (2.5, "2.5"),
        ("tab\there", "tab\there"),
    ],
)
def test_what_can_be_cleaned_is(text: object, cleaned: str) -> None:
    got = sample({"text": text})
    assert (got.text, got.problem) == (cleaned, None)
    got.text.encode()


def test_a_long_text_is_cut() -> None:
    assert len(sample({"text": "word " * 1_000_000}, max_chars=500).text) == 500


def test_a_recorded_label_comes_along() -> None:
    assert sample({"text": "x", "llm": " a "}, "llm").recorded == "a"
    assert sample({"text": "x", "llm": 3}, "llm").recorded == "3"
    assert sample({"text": "x", "llm": ""}, "llm").recorded is None
    assert sample({"text": "x", "llm": None}, "llm").recorded is None
    assert sample({"text": "x"}, "llm").recorded is None
    assert sample({"text": "x", "llm": "a"}).recorded is None


@pytest.mark.parametrize("task", [{}, {"id": None}, {"id": "../../x"}, {"id": True}, {"id": 1.5}])
def test_a_task_without_a_whole_number_is_refused(task: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="whole number"):
        sample_from_task(SPACE, task, recorded_key=None, max_chars=10)


def annotation(label: str | None = "a", **more: Any) -> dict[str, Any]:
    chosen = {"choices": [label]} if label else {"choices": []}
    region = {"from_name": "label", "to_name": "text", "type": "choices", "value": chosen, "score": 0.6, "coral": "t"}
    return {"id": 3, "result": [region], "completed_by": 5, "updated_at": "2026-11-21T09:49:01.397171Z", **more}


def test_an_annotation_is_a_human_label() -> None:
    got = human_label_from_annotation(SPACE, annotation(lead_time=3.2, ground_truth=True), 7)
    assert got == HumanLabel(3, 7, "a", 5, "2026-11-21T09:49:01.397171Z", ground_truth=True, lead_time=3.2)


def test_the_prediction_that_filled_the_form_is_kept() -> None:
    prediction = {"id": 4, "model_version": "coral-r1", "result": annotation("b")["result"], "score": 0.6}
    got = human_label_from_annotation(SPACE, annotation(prediction=prediction), 7)
    assert (got.label, got.prediction_version, got.prediction_label) == ("a", "coral-r1", "b")


@pytest.mark.parametrize("prediction", [{}, None, [], "x", {"model_version": 3}])
def test_no_prediction_is_none(prediction: Any) -> None:
    got = human_label_from_annotation(SPACE, annotation(prediction=prediction), 7)
    assert (got.prediction_version, got.prediction_label) == (None, None)


def test_a_skip_is_no_label_although_it_holds_the_prefilled_one() -> None:
    got = human_label_from_annotation(SPACE, annotation("a", was_cancelled=True), 7)
    assert (got.label, got.skipped) == (None, True)


def test_an_empty_result_is_no_label_and_no_skip() -> None:
    assert human_label_from_annotation(SPACE, annotation(None), 7).label is None
    got = human_label_from_annotation(SPACE, {"id": 3, "result": []}, 7)
    assert (got.label, got.skipped, got.user_id, got.updated_at) == (None, False, None, "")


def test_a_label_that_the_config_has_no_more_is_kept() -> None:
    assert human_label_from_annotation(SPACE, annotation("gone"), 7).label == "gone"


def test_the_annotator_may_come_as_an_object() -> None:
    assert human_label_from_annotation(SPACE, annotation(completed_by={"id": 8, "email": "x@y.z"}), 7).user_id == 8


@pytest.mark.parametrize("lead_time", [None, "fast", float("nan"), -1, True])
def test_a_strange_lead_time_is_none(lead_time: Any) -> None:
    assert human_label_from_annotation(SPACE, annotation(lead_time=lead_time), 7).lead_time is None


def test_an_annotation_without_id_is_refused() -> None:
    with pytest.raises(InputError, match="whole number"):
        human_label_from_annotation(SPACE, {"result": []}, 7)
