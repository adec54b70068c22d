"""Does each control tag go all the way round: config, label space, prediction, Label Studio, annotation, label?"""

from __future__ import annotations

import doctest
import json

import pytest
from label_studio_sdk.label_interface.interface import LabelInterface

from coral_backend.exceptions import LabelConfigError
from coral_backend.labels import MULTIPLE, SPANS
from coral_backend.labelstudio.control_tags import (
    CONTROL_TAGS,
    config_hash,
    from_result,
    parse_config,
    paths,
    to_regions,
)
from coral_backend.labelstudio.control_tags.paths import joined, parts
from coral_backend.labelstudio.predictions import prediction_row
from coral_backend.labelstudio.tasks import human_label_from_annotation, sample_from_task
from coral_backend.types import Detail, Flag, LabelSpace, Source, Verdict
from strategies.tasks import choose
from tests.label_studio_fixture import LabelStudioUnderTest
from tests.labelstudio.tags import CASES, TEXT, TREE, Case

each = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def nothing(space: LabelSpace) -> str | None:
    """Return what a form says in which nothing was chosen: of spans that there are none."""
    return "[]" if space.kind == SPANS else None


def verdict(task_id: int, label: str | None) -> Verdict:
    score = None if label is None else 0.25
    return Verdict(task_id, label, score, Source.LLM, Flag.NOISY, 1, prediction_label=label, prediction_score=score)


def test_every_tag_that_is_served_is_tried_here() -> None:
    assert {case.tag for case in CASES} == set(CONTROL_TAGS)


@each
def test_the_config_gives_its_labels(case: Case) -> None:
    space = parse_config(case.xml)
    assert (space.tag, space.labels) == (case.tag, case.labels or tuple(case.values))
    assert (space.kind == MULTIPLE) == bool(case.labels)
    assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space
    assert choose(space.tag, space.labels, kind=space.kind).tags


@each
def test_predictions_are_what_label_studio_accepts(case: Case) -> None:
    space, interface = parse_config(case.xml), LabelInterface(case.xml)
    labels: tuple[str | None, ...] = (*case.said, None)
    for label in labels:
        _, result, score, version = prediction_row(space, "coral-r1", verdict(1, label))
        prediction = {"result": result, "score": score, "model_version": version}
        assert interface.validate_prediction(prediction, return_errors=True) == []  # type: ignore[no-untyped-call]
        assert result[0]["coral"] == "coral:coral-r1:noisy"
        assert from_result(space, result) == (label or nothing(space))
    assert to_regions(space, None, None) == []


@each
def test_what_a_form_sends_is_read(case: Case) -> None:
    space = parse_config(case.xml)
    for label in case.said:
        assert from_result(space, case.result(label)) == label
        if case.spans is not None:
            continue
        written = to_regions(space, label, 0.5)[0]["value"]
        assert {key: written[key] for key in case.values[label]} == case.values[label], (
            "the form shows what it would send"
        )


@each
def test_its_tasks_have_a_text(case: Case) -> None:
    sample = sample_from_task(parse_config(case.xml), {"id": 1, "data": case.data}, recorded_key=None, max_chars=1000)
    assert (sample.text, sample.problem) == (case.text, None)


@each
def test_a_real_label_studio_takes_it_and_gives_it_back(case: Case, label_studio: LabelStudioUnderTest) -> None:
    client, space = label_studio.client, parse_config(case.xml)
    project, _ = label_studio.new_project(label_config=case.xml)
    said: list[str | None] = [*case.said, None]
    ids = client.import_tasks(project, [{"data": case.data} for _ in said])
    pushed = client.push_predictions(
        project, [prediction_row(space, "coral-r1", verdict(*pair)) for pair in zip(ids, said, strict=True)]
    )
    assert (pushed.created, pushed.dropped) == (len(said), ())
    stored = {row["task"]: row["result"] for row in client.predictions(project, "coral-r1")}
    assert [from_result(space, stored[task]) for task in ids] == [one or nothing(space) for one in said]

    for task, label in zip(ids, case.said, strict=False):
        body = {"result": case.result(label), "lead_time": 1.0}
        client.request("POST", f"api/tasks/{task}/annotations/", body=body)
    found = {
        row["id"]: human_label_from_annotation(space, row["annotations"][0], row["id"]).label
        for row in client.annotated_tasks(project)
    }
    assert found == dict(zip(ids, case.said, strict=False))
    assert all(row["data"] == case.data for row in client.annotated_tasks(project)), "no character was moved"


