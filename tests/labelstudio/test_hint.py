"""Does the hint go into a label config, and out of it, without touching anything else?"""

from __future__ import annotations

import pytest

from coral_backend.exceptions import LabelConfigError
from coral_backend.labelstudio.control_tags import config_hash, parse_config
from coral_backend.labelstudio.hint import LINE, is_shown, with_hint, without_hint
from tests.label_studio_fixture import CONFIG, LabelStudioUnderTest

CONFIGS = {
    "indented": CONFIG,
    "one line": "".join(line.strip() for line in CONFIG.splitlines()),
    "windows": CONFIG.replace("\n", "\r\n"),
    "attributes": CONFIG.replace("<View>", '<View className="a > b" style=\'x: "y"\'>'),
    "comment first": f"<!-- <View> ünï -->\n{CONFIG}",
    "declared": f'<?xml version="1.0"?>\n{CONFIG}',
    "tabs": CONFIG.replace("  ", "\t"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_line_is_the_first_in_the_form_and_comes_out_again(name: str) -> None:
    xml = CONFIGS[name]
    shown = with_hint(xml)
    assert shown.count(LINE) == 1
    assert shown.index(LINE) < shown.index("<Text")
    assert is_shown(shown)
    assert parse_config(shown) == parse_config(xml)
    assert config_hash(shown) == config_hash(xml), "no round becomes stale by it"
    assert with_hint(shown) == shown
    assert without_hint(shown) == xml


def test_a_hint_that_a_person_placed_is_left_alone() -> None:
    own = CONFIG.replace("</View>", '<Header value="See: $coral_hint"/></View>')
    assert with_hint(own) == own
    assert without_hint(own) == own
    assert not is_shown(CONFIG.replace("$text", "$coral_hints"))


@pytest.mark.parametrize("xml", ["", "<View/>", "<View><Text", '<!DOCTYPE x [<!ENTITY a "b">]><View/>'])
def test_a_config_that_cannot_be_served_is_refused(xml: str) -> None:
    with pytest.raises(LabelConfigError):
        with_hint(xml)


@pytest.mark.parametrize("name", ["indented", "attributes", "windows"])
def test_label_studio_takes_it_and_tasks_without_the_key(label_studio: LabelStudioUnderTest, name: str) -> None:
    client = label_studio.client
    project, ids = label_studio.new_project(["before"], CONFIGS[name])
    label_studio.annotate(ids[0], "positive")
    there = str(client.project(project)["label_config"])
    client.update_project(project, label_config=with_hint(there))
    assert client.import_tasks(project, [{"data": {"text": "after"}}])
    client.update_project(project, label_config=without_hint(str(client.project(project)["label_config"])))
    assert str(client.project(project)["label_config"]) == there
