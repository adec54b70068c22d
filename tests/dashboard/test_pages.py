"""Do the pages show what the store holds, refuse what they should, and answer bad input with a page that says why?"""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from benchmarks.dashboard import HOSTILE, fill
from coral_backend.app import create_app
from coral_backend.dashboard import safety
from coral_backend.launch import begin_round
from coral_backend.rounds import round_lease
from coral_backend.settings import Settings
from coral_backend.store import Store, checks, figures, option_versions
from coral_backend.types import HumanLabel, RoundStatus, Sample
from tests.web_parts import basic, settings_in

TASKS = 300
PROJECT = "/dashboard/projects/1"
PAGES = ("", "/samples", "/map", "/quality", "/rounds/1", "/rounds/1.1", "/configuration")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("filled"), label_studio_url="http://studio.test:8080")
    fill(settings, TASKS, people=40)
    return settings


@pytest.fixture
def settings(filled: Settings, tmp_path: Path) -> Settings:
    """Return settings of a copy of the filled store: a test may change it."""
    import shutil

    shutil.copytree(filled.model_dir, tmp_path / "coral")
    return filled.model_copy(update={"model_dir": tmp_path / "coral"})


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.store_url)
    yield store
    store.close()


@pytest.fixture
def app(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Flask:
    # No Redis in these tests; tests/e2e has one.
    monkeypatch.setattr("coral_backend.dashboard.actions._woken", lambda _settings, _round: True)
    return create_app(settings, store)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def get(client: FlaskClient, path: str, **query: Any) -> TestResponse:
    return client.get(PROJECT + path + (f"?{urlencode(query)}" if query else ""), headers=basic())


def token(client: FlaskClient) -> str:
    found = re.search(r'name="form_token" value="([^"]+)"', get(client, "").text)
    assert found is not None
    return found[1]


def press(client: FlaskClient, action: str, **more: str) -> TestResponse:
    return client.post(
        f"{PROJECT}/rounds", data={"form_token": token(client), "action": action}, headers={**basic(), **more}
    )


# --- who may come in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/dashboard/", PROJECT, f"{PROJECT}/map.bin", "/dashboard/static/map.js", "/dashboard/no"]
)
def test_nothing_is_shown_without_the_password(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 401
    assert "Basic" in answer.headers["WWW-Authenticate"], "a browser asks for the password"
    assert "Customer" not in answer.text


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_no_code_but_ours(client: FlaskClient, page: str) -> None:
    answer = get(client, page)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.findall(r"<script(?![^>]*src=)|<style|<[a-z][^<>]*\s(?:on\w+|style)=", answer.text)
    for address in re.findall(r'(?:src|href)="(https?:[^"]+)"', answer.text):
        assert address.startswith("http://studio.test:8080/"), "nothing is loaded from elsewhere"


@pytest.mark.parametrize("given", [{}, {"form_token": ""}, {"form_token": "1.abc"}, {"form_token": "ä.ö"}])
def test_a_form_without_our_token_changes_nothing(client: FlaskClient, store: Store, given: dict[str, str]) -> None:
    before = len(store.rounds(1))
    answer = client.post(f"{PROJECT}/rounds", data={**given, "action": "next"}, headers=basic())
    assert answer.status_code == 403
    assert "Load the page again" in answer.text
    assert len(store.rounds(1)) == before


@pytest.mark.parametrize(
    "header", [{"Origin": "http://evil.test"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}]
)
def test_a_form_of_another_site_changes_nothing(client: FlaskClient, store: Store, header: dict[str, str]) -> None:
    before = len(store.rounds(1))
    assert press(client, "next", **header).status_code == 403
    assert len(store.rounds(1)) == before


def test_a_token_lasts_half_a_day(app: Flask) -> None:
    now = time.time()
    with app.test_request_context(method="POST", data={"form_token": ""}):
        fresh = safety.form_token(now)
    for age, good in ((safety.TOKEN_SECONDS - 5, True), (safety.TOKEN_SECONDS + 5, False), (-60, False)):
        with app.test_request_context(method="POST", data={"form_token": fresh}):
            if good:
                safety.check_form(now + age)
            else:
                with pytest.raises(safety.StaleFormError):
                    safety.check_form(now + age)


# --- buttons -----------------------------------------------------------------------------------------------------------


def test_two_people_press_next_round_and_one_round_begins(client: FlaskClient, store: Store) -> None:
    first, second = press(client, "next"), press(client, "next")
    assert (first.status_code, second.status_code) == (303, 409)
    assert "already has round 2" in second.text
    again = client.get(f"{PROJECT}/rounds", headers=basic())
    assert (again.status_code, again.location) == (302, PROJECT), "loading the answer anew presses nothing"
    assert [r.name for r in store.rounds(1)] == ["2", "1.1", "1"]


def test_a_round_is_paused_resumed_and_cancelled(client: FlaskClient, store: Store) -> None:
    assert press(client, "retrain").status_code == 303
    active = store.active_round(1)
    assert active is not None
    assert active.name == "1.2"
    for action, status in (
        ("pause", RoundStatus.PAUSED),
        ("resume", RoundStatus.PENDING),
        ("cancel", RoundStatus.CANCELLED),
    ):
        answer = press(client, action)
        assert answer.status_code == 303
        assert store.round(active.id).status is status
    assert "cancelled" in client.get(str(answer.location), headers=basic()).text


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_a_button_that_came_too_late_says_so(client: FlaskClient, action: str) -> None:
    answer = press(client, action)
    assert answer.status_code == 409
    assert "No round is under way" in answer.text


def priced(settings: Settings, **more: object) -> Settings:
    """Return settings with an endpoint that nobody listens at, and whose price nobody knows."""
    given = {"annotator": "openai", "openai_base_url": "http://127.0.0.1:9/v1", "llm_model": "unheard-of", **more}
    return settings.model_copy(update=given)


@pytest.mark.parametrize("action", ["next", "retrain"])
def test_a_budget_that_cannot_be_kept_is_refused_by_the_button(settings: Settings, store: Store, action: str) -> None:
    answer = press(create_app(priced(settings, budget=1.0), store).test_client(), action)
    assert answer.status_code == 409
    assert "price of &#39;unheard-of&#39;" in answer.text
    assert store.active_round(1) is None


def test_a_retraining_is_not_refused_for_want_of_a_batch_api(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coral_backend.dashboard.actions._woken", lambda _settings, _round: True)
    client = create_app(priced(settings, batch=True), store).test_client()
    assert press(client, "next").status_code == 503, "nobody listens"
    assert press(client, "retrain").status_code == 303


def test_a_budget_raised_in_the_form_is_the_resumed_rounds(
    client: FlaskClient, settings: Settings, store: Store
) -> None:
    begun = begin_round(store, settings, 1, {"budget": 1.0, "batch": False})
    for budget, expected in (("", 1.0), ("7", 7.0), ("7", 7.0), ("", None)):
        store.set_round_status(begun.id, RoundStatus.PAUSED, "The budget is spent.")
        project = store.project(1)
        options = {k: v for k, v in project.options.items() if k != "budget"} | ({"budget": 7.0} if budget else {})
        option_versions.put(store, 1, options, who="Ada")
        assert press(client, "resume").status_code == 303
        assert store.round(begun.id).settings["budget"] == expected


@pytest.mark.parametrize("seen", ["\u00b2", "9" * 5000, "-1"])
def test_a_version_that_is_no_number_is_no_fault_of_ours(client: FlaskClient, seen: str) -> None:
    answer = client.post(
        f"{PROJECT}/configuration", data={"form_token": token(client), "who": "Ada", "seen": seen}, headers=basic()
    )
    assert answer.status_code in (303, 409), answer.status_code


def test_an_unknown_button_is_refused(client: FlaskClient) -> None:
    answer = press(client, "explode")
    assert answer.status_code == 400
    assert "next, retrain, pause, resume, cancel" in answer.text


def test_the_queue_may_be_away(client: FlaskClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coral_backend.dashboard.actions._woken", lambda _settings, _round: False)
    answer = press(client, "next")
    assert store.active_round(1) is not None
    assert "the queue does not answer" in client.get(str(answer.location), headers=basic()).text


# --- progress ----------------------------------------------------------------------------------------------------------


def test_progress_tells_stages_and_silence(client: FlaskClient, store: Store) -> None:
    begun = store.create_round(1, {})
    lease = store.take_lease("round")
    assert lease is not None
    entry = {"annotate": {"done": 30, "total": 120, "annotator": "openai:x"}}
    from coral_backend.types import Stage

    store.update_round(begun.id, lease, stage=Stage.ANNOTATE, progress=entry)
    told = get(client, "/progress.json").json
    assert told is not None
    stages = {stage["name"]: stage for stage in told["stages"]}
    assert [stage["state"] for stage in told["stages"]] == ["over", "now", "later", "later", "later"]
    assert (stages["annotate"]["done"], stages["annotate"]["total"]) == (30, 120)
    assert stages["annotate"]["detail"] == "openai:x"
    assert (stages["sync"]["count"], stages["annotate"]["count"]) == ("done", "30 / 120")
    assert told["silent"] is None
    from coral_backend.dashboard.progress import live

    assert live(store, 1, now=time.time() + 100)["silent"] >= 99


def test_the_loss_of_an_epoch_is_told(store: Store) -> None:
    from dataclasses import replace

    from coral_backend.dashboard.progress import stages
    from coral_backend.types import Stage

    now = {"distil": {"done": 5, "total": 10, "epoch": 2, "loss": 0.41234, "stage": "training"}}
    current = replace(store.rounds(1)[0], status=RoundStatus.RUNNING, stage=Stage.DISTIL, progress=now)
    assert stages(current)[2]["detail"] == "training, epoch 2, loss 0.412"
    assert stages(current)[2]["count"] == "50%", "the training counts texts that it passes, not tasks"


# --- samples -----------------------------------------------------------------------------------------------------------


def rows(page: str) -> list[str]:
    return re.findall(r'<tr class="([^"]*)">', page)


def test_rows_have_the_colour_and_the_sign_of_their_flag(client: FlaskClient) -> None:
    for flag, sign in (("clean", "✓"), ("noisy", "!"), ("inconsistent", "≠")):
        page = get(client, "/samples", flag=flag).text
        assert set(rows(page)) == {flag}
        body = page.partition("<tbody>")[2]
        assert body.count(f'aria-hidden="true">{sign}</span> {flag}') == len(rows(page))


def test_hostile_texts_are_shown_as_texts(client: FlaskClient) -> None:
    page = get(client, "/samples", sort="task_id").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "{{ 7 * 7 }}" in page
    assert "<bdi>\u202ethis runs" in page, "its direction ends with its cell"
    assert "before after" in page, "NUL is a blank since the import"
    assert "👍🏽" in page
    told = get(client, "/samples/1.json").json
    assert told is not None
    assert told["text"] == HOSTILE[0]


def test_a_text_of_five_megabytes_costs_an_excerpt(client: FlaskClient, store: Store) -> None:
    store.put_samples(1, [Sample(9001, "<b>" + "long " * 1_000_000)])
    answer = get(client, "/samples", sort="task_id", dir="desc")
    assert len(answer.data) < 100_000
    assert "(5,000,003 characters)" in answer.text
    told = get(client, "/samples/9001.json")
    assert len(told.data) < 3_000


def test_a_title_with_markup_is_a_text(client: FlaskClient, store: Store) -> None:
    from dataclasses import replace

    store.save_project(replace(store.project(1), title='<img src=x onerror="alert(1)">'))
    for page in PAGES:
        assert "<img" not in get(client, page).text


def test_links_open_the_task_in_label_studio(client: FlaskClient, app: Flask) -> None:
    page = get(client, "/samples", sort="task_id").text
    assert 'href="http://studio.test:8080/projects/1/data?task=1"' in page
    shared = app.extensions[safety.EXTENSION]
    public = shared.settings.model_copy(update={"label_studio_public_url": "https://labels.example/ls/"})
    app.extensions[safety.EXTENSION] = safety.Shared(public, shared.store, shared.key)
    assert 'href="https://labels.example/ls/projects/1/data?task=1"' in get(client, "/samples", sort="task_id").text
    odd = shared.settings.model_copy(update={"label_studio_public_url": "javascript:alert(1)"})
    app.extensions[safety.EXTENSION] = safety.Shared(odd, shared.store, shared.key)
    assert "javascript:" not in get(client, "/samples").text


BAD = [
    ({"flag": "purple"}, "flag is 'purple'. Allowed: clean, noisy, inconsistent, none."),
    ({"sort": "text; DROP TABLE samples"}, "Allowed: rank, task_id"),
    ({"dir": "up"}, "Allowed: asc, desc"),
    ({"page": "0"}, "the first is 1"),
    ({"page": "-1"}, "must be a whole number"),
    ({"page": "9" * 40}, "must be a whole number"),
    ({"page": "99"}, "Page 99 does not exist"),
    ({"size": "1000000"}, "Allowed: 25, 50, 100, 200"),
    ({"at_least": "nan"}, "a number from 0 to 1"),
    ({"at_most": "7"}, "a number from 0 to 1"),
    ({"contains": "x" * 201}, "at most 200"),
    ({"llm": "x" * 1001}, "is no label"),
    ({"area": "1,2,3"}, "3 to 120 corners"),
    ({"area": "1,2,3,4,5,x"}, "whole numbers from 0 to 65535"),
    ({"area": "1,2,3,4,5,6", "area_round": "88"}, "has no round"),
    ({"round": "1.9"}, "Its rounds: 1.1, 1"),
    ({"round": "<script>"}, "has no round"),
]


@pytest.mark.parametrize(("query", "said"), BAD)
def test_a_wrong_filter_is_answered(client: FlaskClient, query: dict[str, str], said: str) -> None:
    answer = get(client, "/samples", **query)
    assert answer.status_code in (400, 404)
    assert said in answer.text.replace("&#39;", "'")
    assert "<script>" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/dashboard/projects/77", "/dashboard/projects/77/samples", "/dashboard/projects/77/map", f"{PROJECT}/rounds/9",
     f"{PROJECT}/samples/123456.json", f"{PROJECT}/configuration?version=4", "/dashboard/nowhere", "/dashboard/projects/x"],
)  # fmt: skip
def test_what_is_not_there_is_a_404_with_a_way_back(client: FlaskClient, path: str) -> None:
    answer = client.get(path, headers=basic())
    assert answer.status_code == 404
    if not path.endswith(".json"):
        assert 'href="/dashboard/"' in answer.text


def test_unknown_parameters_are_ignored(client: FlaskClient) -> None:
    assert get(client, "/samples", project_id=5, _external=1, colour="red").status_code == 200


def test_pages_follow_one_another_without_a_gap(client: FlaskClient) -> None:
    seen: list[str] = []
    for number in (1, 2, 3):
        page = get(client, "/samples", size=100, page=number, sort="confidence").text
        seen += re.findall(r"Open task (\d+) in", page)
    assert len(seen) == len(set(seen)) == TASKS


# --- the map, the charts -----------------------------------------------------------------------------------------------


def test_a_set_drawn_on_the_map_is_the_same_in_the_table(client: FlaskClient) -> None:
    def total(*, left: int, right: int) -> int:
        area = f"{left},0,{right},0,{right},65535,{left},65535"
        found = re.search(r'id="total">(\d+)', get(client, "/samples", area=area, area_round="1.1").text)
        assert found is not None
        return int(found[1])

    half, other = total(left=0, right=32767), total(left=32767, right=65535)
    assert 0 < half < TASKS
    # The even-odd rule leaves out what lies on the very edge: the rightmost point.
    assert TASKS - 1 <= half + other <= TASKS


def test_the_points_are_those_of_the_round(client: FlaskClient) -> None:
    import numpy as np

    answer = get(client, "/map.bin")
    n = int(np.frombuffer(answer.data[:4], dtype="<u4")[0])
    assert n == TASKS
    assert len(answer.data) == 4 + n * (4 + 2 + 2 + 4)
    ids = np.frombuffer(answer.data[4 : 4 + 4 * n], dtype="<u4")
    assert sorted(ids.tolist()) == list(range(1, TASKS + 1))
    assert 0 < float(answer.headers["X-Map"]) <= 1


def test_a_map_whose_arrays_are_gone_says_so(client: FlaskClient, settings: Settings) -> None:
    for file in settings.model_dir.glob("projects/1/*/*.safetensors"):
        file.unlink()
    answer = get(client, "/map.bin")
    assert answer.status_code == 409
    assert "arrays are not here" in answer.text


def test_slices_stand_on_the_quality_page_with_their_routing(client: FlaskClient, store: Store) -> None:
    assert 'id="slices"' not in get(client, "/quality").text, "nobody asked for slices"
    assert "#slices" not in get(client, "").text
    shop = HOSTILE[0]
    store.put_samples(1, [replace(one, slice=shop if one.task_id % 2 else "en") for one in store.samples(1)])
    serving = store.round(store.project(1).active_round or 0)
    verdicts = store.verdicts(1, serving.id)
    begun = store.create_round(1, {}, retrain=True)
    lease = store.take_lease(round_lease(begun.id))
    assert lease is not None
    decided = {"name": shop, "tasks": 150, "checked": 30, "llm_right": 12, "slm_right": 21, "sureness": 0.98}
    store.put_verdicts(1, begun.id, verdicts, lease)
    store.finish_round(begun.id, lease, "v2", {**serving.metrics, "slices": [{**decided, "slm_first": True}]})
    looked_at = [i for i in store.human_labels(1) if i % 2][:10]
    checks.draw(store, 1, dict.fromkeys([*looked_at, next(i for i in range(1, 99, 2) if i not in looked_at)], shop))
    page = get(client, "/quality").text
    assert shop not in page, "a name from task data is text"
    [table] = re.findall(r'<section class="card wide" id="slices">.*?</section>', page, re.DOTALL)
    lines = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)]
    assert [line.endswith("as usual –") for line in lines[1:]] == [False, True]
    assert "SLM-first 98" in lines[1]
    assert re.search(r" [\d.]+ % \([\d.]+ % to [\d.]+ %\) of 1[01] random tasks, 11 drawn$", lines[1]), lines[1]
    overview = get(client, "").text
    assert "labelled SLM-first" in overview
    assert f'href="{PROJECT}/quality#slices"' in overview