# --- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [["a"], ["a", "b"], ["a > b"], [" > "], ["a ", " b"], ["\\", ">"], ["a\\", "\\> b"], ["a >", "> b"], [">", "\\\\"]],
)
def test_a_path_is_one_label_without_loss(path: list[str]) -> None:
    assert parts(joined(path)) == path


def test_the_examples_of_the_docstrings_run() -> None:
    assert doctest.testmod(paths).failed == 0


def test_a_path_and_its_meaning_read_well() -> None:
    space = parse_config(f'<View>{TEXT}<Taxonomy name="t" toName="text" maxUsages="1">{TREE}</Taxonomy></View>')
    assert space.definitions == {
        "Animal > Cat": "it purrs",
        "flora": "Plant",
        "flora > Oak": "Plant > Oak",
    }


@pytest.mark.parametrize(
    ("chosen", "label"),
    [
        ([], None),
        (None, None),
        ("x", None),
        ([["a"], ["a", "b"]], "a > b"),
        ([["a", "b"], ["a", "c"]], None),
        ([["a"], ["b"]], None),
        ([["a", "b"], ["a", "b"]], "a > b"),
        ([["gone", "too"]], "gone > too"),
        ([[]], None),
        ([["a", 3]], None),
        ([3], None),
        ([{"a": 1}], None),
    ],
)
def test_only_one_place_is_a_label(chosen: object, label: str | None) -> None:
    space = parse_config(f'<View>{TEXT}<Taxonomy name="t" toName="text" maxUsages="1">{TREE}</Taxonomy></View>')
    assert from_result(space, [{"from_name": "t", "value": {"taxonomy": chosen}}]) == label


SEVERAL = f'<View>{TEXT}<Choices name="c" toName="text" choice="multiple"{{}}><Choice value="a"/><Choice value="b"/></Choices></View>'


@pytest.mark.parametrize(
    ("result", "label", "required"),
    [
        ([], "[]", None),
        ([{"from_name": "c", "value": {"choices": []}}], "[]", None),
        ([{"from_name": "other", "value": {"choices": ["a"]}}], "[]", None),
        ([{"from_name": "c", "value": {"choices": ["b", "a"]}}], '["a", "b"]', '["a", "b"]'),
        ([{"from_name": "c", "value": {"choices": "b"}}], '["b"]', '["b"]'),
        ([{"from_name": "c", "value": {"choices": ["b"]}}] * 2, '["b"]', '["b"]'),
        ([{"from_name": "c", "value": {"choices": ["gone", "b"]}}], '["b", "gone"]', '["b", "gone"]'),
        ([{"from_name": "c", "value": {"choices": [3]}}], None, None),
        ([{"from_name": "c", "value": None}], None, None),
        ([{"from_name": "c", "value": {"taxonomy": [["a"]]}}], None, None),
    ],
)
def test_a_form_without_a_choice_is_the_empty_set_unless_one_is_required(
    result: list[object], label: str | None, required: str | None
) -> None:
    free, bound = parse_config(SEVERAL.format("")), parse_config(SEVERAL.format(' required="true"'))
    assert (from_result(free, result), from_result(bound, result)) == (label, required)
    assert free.allows("[]")
    assert not bound.allows("[]")
    assert not free.allows('["b", "gone"]')


def test_no_prediction_is_not_the_prediction_of_an_empty_set() -> None:
    space = parse_config(SEVERAL.format(""))
    nothing, empty = to_regions(space, None, None, marker="m"), to_regions(space, "[]", 0.5, marker="m")
    assert (from_result(space, nothing), from_result(space, empty)) == (None, "[]")
    with pytest.raises(ValueError, match="is not a label of 'c'"):
        to_regions(space, '["gone"]', 0.5)
    annotation = {"id": 1, "result": [], "was_cancelled": True}
    assert human_label_from_annotation(space, annotation, 7).label is None


def test_a_list_in_the_data_of_a_task_is_a_recorded_set() -> None:
    task = {"id": 1, "data": {"text": "x", "said": ["a", "b"]}}
    space = parse_config(SEVERAL.format(""))
    assert sample_from_task(space, task, recorded_key="said", max_chars=100).recorded == '["a", "b"]'


