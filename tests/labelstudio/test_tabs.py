"""Does each tab show the right tasks, most doubtful first, whatever people do to it?"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.control_tags import parse_config, to_regions
from coral_backend.labelstudio.tabs import MAX_TITLE, _layout, _title, assert_tabs, flag_token, tab_counts
from coral_backend.types import Flag
from tests.label_studio_fixture import CONFIG, LabelStudioUnderTest

SPACE = parse_config(CONFIG)
N, INC, C = Flag.NOISY, Flag.INCONSISTENT, Flag.CLEAN

Truth = Mapping[int, tuple[Flag, float]]


def push(client: LabelStudioClient, project: int, version: str, truth: Truth) -> None:
    """Push and select a version whose flags and scores are `truth`."""
    rows = [
        (task, to_regions(SPACE, "positive", score, marker=flag_token(version, flag)), score, version)
        for task, (flag, score) in truth.items()
    ]
    assert client.push_predictions(project, rows).created == len(truth)
    client.select_version(project, version)


def shown(client: LabelStudioClient, project: int, tabs: Mapping[str, int]) -> dict[str, list[int]]:
    return {title: [task["id"] for task in client.view_tasks(project, view)] for title, view in tabs.items()}


def counts(truth: Truth) -> dict[Flag, int]:
    return {flag: sum(one is flag for one, _ in truth.values()) for flag in Flag}


def test_each_tab_shows_its_tasks_most_doubtful_first_in_every_version(label_studio: LabelStudioUnderTest) -> None:
    client, (project, t) = label_studio.client, label_studio.new_project([f"text {i}" for i in range(7)])
    first: Truth = {
        t[0]: (N, 0.4), t[1]: (N, 0.1), t[2]: (INC, 0.3), t[3]: (C, 0.9), t[4]: (C, 0.8), t[5]: (N, 0.2), t[6]: (INC, 0.05),
    }  # fmt: skip
    push(client, project, "coral-r1", first)
    tabs = assert_tabs(client, project, "coral-r1", counts(first), text_key="text")
    assert shown(client, project, tabs) == {
        "Noisy (3)": [t[1], t[5], t[0]],
        "Inconsistent (2)": [t[6], t[2]],
        "Clean (2)": [t[4], t[3]],
    }

    # Version r1 of these tasks stays in Label Studio; its flags must not count any more.
    second: Truth = {
        t[0]: (C, 0.7), t[1]: (N, 0.6), t[2]: (N, 0.5), t[3]: (INC, 0.4), t[4]: (C, 0.2), t[5]: (INC, 0.9), t[6]: (C, 0.99),
    }  # fmt: skip
    push(client, project, "coral-r1.1", second)
    again = assert_tabs(client, project, "coral-r1.1", counts(second), text_key="text")
    assert list(again.values()) == list(tabs.values())
    assert shown(client, project, again) == {
        "Noisy (2)": [t[2], t[1]],
        "Inconsistent (2)": [t[3], t[5]],
        "Clean (3)": [t[4], t[0], t[6]],
    }
    assert tab_counts(client, project) == {"Noisy (2)": 2, "Inconsistent (2)": 2, "Clean (3)": 3}

    label_studio.annotate(t[2], "negative")
    label_studio.annotate(t[3], "positive")
    label_studio.annotate(t[4], "positive")
    assert shown(client, project, again) == {
        "Noisy (2)": [t[1]],
        "Inconsistent (2)": [t[5]],
        "Clean (3)": [t[4], t[0], t[6]],
    }
    assert list(assert_tabs(client, project, "coral-r1.1")) == ["Noisy (1)", "Inconsistent (1)", "Clean (3)"]


def test_a_task_without_a_label_can_be_in_a_tab(label_studio: LabelStudioUnderTest) -> None:
    client, (project, (task,)) = label_studio.client, label_studio.new_project(["x"])
    regions = to_regions(SPACE, None, None, marker=flag_token("coral-r1", N))
    assert client.push_predictions(project, [(task, regions, None, "coral-r1")]).created == 1
    assert shown(client, project, assert_tabs(client, project, "coral-r1"))["Noisy (1)"] == [task]


def test_nothing_is_written_when_nothing_changed(
    label_studio: LabelStudioUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = label_studio.new_project(["x"])
    client = label_studio.client
    tabs = assert_tabs(client, project, "coral-r1", {N: 1})
    monkeypatch.setattr(client, "update_view", lambda *_: pytest.fail("written"))
    monkeypatch.setattr(client, "create_view", lambda *_: pytest.fail("made"))
    assert assert_tabs(client, project, "coral-r1", {N: 1}) == tabs


def test_what_people_do_to_tabs_is_mended_and_their_columns_kept(label_studio: LabelStudioUnderTest) -> None:
    client, (project, _) = label_studio.client, label_studio.new_project(["x"])
    tabs = assert_tabs(client, project, "coral-r1", {N: 5, INC: 6, C: 7}, text_key="text")
    noisy, inconsistent, clean = tabs.values()
    data = {view["id"]: view["data"] for view in client.views(project)}
    # A person renames one and shows another column, empties the filter of the second, closes the third.
    columns = {"explore": ["tasks:id"], "labeling": []}
    client.update_view(project, noisy, data[noisy] | {"title": "my queue", "hiddenColumns": columns})
    client.update_view(project, inconsistent, data[inconsistent] | {"filters": {"conjunction": "and", "items": []}})
    client.request("DELETE", f"api/dm/views/{clean}/", params={"project": project})
    again = assert_tabs(client, project, "coral-r2", {N: 1, INC: 2, C: 3}, text_key="text")
    assert list(again) == ["Noisy (1)", "Inconsistent (2)", "Clean (3)"]
    assert list(again.values())[:2] == [noisy, inconsistent]
    assert again["Clean (3)"] != clean
    now = {view["id"]: view["data"] for view in client.views(project)}
    assert len(now) == 3
    assert now[noisy]["hiddenColumns"] == columns
    assert now[noisy]["filters"]["items"][0]["value"] == "coral:coral-r2:noisy"
    assert now[inconsistent]["filters"]["items"][0]["value"] == "coral:coral-r2:inconsistent"


def test_copies_follow_the_version_and_other_tabs_are_left_alone(label_studio: LabelStudioUnderTest) -> None:
    client, (project, _) = label_studio.client, label_studio.new_project(["x"])
    tabs = assert_tabs(client, project, "coral-r1", {})
    data = {view["id"]: view["data"] for view in client.views(project)}[tabs["Noisy (0)"]]
    extra = {"filter": "filter:tasks:data.text", "operator": "contains", "type": "String", "value": "refund"}
    filters = {"conjunction": "and", "items": [*data["filters"]["items"], extra]}
    copy = client.create_view(project, data | {"title": "Refunds", "filters": filters})
    other = client.create_view(project, {"title": "Clean up", "type": "list", "target": "tasks"})
    before = {view["id"]: view["data"] for view in client.views(project)}[other]
    again = assert_tabs(client, project, "coral-r2", {})
    assert again == tabs
    now = {view["id"]: view["data"] for view in client.views(project)}
    assert now[copy]["title"] == "Refunds"
    assert [item["value"] for item in now[copy]["filters"]["items"]] == ["coral:coral-r2:noisy", 0, "refund"]
    assert now[other] == before


def test_the_text_is_the_only_data_column_in_sight(label_studio: LabelStudioUnderTest) -> None:
    client, (project, _) = label_studio.client, label_studio.new_project()
    client.import_tasks(project, [{"data": {"text": "x", "gold": "y", "row": 3}}])
    tabs = assert_tabs(client, project, "coral-r1", {}, text_key="text")
    view = {view["id"]: view["data"] for view in client.views(project)}[tabs["Noisy (0)"]]
    names = {f"tasks:{'data.' if c.get('parent') == 'data' else ''}{c['id']}" for c in client.columns(project)}
    visible = names - set(view["hiddenColumns"]["explore"]) - {"tasks:data"}
    assert visible == {"tasks:data.text", "tasks:predictions_score", "tasks:total_annotations"}
    assert names - set(view["hiddenColumns"]["labeling"]) - {"tasks:data"} == {"tasks:data.text"}


@pytest.mark.parametrize(
    ("count", "title"),
    [
        (0, "Inconsistent (0)"),
        (15, "Inconsistent (15)"),
        (150, "Inconsistent(150)"),
        (1_234, "Inconsist. (1234)"),
        (12_345, "Inconsist.(12345)"),
        (123_456, "Inconsist. (123k)"),
        (12_345_678, "Inconsistent(12M)"),
    ],
)
def test_a_title_fits_with_its_count(count: int, title: str) -> None:
    assert _title(INC, count) == title
    assert all(len(_title(flag, count)) <= MAX_TITLE for flag in Flag)
    assert _title(N, count).startswith("Noisy (")


def test_the_names_of_controls_columns_can_be_read() -> None:
    keys = ["text", "coral_doubt", "coral_llm_sentiment", "coral_slm_" + "x" * 90, "coral_p_clean"]
    widths = _layout(N, keys, "text")["columnsWidth"]
    assert [widths[f"tasks:data.{key}"] for key in keys[1:]] == [130, 182, 260, 155]


def test_tokens_are_ascii_and_of_one_version_only() -> None:
    assert flag_token("coral-r1", C) == "coral:coral-r1:clean"
    strange = flag_token('v"1:\u00fc', N)
    assert strange.isascii()
    assert '"' not in strange
    assert flag_token("r1", N) not in flag_token("r11", N)
    assert flag_token("r1", N) not in flag_token("x:r1", N)