def test_before_the_first_round_every_page_says_what_to_do(tmp_path: Path) -> None:
    from tests.web_parts import store_in

    settings = settings_in(tmp_path)
    store = store_in(settings)
    store.put_samples(1, [Sample(1, "one"), Sample(2, "", "'text' is empty")])
    client = create_app(settings, store).test_client()
    for page in ("", "/samples", "/map", "/quality", "/configuration"):
        assert get(client, page).status_code == 200
    assert "First round" in get(client, "").text
    assert "needs a finished round" in get(client, "/map").text
    assert "&#39;text&#39; is empty" in get(client, "/samples").text
    assert get(client, "/map.bin").status_code == 409
    store.close()


def test_no_project_says_how_to_connect_one(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    answer = create_app(settings).test_client().get("/dashboard/", headers=basic())
    assert "coral connect --project" in answer.text


def test_agreement_is_with_people_as_they_stand_now(client: FlaskClient, store: Store) -> None:
    [before] = {found.n for found in figures.agreement(store, 1).values()}
    unseen = next(i for i in range(1, TASKS + 1) if i not in store.human_labels(1))
    verdict = store.verdicts(1, store.rounds(1)[0].id, [unseen])[0]
    store.put_annotations(1, [HumanLabel(5000, unseen, verdict.slm_label, 1, "2026-11-21T11:00:00Z")])
    assert {found.n for found in figures.agreement(store, 1).values()} == {before + 1}
    store.retire_annotations(1, [5000])
    assert {found.n for found in figures.agreement(store, 1).values()} == {before}
    assert 'data-kind="reliability"' in get(client, "/quality").text


# --- download ----------------------------------------------------------------------------------------------------------


def test_the_download_is_the_export(client: FlaskClient) -> None:
    with get(client, "/download", format="csv") as answer:
        assert "attachment" in answer.headers["Content-Disposition"]
        lines = list(csv.DictReader(io.StringIO(answer.get_data(as_text=True))))
    assert len(lines) == TASKS
    with get(client, "/download", format="csv", clean_only=1) as answer:
        clean = list(csv.DictReader(io.StringIO(answer.get_data(as_text=True))))
    assert {line["flag"] for line in clean if not line["human_label"]} == {"clean"}


def test_an_unknown_format_is_refused(client: FlaskClient) -> None:
    answer = get(client, "/download", format="exe")
    assert answer.status_code == 400
    assert "Allowed: xlsx, csv" in answer.text
