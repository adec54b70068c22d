"""Do the pages show rows of a table as people read them, whole behind their line, and find them by what they show?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from coral_backend.app import create_app
from coral_backend.backend import connect_project
from coral_backend.dashboard.rows import line_of
from coral_backend.store import Store, tables
from coral_backend.types import Flag, Sample
from tests import filled_store as filled
from tests.web_parts import basic, settings_in

CONFIG = """<View><Table name="text" value="$row"/><Choices name="label" toName="text">
<Choice value="bad"/><Choice value="good"/></Choices></View>"""
PROJECT = "/dashboard/projects/1"
ROWS: tuple[dict[str, Any], ...] = (
    {"age": 41, "job": "nurse", "income": None},
    {"age": 4, "job": "<script>alert(1)</script>", "remarks": "long " * 200},
    {"job": 'says "job: cook"', "married": True},
)


def written(row: dict[str, Any]) -> str:
    """Return a row as the store keeps it."""
    return json.dumps(row, ensure_ascii=False)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    settings = settings_in(tmp_path)
    store = Store(settings.store_url)
    connect_project(store, settings, 1, CONFIG, title="Loans")
    for task_id, row in enumerate(ROWS, 1):
        filled.put_sample(store, task_id, written(row), "good")
    store.put_samples(1, [Sample(4, "", "'row' is a list")])
    first = [filled.verdict(i, "good", Flag.CLEAN, i) for i in (1, 2, 3)]
    filled.finish_round(store, first)
    changed = filled.finish_round(store, [replace(first[0], flag=Flag.NOISY), *first[1:]], retrain=True)
    with store.writing() as connection:
        of_it = tables.rounds.update().where(tables.rounds.c.id == changed.id)
        connection.execute(of_it.values(demos=[[written(ROWS[0]), "good"]]))
    yield create_app(settings, store).test_client()
    store.close()


def page(client: FlaskClient, path: str, **args: str) -> str:
    answer = client.get(f"{PROJECT}{path}", headers=basic(), query_string=args)
    assert answer.status_code == 200, answer.text[:400]
    return answer.text


def test_a_row_is_a_line_with_the_whole_row_behind_it(client: FlaskClient) -> None:
    text = page(client, "/samples")
    assert "<bdi>age: 41 · job: nurse · income: missing</bdi>" in text
    assert "<dt>income</dt><dd><bdi>missing</bdi></dd>" in text
    assert "<dt>remarks</dt><dd><bdi>" + " ".join(["long"] * 200) + "</bdi></dd>" in text
    assert "<dt>married</dt><dd><bdi>true</bdi></dd>" in text
    assert "&#39;row&#39; is a list" in text
    assert "characters)" not in text, "the whole row is there"


def test_a_row_is_escaped(client: FlaskClient) -> None:
    text = page(client, "/samples")
    assert "<script>alert" not in text
    assert "job: &lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize(
    ("contains", "found"),
    [("job: nurse", 1), ("age: 4", 2), ("age: 41, job", 1), ('says "job: COOK"', 1), ("nurse", 1), ("age: 5", 0)],
)
def test_a_row_is_found_by_what_the_page_shows(client: FlaskClient, contains: str, found: int) -> None:
    text = page(client, "/samples", contains=contains)
    assert re.search(r'id="total">(\d+)', text)[1] == str(found)  # type: ignore[index]


def test_the_other_pages_show_the_line(client: FlaskClient) -> None:
    line = "age: 41 · job: nurse · income: missing"
    said = client.get(f"{PROJECT}/samples/1.json", headers=basic()).get_json()
    assert said["text"] == line
    assert said["length"] <= len(line), "the map adds no sign that it was cut"
    text = page(client, "/rounds/1.1")
    assert text.count(f"<bdi>{line}</bdi>") == 2, "among the changes and the demonstrations"


def test_a_line_is_cut_by_cell_and_as_a_whole() -> None:
    assert line_of(written({"a": "x" * 100, "b" * 100: 1})) == f"a: {'x' * 59}… · {'b' * 59}…: 1"
    long = line_of(written({str(i): "word" for i in range(200)}))
    assert (len(long), long[-1]) == (280, "…")
    assert line_of("no row") == "no row"
