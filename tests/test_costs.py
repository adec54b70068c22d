"""Is the price of a round known before, kept while it runs, and shown after, by the round's own logic and over real HTTP?"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from coral_backend import Coral, catch_up, cli
from coral_backend.estimate import estimate
from coral_backend.exceptions import BudgetError, NotFoundError
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.launch import begin_round, change_round, check
from coral_backend.metrics import Metrics
from coral_backend.rollback import roll_back
from coral_backend.rounds import RoundRunner
from coral_backend.settings import Settings
from coral_backend.status import status_of
from coral_backend.store import Store
from coral_backend.sync import refresh_project
from coral_backend.types import Flag, Round, RoundStatus, Sample
from tests.scripted_openai import Call, Reply, ScriptedOpenAI, label
from tests.stand_ins import FakeLabelStudio, QuickModel, annotation, quick_distil

TEXTS = [f"a {word} film, the one with number {number:02d}" for number in range(15) for word in ("good", "bad")]
PRICES = 'endpoints: {"*": {batch: 0.5, models: {priced: {input: 10, output: 50}}}}'
CHARS_PER_TOKEN = 3.0


def by_word(call: Call) -> Reply:
    """Answer with the word of the text; usage as of a tokenizer that makes a token of three characters."""
    characters = sum(len(message["content"]) for message in call.messages)
    usage = {"prompt_tokens": round(characters / CHARS_PER_TOKEN), "completion_tokens": 6}
    return label("good" if "good" in call.text else "bad", usage=usage)


class World:
    """A store, a Label Studio in memory, an endpoint on loopback, and the runner between them."""

    def __init__(self, folder: Path, server: ScriptedOpenAI, **more: Any) -> None:
        (folder / "prices.yaml").write_text(PRICES, encoding="utf-8")
        given = {"annotator": "openai", "openai_base_url": server.base_url, "llm_model": "priced", "model_dir": folder}
        given |= {"n_demos": 2, "annotate_chunk": 7, "prices": folder / "prices.yaml"}
        self.settings = Settings.load({}, **{**given, **more})
        self.store = Store(self.settings.store_url)
        self.studio = FakeLabelStudio({i + 1: {"text": text} for i, text in enumerate(TEXTS)})
        self.server = server
        refresh_project(self.store, self.client, 1)

    @property
    def client(self) -> LabelStudioClient:
        return cast("LabelStudioClient", self.studio)

    def run(self, *, retrain: bool = False, **options: Any) -> Round:
        return self.go_on(begin_round(self.store, self.settings, 1, options, retrain=retrain))

    def go_on(self, begun: Round) -> Round:
        return RoundRunner(self.store, self.settings, lambda: self.client).run(begun.id)

    def cost(self, round_id: int) -> float:
        return sum(one.cost for one in self.store.ledger.spending(1).get(round_id, []))


@pytest.fixture
def server() -> Iterator[ScriptedOpenAI]:
    with ScriptedOpenAI(by_word) as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, server: ScriptedOpenAI, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("coral_backend.slm.engine.distil", quick_distil)
    made = World(tmp_path, server)
    yield made
    made.store.close()


# --- before ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_asks_nobody_and_says_how_many_requests_a_round_makes(world: World) -> None:
    world.settings = world.settings.model_copy(update={"annotate_chunk": 1_000})
    world.studio.tasks |= {41: {"text": ""}, 42: {"text": TEXTS[0]}, 43: {"nothing": 1}}
    world.studio.annotations = {5: [annotation(10, "good")]}
    found = estimate(world.store, world.settings, 1, lambda: world.client)
    assert world.server.history == []
    assert (found.round, found.tasks, found.asked) == ("1", 33, 32)
    assert world.store.rounds(1) == [], "no round was begun"
    done = world.run()
    asked = {(call.text, len(call.messages[1]["content"])) for call in world.server.history}
    assert found.requests == len(world.server.history) == len(asked) == 29
    (spent,) = world.store.ledger.spending(1)[done.id]
    assert found.live_cost is not None
    assert found.live_cost == pytest.approx(spent.cost, rel=0.4), "a rule of thumb, of a tokenizer it does not know"
    assert found.batch_cost == pytest.approx(found.live_cost / 2)


def test_after_the_first_usage_the_estimate_is_close(world: World) -> None:
    world.run()
    world.server.history.clear()
    world.studio.tasks |= {i: {"text": f"another bad thing, number {i}"} for i in range(50, 90)}
    found = estimate(world.store, world.settings, 1, lambda: world.client)
    assert found.round == "2"
    assert "3.00 characters a token, learned" in found.counted
    assert world.server.history == []
    done = world.run()
    (spent,) = world.store.ledger.spending(1)[done.id]
    assert found.requests == len(world.server.history) == spent.requests
    assert found.prompt_tokens == pytest.approx(spent.prompt_tokens, rel=0.01)
    assert found.completion_tokens == spent.completion_tokens
    assert found.cost == pytest.approx(spent.cost, rel=0.01)


def test_of_a_round_under_way_the_rest_is_estimated(world: World) -> None:
    begun = begin_round(world.store, world.settings, 1, {"budget": 9.0})
    runner = RoundRunner(world.store, world.settings, lambda: world.client)
    runner.advance(begun.id)
    runner.advance(begun.id)  # two demonstrations and a chunk of seven
    world.studio.down = True
    found = estimate(world.store, world.settings, 1, lambda: world.client)
    assert (found.asked, found.requests, found.budget) == (len(TEXTS) - 9, len(TEXTS) - 9, 9.0)
    assert found.spent == pytest.approx(world.cost(begun.id))
    assert estimate(world.store, world.settings, 1, lambda: world.client, options={"budget": 1.0}).budget == 1.0


def test_a_retraining_and_an_annotator_that_is_no_llm_cost_nothing(world: World) -> None:
    world.run()
    found = estimate(world.store, world.settings, 1, lambda: world.client, retrain=True)
    assert (found.round, found.requests, found.cost) == ("1.1", 0, 0.0)
    recorded = world.settings.model_copy(update={"annotator": "recorded", "recorded_key": "llm"})
    found = estimate(world.store, recorded, 1, lambda: world.client)
    assert (found.requests, found.cost, found.endpoint) == (0, 0.0, None)
    assert "no LLM" in found.notes[0]


def test_an_unknown_price_gives_tokens_only_and_says_how_to_give_one(world: World) -> None:
    settings = world.settings.model_copy(update={"llm_model": "unheard-of"})
    found = estimate(world.store, settings, 1, lambda: world.client)
    assert (found.cost, found.live_cost, found.batch_cost) == (None, None, None)
    assert found.prompt_tokens > 0
    assert "The price of 'unheard-of' at 127.0.0.1:" in found.notes[0]
    assert "prices.yaml" in found.notes[0]


def test_a_vote_is_estimated_by_what_its_strategy_asks(world: World) -> None:
    more = {"llm_models": "priced,unheard-of", "annotation": "vote", "n_demos": 0}
    world.settings = world.settings.model_copy(update=more)
    found = estimate(world.store, world.settings, 1, lambda: world.client)
    priced, other = found.links
    assert (priced.annotator, other.annotator) == ("openai:priced", "openai:unheard-of")
    assert len(TEXTS) <= found.requests <= 3 * len(TEXTS)
    assert found.requests == priced.requests + other.requests
    assert (priced.live_cost is not None, other.live_cost, found.cost) == (True, None, None)
    assert any("right in 80%" in note for note in found.notes)
    done = world.run()
    asked = sum(one.requests for one in world.store.ledger.spending(1)[done.id])
    assert found.requests == pytest.approx(asked, rel=0.5)


def test_what_was_answered_before_costs_nothing(world: World) -> None:
    world.settings = world.settings.model_copy(update={"n_demos": 0})
    with pytest.raises(BudgetError):
        world.run(budget=0.08)
    kept = len(world.store.llm_labels(1))
    active = world.store.active_round(1)
    assert active is not None
    world.store.set_round_status(active.id, RoundStatus.CANCELLED)
    world.store.put_samples(1, [Sample(1, "changed, and changed back")])
    found = estimate(world.store, world.settings, 1, lambda: world.client)
    assert found.requests == len(TEXTS) - kept


def test_a_budget_that_will_not_do_is_said_before(world: World) -> None:
    found = estimate(world.store, world.settings, 1, lambda: world.client, options={"budget": 0.01})
    assert any("budget of $0.01 will not do" in note for note in found.notes)


# --- while it runs --------------------------------------------------------------------------------------------------


def test_a_spent_budget_pauses_the_round_and_a_higher_one_goes_on(world: World) -> None:
    with pytest.raises(BudgetError, match=r"of the budget of \$0.08 are spent"):
        world.run(budget=0.08)
    paused = world.store.active_round(1)
    assert paused is not None
    assert paused.status is RoundStatus.PAUSED
    assert "coral round --project 1 --resume --budget USD" in str(paused.error)
    kept = len(world.store.llm_labels(1))
    assert 0 < kept < len(TEXTS)
    assert world.cost(paused.id) <= 0.08
    assert len(world.server.history) == kept, "every answer that was paid for is kept"
    world.store.set_round_status(paused.id, RoundStatus.PENDING)
    with pytest.raises(BudgetError):
        world.go_on(paused)
    assert len(world.server.history) == kept, "resumed under the same budget it has spent it already"
    change_round(world.store, world.settings, paused, {"budget": 5.0})
    world.store.set_round_status(paused.id, RoundStatus.PENDING)
    assert world.go_on(paused).status is RoundStatus.DONE
    assert len(world.server.history) == len(TEXTS), "nothing was asked twice"


def test_a_budget_without_a_price_begins_no_round(world: World) -> None:
    world.settings = world.settings.model_copy(update={"llm_model": "unheard-of"})
    with pytest.raises(BudgetError, match="not known, so the budget cannot be kept"):
        world.run(budget=5.0)
    assert world.store.rounds(1) == []
    assert world.run().status is RoundStatus.DONE, "without a budget it may go on"
    (line,) = status_of(world.store, 1).rounds
    assert (line.cost, line.requests) == (None, len(TEXTS))


def test_a_worker_whose_price_is_gone_pauses_the_round(world: World) -> None:
    begun = begin_round(world.store, world.settings, 1, {"budget": 5.0})
    world.settings = world.settings.model_copy(update={"prices": None})
    with pytest.raises(BudgetError):
        world.go_on(begun)
    assert world.store.round(begun.id).status is RoundStatus.PAUSED
    assert world.server.history == []


def test_the_budget_of_a_project_and_of_the_environment(world: World) -> None:
    assert Settings.load({"CORAL_BUDGET": "2.5"}).budget == 2.5
    assert begin_round(world.store, world.settings.with_options({"budget": 2.5}), 1).settings["budget"] == 2.5
    check(world.settings.model_copy(update={"annotator": "recorded", "recorded_key": "x", "budget": 1.0}))


# --- after ----------------------------------------------------------------------------------------------------------


def test_status_metrics_and_library_tell_the_same_cost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.run(budget=5.0)
    monkeypatch.setattr(catch_up, "lazy_embed", lambda _: None)
    monkeypatch.setattr("coral_backend.slm.engine.Model", QuickModel)
    world.store.put_samples(1, [Sample(77, "a good film that came later")], wanted=True)
    world.studio.tasks[77] = {"text": "a good film that came later"}
    catch_up.catch_up(world.store, world.settings, lambda: world.client, 1)

    found = status_of(world.store, 1)
    (line,) = found.rounds
    between, round_1 = found.costs
    assert (between.round, between.requests, round_1.round, round_1.requests) == ("between", 1, "1", len(TEXTS))
    assert line.cost == round_1.cost == pytest.approx(world.cost(first.id))
    assert line.cost is not None
    assert line.budget == 5.0
    assert line.cost_per_label == pytest.approx(line.cost / (len(TEXTS) + 1))
    assert between.cost is not None
    assert found.cost == pytest.approx(line.cost + between.cost)

    text = Metrics(world.store).text().decode()
    samples = {
        (sample.name, sample.labels["round"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in {"coral_llm_cost_usd_total", "coral_llm_requests_total"}
    }
    assert samples["coral_llm_requests_total", "1"] == len(TEXTS)
    assert samples["coral_llm_cost_usd_total", "1"] == pytest.approx(line.cost)
    assert 'coral_llm_request_tokens_total{annotator="openai:priced",batch="false",kind="cached"' in text

    with Coral("http://nowhere", "token", project=1, model_dir=world.settings.model_dir) as coral:
        assert coral.round(1).cost == line.cost
        with pytest.raises(NotFoundError, match=r"has no round .2.\. Its rounds: 1 "):
            coral.round(2)


def test_a_second_round_has_its_own_cost(world: World) -> None:
    first = world.run()
    flags = {v.flag for v in world.store.verdicts(1, first.id)}
    world.studio.tasks |= {60: {"text": "a good new one"}}
    second = world.run()
    costs = {line.name: line.cost for line in status_of(world.store, 1).rounds}
    assert costs == {"1": pytest.approx(world.cost(first.id)), "2": pytest.approx(world.cost(second.id))}
    assert world.cost(second.id) > 0
    assert Flag.CLEAN in flags


# --- the command line and the library -------------------------------------------------------------------------------


@pytest.fixture
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import os

    for name in [n for n in os.environ if n.startswith(("CORAL_", "OPENAI_", "LABEL_STUDIO_", "REDIS_", "DATABASE_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "MODEL_DIR": str(world.settings.model_dir),
        "CORAL_PRICES": str(world.settings.prices),
        "OPENAI_BASE_URL": world.server.base_url,
        "CORAL_LLM_MODEL": "priced",
        "CORAL_DEMOS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "_client", lambda _: world.client)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def coral(*words: str) -> Result:
    return CliRunner().invoke(cli.main, list(words), prog_name="coral")


@pytest.mark.usefixtures("environment")
def test_the_command_line_dry_runs_caps_resumes_and_shows(world: World) -> None:
    shown = coral("round", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "30 of 30 would be asked about" in shown.output
    assert "live $" in shown.output
    found = json.loads(coral("round", "--dry-run", "--json", "--batch", "--budget", "1").stdout)
    assert (found["requests"], found["batch"], found["budget"]) == (30, True, 1.0)
    assert found["cost"] == found["batch_cost"]
    assert world.server.history == []

    result = coral("round", "--here", "--budget", "0.08")
    assert result.exit_code == 1
    assert "of the budget of $0.08 are spent" in result.output
    assert "of a budget of $0.0800" in coral("status").output
    result = coral("round", "--here", "--resume", "--budget", "5")
    assert result.exit_code == 0, result.output
    assert len(world.server.history) == 30
    shown = coral("status")
    assert "What it cost (USD)" in shown.output
    (project,) = json.loads(coral("status", "--json").stdout)["projects"]
    assert project["cost"] == pytest.approx(world.cost(1))
    assert project["costs"][0]["requests"] == 30


@pytest.mark.usefixtures("environment")
def test_the_command_line_refuses_what_cannot_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--json goes with --dry-run" in coral("round", "--json").output
    assert coral("round", "--budget", "0").exit_code == 2
    assert "has no Batch API" in coral("round", "--here", "--batch").stderr
    monkeypatch.setenv("CORAL_LLM_MODEL", "unheard-of")
    assert "the budget cannot be kept" in coral("round", "--here", "--budget", "5").stderr
    assert "unknown" in coral("round", "--dry-run").output
    assert world.store.rounds(1) == []


@pytest.mark.usefixtures("environment")
def test_from_python(world: World) -> None:
    with Coral("http://nowhere", "token", project=1, annotator="openai") as library:
        library.client = world.client
        assert library.estimate().requests == 30
        with pytest.raises(BudgetError):
            library.run_round(budget=0.08)
        done = library.run_round(budget=5.0)
        assert library.round(done.number).cost == pytest.approx(world.cost(done.id))


def test_nobody_asks_beside_a_round_whose_budget_is_spent(world: World) -> None:
    with pytest.raises(BudgetError):
        world.run(budget=0.02)
    paused = world.store.active_round(1)
    assert paused is not None
    undecided = [s for s in world.store.samples(1) if s.task_id not in world.store.llm_labels(1)]
    assert undecided, "else the budget did for all"
    world.store.put_samples(1, undecided, wanted=True)  # somebody opens the tasks in Label Studio
    asked, cost = len(world.server.history), world.cost(paused.id)
    assert catch_up.catch_up(world.store, world.settings, lambda: world.client, 1) == 0
    assert len(world.server.history) == asked
    change_round(world.store, world.settings, world.store.round(paused.id), {"budget": 10.0})
    world.store.set_round_status(paused.id, RoundStatus.PENDING)
    assert world.go_on(paused).status is RoundStatus.DONE
    assert world.cost(paused.id) > cost
    assert world.store.wanted(1) == []


def test_after_a_rollback_the_estimate_is_of_the_round_that_would_begin(world: World) -> None:
    world.run()
    world.run()
    roll_back(world.store, world.settings, lambda: world.client, 1, "1")
    assert estimate(world.store, world.settings, 1, lambda: world.client, retrain=True).round == "1.1"
    assert world.run(retrain=True).name == "1.1"
