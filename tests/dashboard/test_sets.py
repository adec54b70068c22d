"""Do the pages show sets of labels as people read them, find the tasks that have a label, and judge label by label?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from coral_backend.app import create_app
from coral_backend.store import Store, browse, figures
from tests import filled_sets as sets
from tests.web_parts import basic, settings_in

PROJECT = "/dashboard/projects/1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(settings_in(tmp_path).store_url)
    sets.fill(made, tmp_path / "arrays")
    yield made
    made.close()


@pytest.fixture
def client(store: Store, tmp_path: Path) -> FlaskClient:
    return create_app(settings_in(tmp_path), store).test_client()


def page(client: FlaskClient, path: str, **args: str) -> str:
    answer = client.get(f"{PROJECT}{path}", headers=basic(), query_string=args)
    assert answer.status_code == 200, answer.text[:400]
    return answer.text


def found(client: FlaskClient, **args: str) -> list[int]:
    return sorted(int(i) for i in re.findall(r"text (\d)</bdi>", page(client, "/samples", **args)))


def test_sets_are_shown_as_people_read_them(client: FlaskClient) -> None:
    text = page(client, "/samples")
    assert "sports, a, b" in text
    assert '<strong><span class="part">(none)</span></strong>' in text
    assert "[&#34;sports" not in text
    for path in ("", "/quality", "/rounds/1", "/configuration", "/map"):
        page(client, path)
    one = client.get(f"{PROJECT}/samples/2.json", headers=basic()).get_json()
    assert (one["llm_label"], one["human_label"]) == ("sports, a, b", "sports")


def test_a_label_finds_the_tasks_whose_set_has_it(client: FlaskClient) -> None:
    assert found(client, label="sports") == [1, 2, 4, 5]
    assert found(client, llm="sports") == [1, 2]
    assert found(client, llm="a, b") == [2, 4]
    assert found(client, llm='x"a') == [6]
    assert found(client, llm="=1+1") == [6]
    assert found(client, llm="(none)") == [3, 5]
    assert found(client, human_label="(none)") == [1, 3, 5, 6]
    assert found(client, llm="SPORTS") == []


@pytest.mark.parametrize("label", ['a"', '"', "a", "b", "x", "sports, a", "[", ", ", '"sports"', "\\"])
def test_no_label_is_taken_for_a_part_of_another(label: str, store: Store) -> None:
    done = store.rounds(1)[0].id
    assert browse.page(store, 1, done, browse.Filters(llm=label, sets=True)).total == 0


def test_quality_is_told_label_by_label(client: FlaskClient, store: Store) -> None:
    from coral_backend.dashboard import charts

    table = charts.by_label(figures.scores(store, 1, store.rounds(1)[0].id), sets.LABELS)
    line = table.lines[1]
    assert (line.label, line.llm, line.slm, line.human, line.checked) == ("a, b", 2, 2, 1, 3)
    assert (line.precision["llm"], line.recall["llm"]) == (0.5, 1.0)
    assert table.exact == {"llm": pytest.approx(1 / 3), "slm": pytest.approx(2 / 3)}
    assert table.f1["llm"] == pytest.approx(2 * 2 / 6, abs=1e-3)
    text = page(client, "/quality")
    assert "Label by label" in text
    assert "Who says what" not in text
    assert "50.0 %" in text
