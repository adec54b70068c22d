"""Are rows of a table read the same whenever their values are, whatever else stands in the task?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from coral_backend.exceptions import LabelConfigError
from coral_backend.labelstudio.control_tags import config_hash, parse_config
from coral_backend.labelstudio.tasks import sample_from_task
from coral_backend.types import LabelSpace, Sample

CHOICES = '<Choices name="label" toName="row"><Choice value="a"/><Choice value="b"/></Choices>'
TABLE = f'<View><Table name="row" value="$row"/>{CHOICES}</View>'
FIELDS = f'<View><Text name="row" value="Age: $age, job: $job"/>{CHOICES}</View>'


def sample(data: Any, xml: str = TABLE, max_chars: int = 1_000) -> Sample:
    return sample_from_task(parse_config(xml), {"id": 7, "data": data}, recorded_key="said", max_chars=max_chars)


def test_a_row_is_the_same_json_in_whichever_order_its_columns_come() -> None:
    one = sample({"row": {"job": "nurse", "age": 41, "left": None, "vip": True}})
    other = sample({"row": {"vip": True, "left": None, "age": 41, "job": "nurse"}})
    assert one.text == '{"age": 41, "job": "nurse", "left": null, "vip": true}'
    assert one.content_hash == other.content_hash
    assert one.content_hash != sample({"row": {"job": "nurse", "age": 42, "left": None, "vip": True}}).content_hash


def test_json_in_a_text_is_read_as_label_studios_table_reads_it() -> None:
    assert sample({"row": '{"age": 41}'}).text == '{"age": 41}'


def test_a_template_takes_its_columns_from_the_task_in_the_order_of_the_template() -> None:
    space = parse_config(FIELDS)
    assert (space.columns, space.text_keys, space.shown_key) == (("age", "job"), ("age", "job"), None)
    assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space
    got = sample({"job": "nurse", "age": 41, "id": 3, "said": "a"}, FIELDS)
    assert got == Sample(7, '{"age": 41, "job": "nurse"}', None, "a")
    assert config_hash(FIELDS) != config_hash(FIELDS.replace("job: $job", "work: $work"))


def test_hypertext_may_be_a_template_too() -> None:
    page = FIELDS.replace("<Text", '<HyperText inline="true"').replace('"Age', '"&lt;b&gt;Age')
    assert parse_config(page).columns == ("age", "job")
    assert not parse_config(page.replace(", job: $job", "").replace("&lt;b&gt;Age: ", "")).is_row


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (41, 41),
        (2.5, 2.5),
        (float("nan"), None),
        (float("inf"), None),
        ("", None),
        (" \x00 ", None),
        ("a\ud800b\n", "a\ufffdb"),
        ("x" * 5_000, "x" * 1_000),
        (False, False),
    ],
)
def test_cells_are_cleaned(value: object, cell: object) -> None:
    assert json.loads(sample({"row": {"v": value, "w": 1}}, max_chars=2_000).text) == {"v": cell, "w": 1}


@pytest.mark.parametrize(
    ("data", "xml", "says"),
    [
        ({}, TABLE, "no key 'row'; it has none"),
        ({"Row": {}}, TABLE, "no key 'row'; it has 'Row'"),
        ({"row": None}, TABLE, "'row' is null; it must be an object with a value for each column"),
        ({"row": [1, 2]}, TABLE, "'row' is a list"),
        ({"row": 3}, TABLE, "'row' is a int"),
        ({"row": "age 41"}, TABLE, "'row' is a text that is no JSON"),
        ({"row": "[" * 100_000}, TABLE, "'row' is a text that is no JSON"),
        ({"row": {}}, TABLE, "no value in any column"),
        ({"row": {"a": None, "b": ""}}, TABLE, "no value in any column"),
        ({"row": {"a": 1, "b": {"c": 2}}}, TABLE, "an object in the column 'b'"),
        ({"row": {"a": 1, "b": []}}, TABLE, "a list in the column 'b'"),
        ({"row": {f"c{i}": "x" * 90 for i in range(20)}}, TABLE, "characters; at most 1,000 are read"),
        ({"job": "nurse", "Age": 41}, FIELDS, "no key 'age'; it has 'job', 'Age'. Write null"),
        ({"job": ["nurse"], "age": 41}, FIELDS, "a list in the column 'job'"),
    ],
)
def test_what_is_no_row_is_a_problem_of_that_task_alone(data: Any, xml: str, says: str) -> None:
    got = sample(data, xml)
    assert got.text == ""
    assert says in str(got.problem)


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        (TABLE.replace('name="row"', 'name="row" valueType="csv"', 1), "valueType='csv'; CORAL labels one row a task"),
        (TABLE.replace('name="row"', 'name="row" valueType="url"', 1), "behind an address"),
        (TABLE.replace("$row", "row"), "must be one key"),
        (FIELDS.replace("Age: $age, job: ", "$age "), "does not begin with one"),
        (FIELDS.replace("$age,", "$age."), "must be one key"),
        (FIELDS.replace("$age,", "$row.age,"), "must be one key"),
        (
            '<View><Table name="a" value="$a"/><Table name="b" value="$b"/><Pairwise name="p" toName="a,b"/></View>',
            "compares rows of a table",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(xml: str, says: str) -> None:
    with pytest.raises(LabelConfigError) as caught:
        parse_config(xml)
    assert says in str(caught.value)
