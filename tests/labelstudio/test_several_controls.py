"""Which controls of a config are served together, how do they travel to Label Studio and back, and what do its columns show?"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from label_studio_sdk.label_interface.interface import LabelInterface

from coral_backend.controls import joined_verdict, verdict_of
from coral_backend.exceptions import LabelConfigError
from coral_backend.labels import MULTIPLE, SEVERAL, SINGLE, read_controls, write_controls
from coral_backend.labelstudio import columns, control_columns
from coral_backend.labelstudio.control_tags import config_hash, from_result, parse_config
from coral_backend.labelstudio.predictions import prediction_row, prediction_rows
from coral_backend.labelstudio.tasks import human_label_from_annotation
from coral_backend.types import Detail, Flag, LabelSpace, Source, Verdict

TEXT = '<Text name="text" value="$text"/>'
MOOD = '<Choices name="mood" toName="text"><Choice value="good"/><Choice value="bad"/></Choices>'
TOPIC = '<Taxonomy name="topic" toName="text" maxUsages="1"><Choice value="a"><Choice value="b"/></Choice><Choice value="c"/></Taxonomy>'
STARS = '<Rating name="stars" toName="text" maxRating="3"/>'
AREA = '<TextArea name="why" toName="text"/>'
ALL = f"<View>{TEXT}{MOOD}{TOPIC}{STARS}</View>"
ORDER = ("mood", "topic", "stars")


def names(space: LabelSpace) -> list[str]:
    return [control.from_name for control in space.controls] or [space.from_name]


def test_all_that_can_be_served_on_one_text_are_served_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        space = parse_config(f"<View>{TEXT}{AREA}{MOOD}{TOPIC}{STARS}</View>")
    assert (space.kind, names(space)) == (SEVERAL, list(ORDER))
    assert {control.kind for control in space.controls} == {SINGLE}
    assert "not <TextArea name='why'>: not served" in caplog.text
    assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space
    assert space.named_labels[:3] == ("mood: good", "mood: bad", "topic: a")


def test_one_control_is_what_it_was_before_there_were_several() -> None:
    alone = parse_config(f"<View>{TEXT}{MOOD}</View>")
    assert parse_config(f"<View>{TEXT}{MOOD}{AREA}</View>") == alone
    assert parse_config(ALL, "first") == alone
    assert parse_config(ALL, "mood") == alone
    assert config_hash(ALL, "first") == config_hash(f"<View>{TEXT}{MOOD}</View>")
    assert set(alone.to_json()) == {"tag", "from_name", "to_name", "text_key", "labels", "definitions"}
    assert config_hash(ALL) not in (config_hash(ALL, "first"), config_hash(ALL, "mood,topic"))


def test_some_can_be_chosen_by_name() -> None:
    assert names(parse_config(ALL, "stars, mood")) == ["mood", "stars"], "in the order of the config"
    assert names(parse_config(ALL, "stars")) == ["stars"]
    named = ALL.replace('name="mood"', 'name="first"')
    assert names(parse_config(named, "first")) == ["first"]


@pytest.mark.parametrize(("controls", "says"), [("tone", "no control 'tone'; it has 'mood'"), (" , ", "an empty name")])
def test_a_name_that_is_not_there_is_refused(controls: str, says: str) -> None:
    with pytest.raises(LabelConfigError, match=says):
        parse_config(ALL, controls)


@pytest.mark.parametrize(
    "hidden",
    [
        STARS.replace("<Rating", '<Rating visibleWhen="choice-selected" whenTagName="mood" whenChoiceValue="bad"'),
        f'<View visibleWhen="choice-selected" whenTagName="mood"><View>{STARS}</View></View>',
    ],
)
def test_what_is_asked_under_a_condition_is_served_only_by_name(hidden: str, caplog: pytest.LogCaptureFixture) -> None:
    xml = f"<View>{TEXT}{hidden}{MOOD}</View>"
    with caplog.at_level(logging.WARNING):
        assert names(parse_config(xml)) == ["mood"]
    assert "only where another has a certain value" in caplog.text
    assert names(parse_config(xml, "mood,stars")) == ["stars", "mood"]
    assert names(parse_config(f"<View>{TEXT}{hidden}</View>")) == ["stars"], "there is no other"


def test_controls_of_another_text_and_broken_ones_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    other = '<Text name="title" value="$title"/>' + STARS.replace('toName="text"', 'toName="title"')
    picture = '<Image name="image" value="$image"/>' + TOPIC.replace('toName="text"', 'toName="image"')
    with caplog.at_level(logging.WARNING):
        assert names(parse_config(f"<View>{TEXT}{MOOD}{other}{picture}</View>")) == ["mood"]
    assert "it labels $title, and 'mood' labels $text" in caplog.text
    assert "behind an address" in caplog.text
    with caplog.at_level(logging.WARNING):
        assert names(parse_config(f"<View>{TEXT}{MOOD}{MOOD}</View>")) == ["mood"]
    assert "another control has the same name" in caplog.text
    with pytest.raises(LabelConfigError, match="behind an address"):
        parse_config(f"<View>{picture}{TEXT}{MOOD}</View>")


# --- predictions and annotations ---------------------------------------------------------------------------------------


def part(label: str | None, score: float, flag: Flag = Flag.CLEAN, **more: Any) -> Verdict:
    values: dict[str, Any] = {
        "prediction_label": label,
        "prediction_score": score,
        "llm_label": label,
        "slm_label": label,
    }
    values |= {"slm_score": score, "p_clean": score, "loss": 0.5, **more}
    return Verdict(1, label, score, Source.LLM, flag, 1, **values)


def test_what_is_pushed_is_what_label_studio_accepts_and_reads_back() -> None:
    space, interface = parse_config(ALL), LabelInterface(ALL)
    for said in ({"mood": "bad", "topic": "a > b", "stars": "2"}, {"mood": "good", "stars": "3"}, {"topic": "c"}, {}):
        parts = {name: part(said.get(name), 0.9 - 0.1 * i) for i, name in enumerate(ORDER)}
        _, result, score, version = prediction_row(space, "coral-r1", joined_verdict(parts, ORDER))
        prediction = {"result": result, "score": score, "model_version": version}
        assert interface.validate_prediction(prediction, return_errors=True) == []  # type: ignore[no-untyped-call]
        assert read_controls(from_result(space, result)) == (said or None)
        assert len({region["id"] for region in result}) == len(result)
        [marked] = [region for region in result if "coral" in region]
        assert marked["coral"] == "coral:coral-r1:clean"
        assert marked["from_name"] == next(iter(said), "mood")
        assert {r["from_name"]: r["score"] for r in result if "score" in r} == {
            name: pytest.approx(0.9 - 0.1 * ORDER.index(name)) for name in said
        }


def test_the_slm_has_a_prediction_of_its_own_where_it_says_something_else_of_one_control() -> None:
    space = parse_config(ALL)
    parts = {
        "mood": part("bad", 0.8),
        "topic": part("c", 0.3, Flag.NOISY, slm_label="a", slm_score=0.6),
        "stars": part("2", 0.9),
    }
    rows = prediction_rows(space, "coral-r1", [joined_verdict(parts, ORDER)])
    by_version = {version: (result, score) for _, result, score, version in rows}
    result, score = by_version["coral-r1-slm"]
    assert read_controls(from_result(space, result)) == {"mood": "bad", "topic": "a", "stars": "2"}
    assert (score, [region["score"] for region in result]) == (0.6, [0.8, 0.6, 0.9])
    assert not any("coral" in region for region in result)
    assert read_controls(from_result(space, by_version["coral-r1"][0])) == {"mood": "bad", "topic": "c", "stars": "2"}


def test_a_control_that_a_person_left_empty_is_not_labelled() -> None:
    space = parse_config(ALL)
    result = [
        {"from_name": "stars", "to_name": "text", "type": "rating", "value": {"rating": 2}},
        {"from_name": "mood", "to_name": "text", "type": "choices", "value": {"choices": []}},
        {"from_name": "why", "to_name": "text", "type": "textarea", "value": {"text": ["so"]}},
    ]
    annotation = {"id": 3, "result": result, "updated_at": "2026-01-01"}
    assert human_label_from_annotation(space, annotation, 1).label == '{"stars": "2"}'
    empty = {"id": 3, "result": result[1:], "updated_at": "2026-01-01"}
    assert human_label_from_annotation(space, empty, 1).label is None
    assert not space.allows("{}")


# --- columns and hint --------------------------------------------------------------------------------------------------


def test_each_control_has_columns_and_the_doubtful_ones_are_named() -> None:
    space = parse_config(ALL)
    parts = {
        "mood": part("bad", 0.4, Flag.NOISY, slm_label="good", slm_score=0.6),
        "topic": part("a > b", 0.9),
        "stars": part("2", 0.7, Flag.INCONSISTENT, slm_label="3", slm_score=0.8),
    }
    found = control_columns.fields(space, [joined_verdict(parts, ORDER)], hint=True)
    assert next(iter(found)) == "coral_doubt", "what stands first in Label Studio is seen without scrolling"
    shown = {key: values[1] for key, values in found.items() if key != columns.HINT}
    assert shown == {
        "coral_llm_mood": "bad", "coral_slm_mood": "good", "coral_llm_topic": "a > b", "coral_slm_topic": "a > b",
        "coral_llm_stars": "2", "coral_slm_stars": "3", "coral_doubt": "mood, stars", "coral_conf": "0.60",
        "coral_p_clean": "0.40", "coral_rank": "000000", "coral_flag": "noisy", "coral_llm": "", "coral_slm": "",
    }  # fmt: skip
    hint = found[columns.HINT][1]
    assert not isinstance(hint, str)
    assert hint[0].startswith("mood · ")
    assert hint[0].endswith(" · also doubtful: stars")
    assert hint[1:] == ("40 %", "60 %")
    clean = control_columns.fields(
        space, [joined_verdict({name: part("good", 0.9) for name in ORDER}, ORDER)], hint=True
    )
    assert (clean[columns.HINT][1], clean["coral_doubt"][1]) == ("", "")


def test_columns_of_controls_with_odd_names_do_not_meet() -> None:
    odd = [LabelSpace("Choices", name, "text", "text", ("a", "b")) for name in ("is it?", "is it!", "is_it", "ß", "?")]
    space = LabelSpace("Choices", "is it?", "text", "text", ("a", "b"), kind=SEVERAL, controls=tuple(odd))
    keys = control_columns.keys_of(space)
    assert [llm for llm, _ in keys.values()] == [
        "coral_llm_is_it", "coral_llm_is_it_2", "coral_llm_is_it_3", "coral_llm_ß", "coral_llm_control",
    ]  # fmt: skip
    assert all(control_columns.is_column(key) for pair in keys.values() for key in pair)
    assert not control_columns.is_column("coral_hint")


def test_the_least_sure_control_speaks_for_the_task() -> None:
    joined = joined_verdict(
        {"mood": part("bad", 0.9), "topic": part("c", 0.6, Flag.INCONSISTENT), "stars": part(None, 0.8, Flag.NOISY)},
        ORDER,
    )
    assert (joined.label, joined.score, joined.flag, joined.loss) == (
        write_controls({"mood": "bad", "topic": "c"}, ORDER),
        0.6,
        Flag.NOISY,
        1.5,
    )
    assert [detail.name for detail in joined.details] == list(ORDER)


def test_a_control_with_a_slash_is_no_part_of_another() -> None:
    mood = LabelSpace("Choices", "a", "text", "text", ("b", "b/c", "~1"), kind=MULTIPLE)
    order = ("a", "a/b", "a~1b", "a/b/c")
    others = [LabelSpace("Choices", name, "text", "text", ("x", "y")) for name in order[1:]]
    inner = tuple(Detail(label, "yes", 0.1 * i, Flag.NOISY, Source.LLM) for i, label in enumerate(mood.labels, 1))
    parts = {"a": part('["b", "b/c"]', 0.1, Flag.NOISY, details=inner)}
    parts |= {name: part("x", 0.6 + 0.1 * i) for i, name in enumerate(order[1:])}
    joined = joined_verdict(parts, order)
    assert len({detail.name for detail in joined.details}) == len(joined.details)
    assert verdict_of(joined, mood).details == inner
    for space in (mood, *others):
        seen = verdict_of(joined, space)
        assert (seen.label, seen.score) == (parts[space.from_name].label, parts[space.from_name].score)
        assert seen.details == parts[space.from_name].details


# --- other kinds of answers among several ------------------------------------------------------------------------------

TAGS = '<Choices name="tags" toName="text" choice="multiple"><Choice value="x"/><Choice value="y"/><Choice value="z"/></Choices>'


def test_a_set_beside_one_label_keeps_its_parts() -> None:
    xml = f"<View>{TEXT}{MOOD}{TAGS}</View>"
    space, interface = parse_config(xml), LabelInterface(xml)
    assert [control.kind for control in space.controls] == [SINGLE, MULTIPLE]
    order = ("mood", "tags")
    inner = (
        Detail("x", "yes", 0.9, Flag.CLEAN, Source.LLM),
        Detail("y", "no", 0.6, Flag.NOISY, Source.SLM, "yes", "no", 0.6),
    )
    parts = {"mood": part("bad", 0.8), "tags": part('["x", "y"]', 0.6, Flag.NOISY, slm_label='["x"]', details=inner)}
    joined = joined_verdict(parts, order)
    assert [detail.name for detail in joined.details] == ["mood", "tags", "tags/x", "tags/y"]
    assert verdict_of(joined, space.controls[1]).details == inner
    for verdict in (joined, joined_verdict({**parts, "tags": part("[]", 0.9)}, order)):
        _, result, score, version = prediction_row(space, "coral-r1", verdict)
        prediction = {"result": result, "score": score, "model_version": version}
        assert interface.validate_prediction(prediction, return_errors=True) == []  # type: ignore[no-untyped-call]
        assert from_result(space, result) == verdict.prediction_label
    shown = control_columns.fields(space, [joined], hint=True)
    assert (shown["coral_llm_tags"][1], shown["coral_doubt"][1]) == ("x, y", "tags")
    assert shown[columns.HINT][1] == ("tags · **Doubtful:** y 40 % (LLM yes, SLM no)",)
    assert prediction_rows(space, "coral-r1", [joined])[0][3] == "coral-r1-slm"
