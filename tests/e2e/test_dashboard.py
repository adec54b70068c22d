"""Can the lead run a project from the dashboard alone? One story in a real browser, on real parts; only the LLM is scripted.

Configure, start a round, watch it move, sort the table, open a task from the map, correct it in Label Studio's own interface,
see the retrained version pre-filled, download the Excel and read it back.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook
from playwright.sync_api import Browser, BrowserContext, Page, expect

from coral_backend.auth import secrets_for
from coral_backend.connect import connect
from coral_backend.demo.data import Corpus, shipped
from coral_backend.services.processes import Supervisor, free_port
from coral_backend.services.redis_server import RedisServer
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import RoundStatus
from coral_backend.up import start_processes
from tests.browser_fixture import chromium_path, faults_of
from tests.label_studio_fixture import LabelStudioUnderTest
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, label

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROWS = 60
WORDS = "You sort the mail of a shop, and you never guess."


@dataclass
class Scene:
    """A connected project, everything around it, and a person before a browser."""

    studio: LabelStudioUnderTest
    llm: ScriptedOpenAI
    settings: Settings
    store: Store
    project_id: int
    corpus: Corpus
    supervisor: Supervisor
    context: BrowserContext
    page: Page

    def url(self, path: str = "") -> str:
        return f"{self.settings.public_url}/dashboard/projects/{self.project_id}{path}"

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 200.0) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := condition():
                return found
            self.page.wait_for_timeout(200)  # not time.sleep: the browser must go on
        rounds = [(r.name, str(r.status), str(r.stage), r.error) for r in self.store.rounds(self.project_id)]
        log = self.supervisor.log_file("worker").read_text()[-2000:]
        pytest.fail(f"{what}: not within {seconds:.0f} s; rounds {rounds}; worker's log: {log}")

    def wait_until_shown(self, status: str, name: str) -> None:
        """Wait, without touching the page, until it says that a round is over."""
        expect(self.page.locator("#live-title")).to_have_text(
            re.compile(rf"Round {re.escape(name)}\s+{status}"), timeout=200_000
        )


PACE = {"delay_s": 1.0}
"""How slowly the LLM answers: until somebody has seen the bar move, then fast."""


def answers(corpus: Corpus) -> Callable[[Call], Reply]:
    """Return an LLM that is wrong about every fifth text, and takes its time."""
    gold = {row.text.strip(): str(row.gold) for row in corpus.rows}
    order = {text: place for place, text in enumerate(gold)}

    def answer(call: Call) -> Reply:
        text = call.text.strip()
        right = gold[text]
        wrong = corpus.labels[(corpus.labels.index(right) + 1) % len(corpus.labels)]
        return label(wrong if order[text] % 5 == 0 else right, delay_s=PACE["delay_s"])

    return answer


@pytest.fixture(scope="module")
def scene(
    browser: Browser, label_studio: LabelStudioUnderTest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """Start the LLM, Redis, web and worker, connect a project, and log a person in at both places."""
    chromium_path()
    folder = tmp_path_factory.mktemp("coral-dashboard")
    corpus = shipped(rows=ROWS)
    project_id, _ = label_studio.new_project(label_config=corpus.label_config())
    label_studio.client.import_tasks(project_id, corpus.tasks())
    port = free_port()
    with ExitStack() as stack:
        llm = stack.enter_context(ScriptedOpenAI(answers(corpus)))
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("CORAL_", "OPENAI_"))},
            "MODEL_DIR": str(folder),
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.token,
            "CORAL_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "OPENAI_BASE_URL": llm.base_url,
            "OPENAI_API_KEY": "test-key",
            "CORAL_LLM_CONCURRENCY": "4",
            "CORAL_RETRAIN_AFTER": "1000",
            "CORAL_RETRAIN_SECONDS": "100000",
            "CORAL_RETRAIN_TIER": "features",
        }
        settings = Settings.load(env)
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.stop)
        supervisor = stack.enter_context(Supervisor(folder / "logs"))
        start_processes(supervisor, settings, "127.0.0.1", port, env=env, tell=lambda _: None)
        store = Store(settings.store_url)
        stack.callback(store.close)
        connect(store, settings, label_studio.client, project_id)
        context = browser.new_context(
            viewport={"width": 1280, "height": 860},
            accept_downloads=True,
            http_credentials={
                "username": settings.basic_auth_user,
                "password": secrets_for(settings).password,
                "origin": settings.public_url,
            },
        )
        stack.callback(context.close)
        page = context.new_page()
        yield Scene(label_studio, llm, settings, store, project_id, corpus, supervisor, context, page)


def test_1_configure(scene: Scene) -> None:
    page = scene.page
    page.goto(scene.url("/configuration"))
    page.get_by_label("Epochs after the warm-up, at most").fill("many")
    page.get_by_label("1. Task description").fill("There are {colours}.")
    page.get_by_label("Your name").fill("Ada <b>L.</b>")
    page.get_by_role("button", name="Save for the next round").click()
    expect(page.locator("#epochs-error")).to_contain_text("'many' is not allowed")
    expect(page.locator("#prompt_task-error")).to_contain_text("unknown placeholder {colours}")
    assert not scene.store.project(scene.project_id).options, "nothing is saved with an error in it"

    page.get_by_label("Epochs after the warm-up, at most").fill("1")
    page.get_by_label("1. Task description").fill(WORDS + "\nThe labels: {labels}.")
    page.get_by_label("delivery", exact=True).fill("where the goods are")
    page.get_by_role("button", name="Preview").click()
    preview = page.locator("#preview")
    expect(preview).to_contain_text(WORDS)
    expect(preview).to_contain_text(scene.corpus.rows[0].text[:40])
    assert not scene.store.project(scene.project_id).options, "a preview saves nothing"
    page.get_by_role("button", name="Save for the next round").click()
    expect(page.get_by_role("status")).to_contain_text("Saved as version")
    expect(page.locator("table")).to_contain_text("Ada <b>L.</b>")
    options = scene.store.project(scene.project_id).options
    assert options["epochs"] == 1
    assert json.loads(options["label_definitions"]) == {"delivery": "where the goods are"}


def test_2_two_people_start_a_round_and_watch_it_move(scene: Scene) -> None:
    page, other = scene.page, scene.context.new_page()
    for who in (page, other):
        who.goto(scene.url())
    page.get_by_role("button", name="First round").click()
    with other.expect_response(lambda answer: answer.request.method == "POST") as pressed:
        other.get_by_role("button", name="First round").click()
    assert pressed.value.status == 409
    expect(other.locator(".notice")).to_contain_text("already has round 1")
    other.close()
    assert len(scene.store.rounds(scene.project_id)) == 1

    bar = page.locator('[data-stage="annotate"] progress')
    seen: set[str] = set()

    def moved() -> bool:
        seen.add(str(bar.evaluate("e => e.value / e.max")))
        return len(seen - {"0", "1"}) >= 2

    page.evaluate("window.same = true")
    scene.wait("the bar of the LLM", moved, seconds=60)
    PACE["delay_s"] = 0.02
    assert page.evaluate("window.same"), "the bar moved without loading the page anew"
    expect(page.locator('[data-stage="annotate"] .detail')).to_contain_text("openai:")
    scene.wait_until_shown("done", "1")
    [done] = scene.store.rounds(scene.project_id)
    assert done.status is RoundStatus.DONE
    assert any(WORDS in call.messages[0]["content"] for call in scene.llm.history), "the configured words were sent"


def test_3_sort_and_filter_the_table(scene: Scene) -> None:
    page = scene.page
    page.goto(scene.url("/samples"))
    page.get_by_role("link", name="Confidence").click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Confidence")
    shown = [float(cell) for cell in page.locator("td[data-label=Confidence]").all_inner_texts()]
    assert shown == sorted(shown)
    assert len(shown) == 50
    page.get_by_role("link", name="Confidence").click()
    shown = [float(cell) for cell in page.locator("td[data-label=Confidence]").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    page.locator(".quick").get_by_role("link", name="clean", exact=False).first.click()
    assert set(page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.className)")) == {"clean"}
    word = max(re.findall(r"[a-z]+", page.locator("td.text").first.inner_text()), key=len)
    page.get_by_label("Text contains").fill(word.upper())
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("#total")).not_to_have_text(str(ROWS))
    texts = page.locator("td.text").all_inner_texts()
    assert texts
    assert all(word in text.lower() for text in texts)


def test_4_a_lasso_opens_the_set(scene: Scene) -> None:
    page = scene.page
    page.goto(scene.url("/map"))
    expect(page.locator("#map-facts")).to_contain_text(f"{ROWS} tasks")
    page.get_by_label("Lasso").check()
    box = page.locator("#points").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    for x, y in ((0.5, 0.01), (0.5, 0.99), (0.01, 0.99), (0.005, 0.02)):
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y, steps=4)
    page.mouse.up()
    link = page.locator("#open-set")
    count = int(re.sub(r"\D", "", link.inner_text()))
    assert 0 < count < ROWS
    link.click()
    expect(page.locator("#total")).to_have_text(str(count))


@pytest.fixture(scope="module")
def corrected(scene: Scene) -> dict[str, Any]:
    """What the next tests hand on."""
    return {}


def test_5_open_a_task_from_the_map_and_correct_it_in_label_studio(scene: Scene, corrected: dict[str, Any]) -> None:
    login = scene.context.new_page()
    login.goto(f"{scene.studio.url}/user/login/")
    login.fill("input[name=email]", scene.studio.server.email)
    login.fill("input[name=password]", scene.studio.server.password)
    login.click("button[type=submit]")
    login.wait_for_url(lambda url: "/user/login" not in url, wait_until="domcontentloaded")
    login.close()

    page = scene.page
    page.goto(scene.url("/map"))
    expect(page.locator("#map-facts")).to_contain_text(f"{ROWS} tasks")
    points = page.locator("#points")
    points.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_contain_text("rank 1")
    task_id = int(points.get_attribute("data-task") or 0)
    x, y = map(float, (points.get_attribute("data-at") or "").split(","))
    box = points.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x, box["y"] + y)
    text = scene.store.samples(scene.project_id, [task_id])[0].text
    expect(page.locator("#tip")).to_contain_text(text[:60])
    with scene.context.expect_page() as opened:
        page.mouse.click(box["x"] + x, box["y"] + y)
    studio = opened.value
    assert studio.url.endswith(f"/projects/{scene.project_id}/data?task={task_id}")
    studio.wait_for_selector("[data-testid=bottombar-submit-button]", timeout=60_000)
    verdicts = {v.task_id: v for v in scene.store.verdicts(scene.project_id, 1)}
    before = str(verdicts[task_id].prediction_label)
    assert studio.locator(f".lsf-choice__checkbox input[name={before}]").is_checked(), "the prediction is pre-filled"
    right = next(str(row.gold) for row in scene.corpus.rows if row.text.strip() == text)
    other = right if right != before else next(name for name in scene.corpus.labels if name != before)
    studio.locator(".lsf-choice__checkbox", has_text=other).click()
    with studio.expect_response(lambda r: r.request.method == "POST" and "/annotations" in r.url) as sent:
        studio.locator("[data-testid=bottombar-submit-button]").click()
    assert sent.value.status == 201
    studio.close()
    corrected |= {"task_id": task_id, "label": other}
    scene.wait("the webhook", lambda: task_id in scene.store.human_labels(scene.project_id), seconds=30)
    page.goto(scene.url("/samples?human=yes"))
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("td[data-label=Human]")).to_have_text(other)
    expect(page.locator("td[data-label=Verdict]")).to_contain_text("human")


def test_6_the_retrained_version_is_pre_filled(scene: Scene, corrected: dict[str, Any]) -> None:
    page = scene.page
    page.goto(scene.url())
    page.get_by_role("button", name="Retrain").click()
    scene.wait_until_shown("done", "1.1")
    newest = scene.store.rounds(scene.project_id)[0]
    assert newest.metrics["tier"] == "features-only"
    expect(page.locator("main")).to_contain_text("Only what takes seconds was learned anew")
    verdict = next(v for v in scene.store.verdicts(scene.project_id, newest.id) if v.task_id != corrected["task_id"])
    studio = scene.context.new_page()
    studio.goto(f"{scene.studio.url}/projects/{scene.project_id}/data?task={verdict.task_id}")
    studio.wait_for_selector("[data-testid=bottombar-submit-button]", timeout=60_000)
    assert studio.locator(f".lsf-choice__checkbox input[name={verdict.prediction_label}]").is_checked()
    versions = studio.locator(".lsf-annotation-button__name").all_inner_texts()
    # Label Studio shows "coral-r1...ff3144": the name is the round's, the end its digest.
    assert any(name.endswith(str(newest.model_version)[-6:]) for name in versions), versions
    studio.close()
    page.goto(scene.url("/quality"))
    expect(page.locator(".chart canvas")).to_have_count(3)
    expect(page.locator("table", has=page.get_by_role("columnheader", name="Process"))).to_contain_text("1.1")


def test_7_download_the_excel_and_read_it_back(scene: Scene, corrected: dict[str, Any], tmp_path: Path) -> None:
    page = scene.page
    page.goto(scene.url())
    page.get_by_label("Download labels").select_option("xlsx")
    with page.expect_download() as started:
        page.get_by_role("button", name="Download").click()
    path = tmp_path / started.value.suggested_filename
    started.value.save_as(path)
    assert path.name.endswith(".xlsx")
    book = load_workbook(path, read_only=True)
    head, *rows = list(book.worksheets[0].iter_rows(values_only=True))
    book.close()
    found = [dict(zip(head, row, strict=True)) for row in rows]
    assert len(found) == ROWS
    mine = next(row for row in found if row["task_id"] == corrected["task_id"])
    assert (mine["human_label"], mine["label"], mine["source"]) == (corrected["label"], corrected["label"], "human")


PATHS = ("", "/samples", "/samples?flag=noisy", "/map", "/quality", "/rounds/1", "/configuration", "/rounds/99")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_8_every_page_can_be_read_and_reached(scene: Scene, width: int, scheme: str) -> None:
    page = scene.page
    page.set_viewport_size({"width": width, "height": 860})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None)
    for path in PATHS:
        page.goto(scene.url(path))
        page.wait_for_timeout(150)
        assert not faults_of(page), path
    assert not complaints


def test_9_the_keyboard_reaches_everything(scene: Scene) -> None:
    page = scene.page
    page.set_viewport_size({"width": 1280, "height": 860})
    page.goto(scene.url("/map"))
    wanted = set(
        page.evaluate("""() => [...document.querySelectorAll("a[href], button, select, input, canvas[tabindex]")]
        .filter((e) => e.offsetParent !== null && !(e.type === "radio" && !e.checked)).map((e, i) => (e.dataset.k = i, String(i)))""")
    )
    reached: set[str] = set()
    for _ in range(len(wanted) + 6):
        page.keyboard.press("Tab")
        reached.add(str(page.evaluate("document.activeElement.dataset.k")))
        if page.evaluate("document.activeElement.matches(':focus-visible')"):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert wanted <= reached
