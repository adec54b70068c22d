"""Is a gold check random, repeatable and fair to the slices, and do people find it in Label Studio?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from coral_backend import cli
from coral_backend.exceptions import InputError
from coral_backend.gold_check import choose, draw_check
from coral_backend.labelstudio import columns
from coral_backend.settings import Settings
from coral_backend.store import Store, checks
from coral_backend.sync import reconcile, refresh_project
from coral_backend.types import Sample
from tests.label_studio_fixture import LabelStudioUnderTest

SAMPLES = [Sample(i, f"text {i}", slice="mr" if i % 4 == 0 else "en") for i in range(1, 401)] + [
    Sample(500 + i, "x", slice="da") for i in range(5)
]


def test_the_same_tasks_each_time_and_more_add_to_them() -> None:
    few, passed_over = choose(SAMPLES, 0, per_slice=10)
    more, _ = choose(list(reversed(SAMPLES)), 0, per_slice=25)
    assert (Counter(few.values()), passed_over) == ({"en": 10, "mr": 10}, 1)
    assert few.items() <= more.items()
    assert few.keys() != choose(SAMPLES, 1, per_slice=10)[0].keys(), "another seed, other tasks"
    assert list(more.values())[:6] == ["en", "mr"] * 3, "in turn: people may stop anywhere"


def test_the_drawing_is_fair() -> None:
    """Over many seeds each task of a slice is drawn as often as any other, wherever it stands in the corpus."""
    hits = Counter(task for seed in range(400) for task in choose(SAMPLES, seed, per_slice=20, only=["mr"])[0])
    assert len(hits) == 100
    assert 45 < min(hits.values()) <= max(hits.values()) < 120, "80 on average"
    first_half = sum(n for task, n in hits.items() if task <= 200) / sum(hits.values())
    assert first_half == pytest.approx(0.5, abs=0.03)


def test_small_slices_are_drawn_when_named_or_alone() -> None:
    assert Counter(choose(SAMPLES, 0, per_slice=10, only=["da"])[0].values()) == {"da": 5}
    assert choose(SAMPLES[-5:], 0, per_slice=3)[1] == 0
    assert choose([], 0, per_slice=3) == ({}, 0)
    with pytest.raises(InputError, match=r"no slice 'dk'. There are: da, en, mr. CORAL_SLICE_KEY"):
        choose(SAMPLES, 0, per_slice=3, only=["dk"])


def test_people_find_it_in_label_studio(
    label_studio: LabelStudioUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first round: the tab stands alone, in random order, empties as people label, and survives a redraw."""
    client = label_studio.client
    project_id, _ = label_studio.new_project()
    rows = [{"data": {"text": f"text {i}", "source": "mr" if i % 3 else "en"}} for i in range(60)]
    ids = client.import_tasks(project_id, rows)
    settings = Settings.load({}, model_dir=tmp_path, slice_key="source")
    store = Store(settings.store_url)
    found = draw_check(store, settings, client, project_id, per_slice=4)
    assert (found.drawn, found.new, found.to_do, found.passed_over) == ({"en": 4, "mr": 4}, 8, 8, 0)
    [view] = client.views(project_id)
    assert (view["id"], view["data"]["title"]) == (found.tab, "Gold check (8)")
    order = [one.task_id for one in checks.drawn(store, project_id)]
    assert found.tab is not None
    assert [task["id"] for task in client.view_tasks(project_id, found.tab)] == order != sorted(order)
    data = client.request("GET", f"api/tasks/{order[7]}/")["data"]
    assert data == {**data, "text": rows[order[7] - min(ids)]["data"]["text"], columns.CHECK: "check 000008"}
    hidden = view["data"]["hiddenColumns"]["explore"]
    assert f"tasks:data.{columns.CHECK}" in hidden
    assert "tasks:predictions_score" in hidden, "an independent check does not see what machines say"

    label_studio.annotate(order[0], "positive")
    reconcile(store, client, refresh_project(store, client, project_id))
    again = draw_check(store, settings, client, project_id, per_slice=6, only=["mr"])
    assert (again.drawn, again.new, again.to_do, again.tab) == ({"en": 4, "mr": 6}, 2, 9, found.tab)
    [view] = client.views(project_id)
    assert view["data"]["title"] == "Gold check (9)"
    store.close()

    for name, value in {
        "MODEL_DIR": str(tmp_path), "LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.token,
        "CORAL_SLICE_KEY": "source",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    said = CliRunner().invoke(cli.main, ["check", "--per-slice", "6"])
    assert said.exit_code == 0, said.output
    assert "2 tasks drawn, 11 to label in the tab Gold check." in said.output
    assert f"data?tab={found.tab}" in said.output
    told = CliRunner().invoke(cli.main, ["check", "--show", "--json"])
    assert {line["name"]: line["drawn"] for line in json.loads(told.output)["slices"]} == {"mr": 6, "en": 6}
    wrong = CliRunner().invoke(cli.main, ["check", "--slice", "dk"])
    assert wrong.exit_code == 1
    assert "There is no slice 'dk'. There are: en, mr." in wrong.stderr
