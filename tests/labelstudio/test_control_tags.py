"""Is a label config read right, and what cannot be served refused with a reason?"""

from __future__ import annotations

import logging

import pytest

from coral_backend.exceptions import LabelConfigError
from coral_backend.labelstudio.control_tags import config_hash, from_result, parse_config, to_regions

SIMPLE = (
    '<View><Text name="text" value="$review"/><Choices name="label" toName="text" choice="single" showInline="true">'
    '<Choice value="positive" hint="praise"/><Choice value="negative"/></Choices></View>'
)


def config(choices: str = '<Choice value="a"/><Choice value="b"/>', attributes: str = "", obj: str = "") -> str:
    obj = obj or '<Text name="text" value="$text"/>'
    return f'<View>{obj}<Choices name="label" toName="text" {attributes}>{choices}</Choices></View>'


def test_a_simple_config_gives_its_label_space() -> None:
    space = parse_config(SIMPLE)
    assert (space.tag, space.from_name, space.to_name, space.text_key) == ("Choices", "label", "text", "review")
    assert space.labels == ("positive", "negative")
    assert space.definitions == {"positive": "praise"}


def test_an_alias_is_the_label_and_its_value_the_definition() -> None:
    space = parse_config(config('<Choice value="It is praise" alias="pos" hint="five stars"/><Choice value="neg"/>'))
    assert space.labels == ("pos", "neg")
    assert space.definitions == {"pos": "It is praise: five stars"}


def test_other_objects_with_one_key_are_read() -> None:
    assert parse_config(config(obj='<HyperText name="text" value="$html" inline="true"/>')).text_key == "html"


def test_labels_may_be_in_any_script_and_hold_markup_signs() -> None:
    space = parse_config(config('<Choice value="très bon"/><Choice value="不好"/><Choice value="a &lt; b &amp; c"/>'))
    assert space.labels == ("très bon", "不好", "a < b & c")


def test_of_several_controls_the_first_served_one_counts_and_the_others_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    xml = (
        '<View><Text name="t" value="$text"/><Number name="stars" toName="t"/>'
        '<Choices name="many" toName="t" choice="some"><Choice value="x"/><Choice value="y"/></Choices>'
        '<Choices name="one" toName="t"><Choice value="x"/><Choice value="y"/></Choices>'
        '<Choices name="two" toName="t"><Choice value="x"/><Choice value="y"/></Choices></View>'
    )
    with caplog.at_level(logging.WARNING):
        assert parse_config(xml).from_name == "one"
    assert all(name in caplog.text for name in ("stars", "many", "two"))


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("<View>", "not well-formed"),
        ("no xml at all", "not well-formed"),
        ("<View/>", "no control; found <View>"),
        ('<View><Text name="t" value="$t"/></View>', "no control; found <Text>, <View>"),
        (
            '<View><Text name="t" value="$t"/><Relations><Relation value="r"/></Relations><TextArea name="n" toName="t"/></View>',
            "<TextArea",
        ),
        (config(attributes='choice="some"'), 'choice="some"'),
        (config(choices="", attributes='value="$options"'), "come from the tasks"),
        (config(attributes='perRegion="true"'), "belongs to regions"),
        (config('<Choice value="a"><Choice value="a1"/></Choice><Choice value="b"/>'), "nested"),
        (config(choices=""), "0 label"),
        (config('<Choice value="only"/>'), "1 label"),
        (config('<Choice value="a"/><Choice value=" "/>'), "without text"),
        (config('<Choice value="a"/><Choice/>'), "without text"),
        (config('<Choice value="a"/><Choice value="a"/>'), "twice"),
        (config('<Choice value="caf\u00e9"/><Choice value="cafe\u0301"/>'), "twice"),
        (config("".join(f'<Choice value="l{i}"/>' for i in range(10_000))), "10000 labels"),
        (config(obj='<Text name="other" value="$text"/>'), "no tag has that name"),
        (config(obj='<Text name="text" value="fixed words"/>'), "one key of the task data"),
        (config(obj='<Text name="text" value="$a and $b"/>'), "one key of the task data"),
        (config(obj='<Text name="text" value="$url" valueType="url"/>'), "behind an address"),
        (config(obj='<Image name="text" value="$img"/>'), "behind an address"),
        ('<View><Text name="t" value="$t"/><Choices toName="t"><Choice value="a"/></Choices></View>', "no name"),
        ("<View>" + " " * 600_000 + "</View>", "at most 500,000"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(xml: str, says: str) -> None:
    with pytest.raises(LabelConfigError, match=r".") as caught:
        parse_config(xml)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>',
        '<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE v SYSTEM "http://127.0.0.1:9/x.dtd">',
    ],
)
def test_entities_are_refused(head: str) -> None:
    with pytest.raises(LabelConfigError, match="entity"):
        parse_config(head + SIMPLE)


