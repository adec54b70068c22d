"""Can the pages of a project with several controls be asked for the labels of a set, and do their links lead to tasks?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from coral_backend.app import create_app
from coral_backend.backend import connect_project
from coral_backend.controls import joined_verdict
from coral_backend.labels import write_controls, write_set
from coral_backend.store import Store
from coral_backend.types import Detail, Flag, Verdict
from tests import filled_store as filled
from tests.web_parts import basic, settings_in

CONFIG = """<View><Text name="text" value="$text"/>
<Choices name="mood" toName="text"><Choice value="good"/><Choice value="bad"/></Choices>
<Choices name="tags" toName="text" choice="multiple"><Choice value="price"/><Choice value="a, b"/></Choices></View>"""
TAGS = ("price", "a, b")
SAID = (("good", ("price",)), ("bad", ("price", "a, b")), ("good", ()))
ORDER = ("mood", "tags")
SAMPLES = "/dashboard/projects/1/samples"


def verdict(task_id: int, mood: str, tags: tuple[str, ...]) -> Verdict:
    """Return a verdict on which LLM and SLM agree but for the mood of the third task."""
    slm_mood = "bad" if task_id == 3 else mood
    inner = [Detail(one, "yes" if one in tags else "no", 0.8, Flag.CLEAN) for one in TAGS]
    parts = {
        "mood": filled.verdict(task_id, mood, Flag.CLEAN, task_id, slm_label=slm_mood),
        "tags": filled.verdict(task_id, write_set(tags, TAGS), Flag.CLEAN, task_id, details=tuple(inner)),
    }
    return joined_verdict(parts, ORDER)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    settings = settings_in(tmp_path)
    store = Store(settings.store_url)
    connect_project(store, settings, 1, CONFIG, title="Two controls")
    for task_id, (mood, tags) in enumerate(SAID, 1):
        label = write_controls({"mood": mood, "tags": write_set(tags, TAGS)}, ORDER)
        filled.put_sample(store, task_id, f"text {task_id}", label)
    filled.finish_round(store, [verdict(i, *one) for i, one in enumerate(SAID, 1)])
    yield create_app(settings, store).test_client()
    store.close()


def found(client: FlaskClient, address: str) -> list[str]:
    answer = client.get(address, headers=basic())
    assert answer.status_code == 200, answer.text[:400]
    return sorted(re.findall(r"text (\d)</bdi>", answer.text))


def test_each_control_has_a_line_and_what_differs_is_marked(client: FlaskClient) -> None:
    page = client.get(SAMPLES, headers=basic()).text
    parts = ('<span class="part">mood: bad</span>', '<span class="part">tags: price, a, b</span>')
    assert f'<td data-label="LLM">{"".join(parts)}</td>' in page
    assert re.findall(r'<span class="part differs">([^<]+)</span>', page) == ["mood: bad"]


def test_every_label_of_every_control_can_be_chosen_and_finds_its_tasks(client: FlaskClient) -> None:
    page = client.get(SAMPLES, headers=basic()).text
    [choice] = re.findall(r'<select id="f-llm".*?</select>', page, re.DOTALL)
    options = dict(re.findall(r'<option value="([^"]+)">([^<]+)', choice))
    tasks = {}
    for value, words in options.items():
        answer = client.get(SAMPLES, headers=basic(), query_string={"llm": unescape(value)})
        tasks[words] = sorted(re.findall(r"text (\d)</bdi>", answer.text))
    assert tasks == {
        "mood: good": ["1", "3"], "mood: bad": ["2"], "tags: price": ["1", "2"], "tags: a, b": ["2"], "(none)": [],
    }  # fmt: skip


def test_the_quality_of_a_set_leads_to_the_tasks_of_each_label(client: FlaskClient) -> None:
    page = client.get("/dashboard/projects/1/quality?control=tags", headers=basic()).text
    [section] = re.findall(r'<section class="card" id="labels">.*?</section>', page, re.DOTALL)
    links = [unescape(link) for link in re.findall(r'href="([^"]+)"', section)]
    assert [found(client, link) for link in links] == [["1", "2"], ["2"]]
