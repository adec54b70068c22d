"""Does a round ask through a Batch API without losing an answer, paying one twice, or holding a worker?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from coral_backend import batch_clerk, cli, jobs, ticker
from coral_backend.exceptions import BudgetError, EndpointError, SettingsError, UnavailableError
from coral_backend.labels import read_controls
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.launch import begin_round, change_round, check
from coral_backend.llm.batch import BatchAPI, Line
from coral_backend.rounds import RoundRunner, waits_until
from coral_backend.settings import Settings
from coral_backend.status import status_of
from coral_backend.store import Store
from coral_backend.sync import refresh_project
from coral_backend.types import Round, RoundStatus, Stage
from tests.scripted_batch import ScriptedBatch
from tests.scripted_openai import Reply, html, status
from tests.stand_ins import CONFIG, FakeLabelStudio, quick_distil

TEXTS = [f"{word} film, number {number}" for number in range(6) for word in ("good", "bad")]
PRICES = """
endpoints:
  "*": {batch: 0.5, models: {scripted: {input: 100, output: 1000}}}
"""
LIVE_COST = (40 * 100 + 5 * 1000) / 1e6
"""Of one request of the scripted server: 40 prompt and 5 completion tokens."""


class World:
    """A store, a Label Studio in memory, a Batch API on loopback, and the runner between them."""

    def __init__(self, folder: Path, server: ScriptedBatch, **more: Any) -> None:
        (folder / "prices.yaml").write_text(PRICES, encoding="utf-8")
        given = {"annotator": "openai", "openai_base_url": server.base_url, "llm_model": "scripted", "batch": True}
        given |= {"model_dir": folder, "n_demos": 0, "batch_poll_s": 0.01, "prices": folder / "prices.yaml"}
        self.settings = Settings.load({}, **{**given, **more})
        self.store = Store(self.settings.store_url)
        self.studio = FakeLabelStudio({i + 1: {"text": text} for i, text in enumerate(TEXTS)})
        self.server = server
        refresh_project(self.store, self.client, 1)

    @property
    def client(self) -> LabelStudioClient:
        return cast("LabelStudioClient", self.studio)

    @property
    def runner(self) -> RoundRunner:
        return RoundRunner(self.store, self.settings, lambda: self.client)

    def begin(self, **options: Any) -> Round:
        return begin_round(self.store, self.settings, 1, options)

    def steps(self, round_id: int, count: int) -> Round:
        for _ in range(count):
            self.runner.advance(round_id)
        return self.store.round(round_id)

    def handed_in(self, **options: Any) -> Round:
        """Return a round whose first batch waits at the endpoint."""
        return self.steps(self.begin(**options).id, 2)

    def labels(self) -> dict[int, str | None]:
        return {task_id: answer.label for task_id, answer in self.store.llm_labels(1).items()}

    def cost(self, round_id: int) -> float:
        return sum(one.cost for one in self.store.ledger.spending(1)[round_id])


@pytest.fixture
def server() -> Iterator[ScriptedBatch]:
    with ScriptedBatch() as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, server: ScriptedBatch, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("coral_backend.slm.engine.distil", quick_distil)
    monkeypatch.setattr(batch_clerk, "FEW", 1)
    made = World(tmp_path, server)
    yield made
    made.store.close()


RIGHT = {i + 1: text.split()[0] for i, text in enumerate(TEXTS)}


def test_a_round_is_asked_in_one_batch_at_half_the_price(world: World) -> None:
    waiting = world.handed_in()
    assert (waiting.status, waiting.stage) == (RoundStatus.RUNNING, Stage.ANNOTATE)
    assert len(world.server.live) == 3, "what the endpoint accepts is found out live"
    assert [line["body"]["max_tokens"] for line in world.server.requests()] == [64] * 9
    assert not world.store.lease_is_held(f"round-{waiting.id}"), "nobody is held while it waits"
    world.server.finish()
    done = world.runner.run(waiting.id)
    assert done.status is RoundStatus.DONE
    assert world.labels() == RIGHT
    assert len(world.server.batches) == 1
    assert len(world.server.live) == 3
    spent = {one.batch: one for one in world.store.ledger.spending(1)[done.id]}
    assert (spent[False].requests, spent[True].requests) == (3, 9)
    assert spent[False].cost == pytest.approx(3 * LIVE_COST)
    assert spent[True].cost == pytest.approx(9 * LIVE_COST / 2)
    assert spent[True].prompt_tokens == 9 * 40
    assert spent[True].characters == pytest.approx(3 * spent[False].characters, rel=0.02)


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_lines_without_end_are_passed_over(world: World, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("coral_backend.llm.batch.LONGEST_LINE", 100_000)
    waiting = world.handed_in()
    world.server.finish()
    output = world.server.batches[0]["output_file_id"]
    first, *others = world.server.files[output].splitlines(keepends=True)
    long = b"x" * size
    world.server.files[output] = long + b"\n" + first + long + b"\n" + b"".join(others) + long
    assert world.runner.run(waiting.id).status is RoundStatus.DONE
    assert world.labels() == RIGHT
    assert len(world.server.live) == 3, "all that was answered was found"


def test_the_ticker_asks_for_the_next_look_and_no_job_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.settings = world.settings.model_copy(update={"batch_poll_s": 60.0})
    waiting = world.handed_in()
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("coral_backend.queue.connect", lambda _: None)
    monkeypatch.setattr("coral_backend.queue.enqueue", lambda *words, **_: asked.append(words[1:3]))
    now = time.time()
    assert 55 < waits_until(waiting) - now <= 60
    assert ticker.tick(world.settings, world.store, now=now + 50) == []
    assert ticker.tick(world.settings, world.store, now=now + 61) == [f"advance {waiting.id}"]
    monkeypatch.setattr("coral_backend.jobs.Settings.load", lambda: world.settings)
    monkeypatch.setattr("coral_backend.jobs.client_for", lambda _: world.client)
    monkeypatch.setattr("coral_backend.jobs.os.nice", lambda _: 0)
    asked.clear()
    assert jobs.advance(waiting.id) == "running"
    assert asked == [], "a job that only looked asks for no other"


def test_what_a_batch_cannot_do_is_asked_live_once(world: World) -> None:
    world.studio.tasks |= {
        21: {"text": "none of them, good"},
        22: {"text": "a bad server"},
        23: {"text": "good, dropped"},
    }
    world.studio.tasks |= {24: {"text": ""}, 25: {"text": "none of them, good"}}
    world.server.fail = lambda text: "server" in text
    world.server.drop = lambda text: "dropped" in text
    waiting = world.handed_in()
    world.server.finish()
    live = len(world.server.live)
    done = world.runner.run(waiting.id)
    assert done.status is RoundStatus.DONE
    assert world.labels() == RIGHT | {21: "good", 22: "bad", 23: "good", 24: None, 25: "good"}
    asked = [call.text for call in world.server.live[live:]]
    assert sorted(asked) == ["a bad server", "good, dropped", "none of them, good"]
    assert [call.is_repair for call in world.server.live[live:]].count(True) == 1, "of the answer that was no label"
    assert len(world.server.batches) == 1
    billed = 3 + 3 + (len(world.server.requests()) - 2) / 2  # the failed and the dropped one were billed nothing
    assert world.cost(done.id) == pytest.approx(billed * LIVE_COST)


def test_what_an_expired_batch_did_is_kept_and_the_rest_goes_into_the_next(world: World) -> None:
    waiting = world.handed_in()
    world.server.finish(status="expired", share=0.4)
    world.steps(waiting.id, 2)
    assert len(world.store.llm_labels(1)) == 3 + 4
    assert len(world.server.requests()) == 5
    first = {line["custom_id"] for line in world.server.requests(0)[:4]}
    assert not first & {line["custom_id"] for line in world.server.requests(1)}
    world.server.finish()
    assert world.runner.run(waiting.id).status is RoundStatus.DONE
    assert world.labels() == RIGHT
    assert len(world.server.live) == 3, "what the endpoint accepts is known by now"


def test_a_batch_that_expired_with_nothing_pauses_the_round(world: World) -> None:
    waiting = world.handed_in()
    world.server.finish(status="expired", share=0.0)
    with pytest.raises(EndpointError, match=r"expired at the endpoint with 0 of 9 .*--live"):
        world.runner.advance(waiting.id)
    assert world.store.round(waiting.id).status is RoundStatus.PAUSED
    change_round(world.store, world.settings, world.store.round(waiting.id), {"batch": False})
    world.store.set_round_status(waiting.id, RoundStatus.PENDING)
    assert world.runner.run(waiting.id).status is RoundStatus.DONE
    assert len(world.server.batches) == 1
    assert len(world.server.live) == len(TEXTS)


def test_a_batch_that_fails_as_a_whole_pauses_with_the_endpoints_reason(world: World) -> None:
    waiting = world.handed_in()
    world.server.finish(status="failed", error=("invalid_json_line", "Line 3 is no JSON"))
    with pytest.raises(EndpointError, match=r"invalid_json_line Line 3 is no JSON.*--resume"):
        world.runner.advance(waiting.id)
    paused = world.store.round(waiting.id)
    assert paused.status is RoundStatus.PAUSED
    assert "Line 3" in str(paused.error)
    assert world.store.ledger.batches(waiting.id)[0].open is False


def test_a_reason_that_quotes_the_api_key_is_kept_without_it(world: World) -> None:
    key = "secret-key-of-nobody-0123456789"
    world.settings = world.settings.model_copy(update={"openai_api_key": SecretStr(key)})
    waiting = world.handed_in()
    world.server.finish(status="failed", error=("invalid_key", f"Who is {key}?"))
    with pytest.raises(EndpointError, match=r"Who is \[key\]\?"):
        world.runner.advance(waiting.id)
    [batch] = world.store.ledger.batches(waiting.id)
    assert key not in f"{batch.error} {world.store.round(waiting.id).error}"


@pytest.mark.parametrize("wrong", ["a" * 64, "b" * 300, "c"])
def test_a_reply_to_what_was_not_asked_is_not_kept(world: World, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    waiting = world.handed_in()
    real = BatchAPI.lines

    def more(api: BatchAPI, file_id: str) -> Iterator[Line]:
        for line in real(api, file_id):
            yield line
            yield replace(line, custom_id=wrong)

    monkeypatch.setattr(BatchAPI, "lines", more)
    world.server.finish()
    done = world.runner.run(waiting.id)
    assert (done.status, world.labels()) == (RoundStatus.DONE, RIGHT)
    assert world.store.replies.find([wrong]) == {}
    assert sum(one.requests for one in world.store.ledger.spending(1)[done.id]) == len(TEXTS)


def test_killed_after_the_batch_was_created_it_is_found_again_by_our_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BatchAPI.create

    def create_and_die(api: BatchAPI, file_id: str, key: str) -> Any:
        real(api, file_id, key)
        raise KeyboardInterrupt

    begun = world.begin()
    world.runner.advance(begun.id)
    with monkeypatch.context() as patch:
        patch.setattr(BatchAPI, "create", create_and_die)
        with pytest.raises(KeyboardInterrupt):
            world.runner.advance(begun.id)
    (row,) = world.store.ledger.batches(begun.id)
    assert (row.batch_id, row.status) == (None, "creating")
    world.server.finish()
    assert world.runner.run(begun.id).status is RoundStatus.DONE
    assert len(world.server.batches) == 1, "no second batch was paid"
    assert world.labels() == RIGHT


def test_killed_before_it_was_created_the_texts_are_handed_in_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> Any:
        raise KeyboardInterrupt

    begun = world.begin()
    world.runner.advance(begun.id)
    with monkeypatch.context() as patch:
        patch.setattr(BatchAPI, "upload", die)
        with pytest.raises(KeyboardInterrupt):
            world.runner.advance(begun.id)
    world.steps(begun.id, 1)
    assert [batch.status for batch in world.store.ledger.batches(begun.id)] == ["lost", "validating"]
    world.server.finish()
    assert world.runner.run(begun.id).status is RoundStatus.DONE
    assert len(world.server.batches) == 1


def test_killed_while_it_reads_the_replies_none_is_charged_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.studio.tasks[21] = {"text": "none of them"}
    waiting = world.handed_in()
    world.server.finish()
    real = type(world.store.replies).put

    def put_and_die(*words: Any) -> None:
        real(*words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(world.store.replies), "put", put_and_die)
        with pytest.raises(KeyboardInterrupt):
            world.runner.advance(waiting.id)
    done = world.runner.run(waiting.id)
    assert done.status is RoundStatus.DONE
    assert world.cost(done.id) == pytest.approx((3 + 10 / 2 + 1) * LIVE_COST)
    assert sum(one.requests for one in world.store.ledger.spending(1)[done.id]) == 3 + 10 + 1


def test_a_cancelled_round_cancels_its_batch_and_keeps_what_it_did(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = world.handed_in()
    world.steps(waiting.id, 1)
    world.store.set_round_status(waiting.id, RoundStatus.CANCELLED, "Cancelled by hand.")
    assert jobs.settle_round(world.store, world.settings, waiting.id) == 1
    assert world.server.batches[0]["status"] == "cancelling"
    assert ticker.tick(world.settings, world.store, now=0.0) == []
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("coral_backend.queue.connect", lambda _: None)
    monkeypatch.setattr("coral_backend.queue.enqueue", lambda *words, **_: asked.append(words[1:3]))
    assert ticker.tick(world.settings, world.store, now=time.time() + 1) == [f"settle {waiting.id}"]
    assert asked == [("llm", "settle")]
    world.server.finish(share=0.5)
    assert jobs.settle_round(world.store, world.settings, waiting.id) == 0
    assert world.cost(waiting.id) == pytest.approx((3 + 4 / 2) * LIVE_COST)
    world.runner.run(world.begin(batch=False).id)
    assert len(world.server.live) == len(TEXTS) - 4, "the next round does not pay again for what the cancelled one had"
    assert world.store.ledger.rounds_with_open_batches(1) == {}


def test_its_batches_are_cancelled_although_the_project_asks_another_annotator_by_now(world: World) -> None:
    waiting = world.handed_in()
    world.store.set_round_status(waiting.id, RoundStatus.CANCELLED, "Cancelled by hand.")
    world.store.save_project(replace(world.store.project(1), options={"annotator": "embedded"}))
    world.settings = world.settings.model_copy(update={"llm_model": "another"})
    assert jobs.settle_round(world.store, world.settings, waiting.id) == 1
    assert world.server.batches[0]["status"] == "cancelling"
    world.server.finish(share=0.5)
    assert jobs.settle_round(world.store, world.settings, waiting.id) == 0


def test_an_endpoint_without_a_batch_api_is_refused_before_the_round_begins(world: World) -> None:
    for reply in (status(404), html(), Reply(body=b"{}", headers={"Content-Type": "application/json"})):
        world.server.refuse["GET /batches"] = reply
        with pytest.raises(EndpointError, match=r"has no Batch API .*--live"):
            world.begin()
    assert world.store.active_round(1) is None
    with pytest.raises(SettingsError, match="--batch needs an OpenAI-compatible endpoint"):
        check(world.settings.model_copy(update={"annotator": "recorded", "recorded_key": "llm"}))
    assert world.begin(batch=False).settings["batch"] is False


def test_an_endpoint_that_is_away_for_a_while_costs_nothing(world: World) -> None:
    waiting = world.handed_in()
    world.server.finish()
    world.server.refuse["GET /batches/batch_1"] = status(503)
    with pytest.raises(UnavailableError, match="503"):
        world.runner.advance(waiting.id)
    assert world.store.round(waiting.id).status is RoundStatus.RUNNING
    del world.server.refuse["GET /batches/batch_1"]
    output = world.server.batches[0]["output_file_id"]
    world.server.refuse[f"GET /files/{output}/content"] = status(500)
    with pytest.raises(UnavailableError):
        world.runner.advance(waiting.id)
    assert world.store.ledger.batches(waiting.id)[0].open
    world.server.refuse.clear()
    assert world.runner.run(waiting.id).status is RoundStatus.DONE
    assert world.labels() == RIGHT


def test_files_are_kept_below_the_limit_and_all_are_collected(world: World) -> None:
    world.settings = world.settings.model_copy(update={"batch_requests": 4})
    world.server.instant = True
    done = world.runner.run(world.begin().id)
    assert done.status is RoundStatus.DONE
    assert world.labels() == RIGHT
    sizes = [len(world.server.requests(number)) for number in range(len(world.server.batches))]
    assert max(sizes) == 4
    assert sum(sizes) + len(world.server.live) == len(TEXTS)


def test_a_text_that_was_edited_while_its_batch_waited_is_asked_anew(world: World) -> None:
    waiting = world.handed_in()
    sample = world.store.samples(1, [12])[0]
    world.store.put_samples(1, [replace(sample, text="a good film after all")])
    world.server.finish()
    world.server.instant = True
    assert world.runner.run(waiting.id).status is RoundStatus.DONE
    assert world.labels() == RIGHT | {12: "good"}


def test_the_budget_counts_the_batches_that_are_open(world: World) -> None:
    begun = world.begin(budget=0.30)
    world.steps(begun.id, 2)
    (first,) = world.store.ledger.batches(begun.id)
    assert 0 < first.requests < 9, "as many as the budget can take at their most"
    assert first.reserved + world.cost(begun.id) <= 0.30
    world.steps(begun.id, 1)
    assert len(world.server.batches) == 1, "the others wait until it is known what the first really took"
    world.server.instant = True
    done = world.runner.run(begun.id)
    assert done.status is RoundStatus.DONE
    assert world.cost(begun.id) <= 0.30
    assert len(world.server.batches) > 1


def test_a_budget_that_not_one_more_request_fits_pauses_and_says_how_to_go_on(world: World) -> None:
    begun = world.begin(budget=0.195)  # a request can cost 0.191 at the most, and takes 0.009
    with pytest.raises(BudgetError, match=r"\$0.0090 of the budget of \$0.195 are spent.*--resume --budget USD"):
        world.runner.run(begun.id)
    assert world.store.round(begun.id).status is RoundStatus.PAUSED
    assert world.cost(begun.id) == pytest.approx(LIVE_COST)
    world.server.instant = True
    change_round(world.store, world.settings, begun, {"budget": 5.0})
    world.store.set_round_status(begun.id, RoundStatus.PENDING)
    assert world.runner.run(begun.id).status is RoundStatus.DONE


def test_a_few_requests_are_no_reason_to_wait_for_a_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_clerk, "FEW", 20)
    assert world.runner.run(world.begin().id).status is RoundStatus.DONE
    assert world.server.batches == []
    assert len(world.server.live) == len(TEXTS)


def test_a_vote_of_several_models_is_asked_in_batches_too(world: World) -> None:
    world.settings = world.settings.model_copy(
        update={"llm_models": "scripted,other", "annotation": "vote", "votes": 2}
    )
    world.server.instant = True
    done = world.runner.run(world.begin().id)
    assert done.status is RoundStatus.DONE
    assert world.labels() == RIGHT
    asked = {line["body"]["model"] for n in range(len(world.server.batches)) for line in world.server.requests(n)}
    assert asked == {"scripted", "other"}
    spent = {(one.annotator, one.batch): one for one in world.store.ledger.spending(1)[done.id]}
    assert spent["openai:scripted", True].known_cost is not None
    assert spent["openai:other", True].known_cost is None, "its price is not in the file"
    links = {line.annotator for line in status_of(world.store, 1).costs}
    assert links == {"openai:scripted", "openai:other"}


def test_a_round_told_to_go_on_live_pays_for_nothing_twice(world: World) -> None:
    waiting = world.handed_in()
    world.steps(waiting.id, 1)
    change_round(world.store, world.settings, world.store.round(waiting.id), {"batch": False})
    world.steps(waiting.id, 1)
    assert world.server.batches[0]["status"] == "cancelling"
    assert len(world.server.live) == 3, "nobody asks live what the batch may have answered"
    world.server.finish(share=0.5)
    assert world.runner.run(waiting.id).status is RoundStatus.DONE
    assert world.labels() == RIGHT
    assert len(world.server.live) == len(TEXTS) - 4


def test_the_command_line_cancels_at_the_endpoint(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = world.handed_in()
    for name, value in {
        "MODEL_DIR": str(world.settings.model_dir),
        "CORAL_PRICES": str(world.settings.prices),
        "OPENAI_BASE_URL": world.server.base_url,
        "CORAL_LLM_MODEL": "scripted",
    }.items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(cli.main, ["round", "--cancel"])
    assert shown.exit_code == 0, shown.output
    assert "cancelled at the endpoint" in shown.output
    assert "read by a worker when they have ended" in shown.output
    assert world.server.batches[0]["status"] == "cancelling"
    assert world.store.round(waiting.id).status is RoundStatus.CANCELLED


def test_the_command_line_says_when_the_endpoint_cannot_be_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.handed_in()
    world.server.refuse["GET /batches/batch_1"] = status(503)
    monkeypatch.setenv("MODEL_DIR", str(world.settings.model_dir))
    monkeypatch.setenv("OPENAI_BASE_URL", world.server.base_url)
    shown = CliRunner().invoke(cli.main, ["round", "--cancel"])
    assert shown.exit_code == 0, shown.output
    assert "could not be cancelled at the endpoint yet; a worker will try again" in shown.output


def test_several_controls_wait_for_their_batches_together(world: World) -> None:
    world.studio.config = CONFIG.replace("</View>", CONFIG[CONFIG.index("<Choices") :].replace('"label"', '"tone"'))
    waiting = world.handed_in()
    assert waiting.stage is Stage.ANNOTATE
    assert len(world.server.batches) == 2, "both are handed in at once: else the second would begin a day later"
    assert len(world.server.live) == 3
    world.server.finish()
    done = world.runner.run(waiting.id)
    assert done.status is RoundStatus.DONE
    assert len(world.server.batches) == 2
    assert {task: read_controls(said) for task, said in world.labels().items()} == {
        task: {"label": right, "tone": right} for task, right in RIGHT.items()
    }