@pytest.mark.parametrize(
    ("stars", "label"),
    [
        (3, "3"),
        (3.0, "3"),
        (0, None),
        (9, "9"),
        (2.5, None),
        (True, None),
        ("3", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_only_whole_stars_are_a_label(stars: object, label: str | None) -> None:
    space = parse_config(f'<View>{TEXT}<Rating name="r" toName="text"/></View>')
    assert space.labels == ("1", "2", "3", "4", "5")
    assert space.definitions == {"1": "the lowest of 5", "5": "the highest of 5"}
    assert from_result(space, [{"from_name": "r", "value": {"rating": stars}}]) == label


@pytest.mark.parametrize("selected", [None, "", "none", "up", 3, ["left"]])
def test_only_a_side_is_a_label(selected: object) -> None:
    space = parse_config(next(case for case in CASES if case.name == "pairwise").xml)
    assert from_result(space, [{"from_name": "label", "value": {"selected": selected}}]) is None


# --- refusals ----------------------------------------------------------------------------------------------------------

TAXONOMY = '<Taxonomy name="t" toName="text" {}>' + TREE + "</Taxonomy>"
DEEP = '<Choice value="x">' * 200 + "</Choice>" * 200
LABELS = '<Labels {}><Label value="a"/></Labels>'
PAIR = '<Text name="a" value="$a"/><Text name="b" value="$b"/><Pairwise name="p" toName="{}"/>'


@pytest.mark.parametrize(
    ("control", "says"),
    [
        (TAXONOMY.format('maxUsages="2"'), 'one place (maxUsages="1") or any number'),
        (TAXONOMY.format('maxUsages="many"'), 'one place (maxUsages="1") or any number'),
        ('<Choices name="c" toName="text" choice="some"><Choice value="a"/><Choice value="b"/></Choices>', 'choice="multiple" are served'),
        (TAXONOMY.format('maxUsages="1" apiUrl="http://127.0.0.1/x.json"'), "come from apiUrl"),
        (TAXONOMY.format('maxUsages="1" labeling="true"'), "label spans"),
        (TAXONOMY.format('maxUsages="1" value="$tree"'), "come from the tasks"),
        (TAXONOMY.format('maxUsages="1" perRegion="true"'), "belongs to regions"),
        ('<Taxonomy name="t" toName="text" maxUsages="1"><Choice value=" "><Choice value="x"/></Choice></Taxonomy>', "without text"),
        ('<Taxonomy name="t" toName="text" maxUsages="1"><Choice value="x"/><Choice value="x"/></Taxonomy>', "twice"),
        ('<Taxonomy name="t" toName="text" maxUsages="1">' + DEEP + "</Taxonomy>", "100 deep"),
        ('<Rating name="r" toName="text" maxRating="many"/>', "whole number from 2"),
        ('<Rating name="r" toName="text" maxRating="1"/>', "whole number from 2"),
        ('<Rating name="r" toName="text" maxRating="99999999999999999999"/>', "whole number from 2"),
        ('<Rating name="r" toName="text" perRegion="true"/>', "belongs to regions"),
        ('<Rating toName="text"/>', "no name"),
        (PAIR.format("a"), "names of two texts"),
        (PAIR.format("a,a"), "names of two texts"),
        (PAIR.format("a,b,text"), "names of two texts"),
        (PAIR.format("a,c"), "no tag has that name"),
        (PAIR.replace("Text name=\"b\"", "Image name=\"b\"").format("a,b"), "behind an address"),
        (PAIR.replace('name="p"', 'name="selected"').format("a,b"), "give it another"),
        (f'<Choices name="choices" toName="text" allowNested="true">{TREE}</Choices>', "give it another"),
        (f'<Choices name="c" toName="text">{TREE}</Choices>', 'add allowNested="true"'),
        (LABELS.format('name="labels" toName="text"'), "give it another"),
        (LABELS.format('toName="text"'), "no name"),
        (LABELS.format('name="l" toName="text" value="$labels"'), "come from the tasks"),
        (LABELS.format('name="l" toName="h"') + '<HyperText name="h" value="$h"/>', "spans of a <HyperText>; CORAL serves spans of a <Text>"),
        (LABELS.format('name="l" toName="p"') + '<Paragraphs name="p" value="$p"/>', "spans of a <Paragraphs>"),
        ('<Labels name="l" toName="text"></Labels>', "0 label(s)"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_with_the_reason(control: str, says: str) -> None:
    with pytest.raises(LabelConfigError, match=r".") as caught:
        parse_config(f"<View>{TEXT}{control}</View>")
    assert says in str(caught.value)


def test_the_hash_of_a_plain_config_is_what_it_was_before_there_were_others() -> None:
    assert set(parse_config(CASES[0].xml).to_json()) == {
        "tag",
        "from_name",
        "to_name",
        "text_key",
        "labels",
        "definitions",
    }
    assert len({config_hash(case.xml) for case in CASES}) == len(CASES)


# --- spans -------------------------------------------------------------------------------------------------------------

SPANS_CONFIG = next(case for case in CASES if case.name == "labels").xml


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"start": 3, "end": 3, "labels": ["PER"]}, "[]"),
        ({"start": 4, "end": 3, "labels": ["PER"]}, "[]"),
        ({"start": -1, "end": 3, "labels": ["PER"]}, "[]"),
        ({"start": 1.5, "end": 3, "labels": ["PER"]}, "[]"),
        ({"start": True, "end": 3, "labels": ["PER"]}, "[]"),
        ({"start": 1, "end": float("nan"), "labels": ["PER"]}, "[]"),
        ({"start": 1, "end": float("inf"), "labels": ["PER"]}, "[]"),
        ({"start": 1, "end": 3, "labels": "PER"}, "[]"),
        ({"start": 1, "end": 3, "labels": [3]}, "[]"),
        ({"start": 1, "end": 3}, "[]"),
        ({"start": "1", "end": "3", "labels": ["PER"]}, '[[1, 3, "PER"]]'),
        ({"start": 1.0, "end": 3.0, "labels": ["PER"]}, '[[1, 3, "PER"]]'),
        ({"start": 1, "end": 900, "labels": ["gone"]}, '[[1, 900, "gone"]]'),
        (None, "[]"),
    ],
)
def test_a_region_that_is_no_place_is_passed_over(value: object, said: str) -> None:
    space = parse_config(SPANS_CONFIG)
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    assert from_result(space, [relation, {"from_name": "other"}, {"from_name": "label", "value": value}]) == said


def test_each_span_has_its_words_and_its_own_score() -> None:
    space = parse_config(SPANS_CONFIG)
    details = (
        Detail("0:3", "PER", 0.75, Flag.CLEAN, words="Bob"),
        Detail("4:8", "LOC", 0.5, Flag.NOISY, llm_label="PER", slm_label="LOC", slm_score=0.5, words="Rome"),
        Detail("9:12", None, 0.875, Flag.NOISY, llm_label="PER", words="and"),
    )
    said = '[[0, 3, "PER"], [4, 8, "PER"], [9, 12, "PER"]]'
    regions = to_regions(space, said, 0.5, marker="m", details=details)
    assert [(r["value"]["text"], r["score"]) for r in regions] == [("Bob", 0.75), ("Rome", 0.5), ("and", 0.125)]
    assert [r.get("coral") for r in regions] == ["m", None, None]
    assert len({r["id"] for r in regions}) == 3


def test_spans_with_labels_that_are_gone_are_no_prediction() -> None:
    space = parse_config(SPANS_CONFIG)
    with pytest.raises(ValueError, match="no spans of 'label'"):
        to_regions(space, '[[0, 3, "ORG"]]', None)
    assert from_result(space, prediction_row(space, "coral-r1", verdict(1, '[[0, 3, "ORG"]]'))[1]) == "[]"


def test_spans_and_a_class_of_one_text_are_two_controls_of_a_text_that_is_kept_as_it_stands() -> None:
    both = (
        '<View><Text name="text" value="$text"/><Choices name="mood" toName="text"><Choice value="good"/><Choice value="bad"/></Choices>'
        '<Labels name="names" toName="text"><Label value="PER"/></Labels></View>'
    )
    space = parse_config(both)
    assert [(control.from_name, control.kind) for control in space.controls] == [("mood", "single"), ("names", SPANS)]
    sample = sample_from_task(space, {"id": 1, "data": {"text": "  Bob \n"}}, recorded_key=None, max_chars=1000)
    assert sample.text == "  Bob \n", "no blank is stripped: offsets would move"