def test_the_message_tells_what_is_served() -> None:
    with pytest.raises(
        LabelConfigError,
        match=r"<Number name='r'>: not served. CORAL serves <Choices>, <Labels>, <Pairwise>, <Rating>, <Taxonomy>",
    ):
        parse_config('<View><Text name="t" value="$t"/><Number name="r" toName="t"/></View>')


def test_the_hash_ignores_spaces_attribute_order_and_looks() -> None:
    other = """<View className="x"><Style>.x { color: red }</Style><Header value="Read!"/>
      <Text   value="$review"   name="text"/>
      <Choices choice="single" toName="text" name="label">
         <Choice hint="praise" value="positive"/>
         <!-- the other one --><Choice value="negative"/>
      </Choices></View>"""
    assert config_hash(SIMPLE) == config_hash(other)
    assert len(config_hash(SIMPLE)) == 64


@pytest.mark.parametrize(
    ("old", "new"),
    [("negative", "bad"), ("$review", "$text"), ('name="label"', 'name="mood"'), ("praise", "approval")],
)
def test_the_hash_sees_what_a_label_depends_on(old: str, new: str) -> None:
    assert config_hash(SIMPLE) != config_hash(SIMPLE.replace(old, new))


def test_the_hash_sees_the_order_of_labels() -> None:
    assert config_hash(config()) != config_hash(config('<Choice value="b"/><Choice value="a"/>'))


def test_a_region_has_score_and_marker_only_when_given() -> None:
    space = parse_config(SIMPLE)
    bare = {
        "id": "coral",
        "from_name": "label",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": ["negative"]},
    }
    assert to_regions(space, "negative", None) == [bare]
    assert to_regions(space, "negative", 0.5, marker="m") == [bare | {"score": 0.5, "coral": "m"}]


def test_no_label_is_no_region_or_one_that_chooses_nothing() -> None:
    space = parse_config(SIMPLE)
    assert to_regions(space, None, None) == []
    (region,) = to_regions(space, None, None, marker="m")
    assert region["value"] == {"choices": []}
    assert from_result(space, [region]) is None


def test_a_label_that_is_not_in_the_config_is_not_written() -> None:
    with pytest.raises(ValueError, match="'great' is not a label"):
        to_regions(parse_config(SIMPLE), "great", 0.5)


def region(label: object, **more: object) -> dict[str, object]:
    return {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": label}, **more}


@pytest.mark.parametrize(
    ("result", "label"),
    [
        ([], None),
        (None, None),
        ("text", None),
        ({"from_name": "label"}, None),
        ([None, 3, "x"], None),
        ([region([])], None),
        ([region(["a", "b"])], None),
        ([region([3])], None),
        ([region(["gone"])], "gone"),
        ([region(["a"], score=0.1, meta={"text": ["coral:r1:clean"]}, coral="x", origin="prediction-changed")], "a"),
        ([{"from_name": "stars", "value": {"rating": 4}}, region(["a"])], "a"),
        ([{"from_name": "stars", "value": {"choices": ["a"]}}], None),
        ([{"from_name": "label"}, {"from_name": "label", "value": "a"}], None),
        ([region("a")], "a"),
    ],
)
def test_results_of_people_are_read(result: object, label: str | None) -> None:
    assert from_result(parse_config(SIMPLE), result) == label
