"""Is a price found where it is known, and never guessed where it is not?"""

from __future__ import annotations

from pathlib import Path

import pytest

from coral_backend.exceptions import SettingsError
from coral_backend.llm.prices import PriceTable, host_of

OPENAI = "https://api.openai.com/v1"


def written(folder: Path, text: str) -> Path:
    file = folder / "prices.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_built_in_table_knows_openai_and_is_dated() -> None:
    table = PriceTable.load()
    price = table.find(OPENAI, "gpt-4o-mini")
    assert price is not None
    assert (price.input, price.cached, price.output, price.batch) == (0.15, 0.075, 0.60, 0.5)
    assert table.date == "2026-11-21"


def test_a_cost_by_hand() -> None:
    price = PriceTable.load().find(OPENAI, "gpt-4o-mini")
    assert price is not None
    assert price.cost(1_000_000, 0) == pytest.approx(0.15)
    assert price.cost(1_000_000, 100_000, cached=400_000) == pytest.approx(0.6 * 0.15 + 0.4 * 0.075 + 0.1 * 0.60)
    assert price.cost(1_000_000, 100_000, cached=400_000, batch=True) == pytest.approx(0.18 / 2)
    assert price.cost(10, 0, cached=1_000) == pytest.approx(10 * 0.075 / 1e6), "more cached than there is cannot be"


@pytest.mark.parametrize(
    ("base_url", "model"),
    [
        ("http://localhost:11434/v1", "gpt-4o-mini"),
        ("https://api.openai.com.evil.example/v1", "gpt-4o-mini"),
        (OPENAI, "gpt-4o-mini-tuned"),
        (OPENAI, "ft:gpt-4o-mini:me::1"),
        (OPENAI, "*"),
    ],
)
def test_another_endpoint_or_model_has_no_price(base_url: str, model: str) -> None:
    assert PriceTable.load().find(base_url, model) is None


def test_a_snapshot_costs_what_its_model_does_unless_it_has_its_own_price() -> None:
    table = PriceTable.load()
    assert table.find(OPENAI, "gpt-4o-mini-2024-07-18") == table.find(OPENAI, "gpt-4o-mini")
    old, now = table.find(OPENAI, "gpt-4o-2024-05-13"), table.find(OPENAI, "gpt-4o-2024-08-06")
    assert old is not None
    assert now is not None
    assert (old.input, now.input) == (5.0, 2.5)


def test_a_file_of_ones_own_wins(tmp_path: Path) -> None:
    own = written(
        tmp_path,
        """
endpoints:
  api.openai.com: {models: {gpt-4o-mini: {input: 1, output: 2}}}
  localhost:8000: {models: {"*": {input: 0, output: 0}}}
  "*": {batch: 0.4, models: {mine: {input: 3, output: 4, batch: 1}, other: {input: 3, output: 4}}}
""",
    )
    table = PriceTable.load(own)
    mini = table.find(OPENAI, "gpt-4o-mini")
    free = table.find("http://localhost:8000/v1", "whatever")
    assert mini is not None
    assert free is not None
    assert (mini.input, mini.output, mini.batch) == (1, 2, 1.0)
    assert free.cost(10**6, 10**6) == 0.0
    assert table.find("http://localhost:8001/v1", "whatever") is None
    mine, other = (table.find("http://elsewhere/v1", name) for name in ("mine", "other"))
    assert mine is not None
    assert other is not None
    assert (mine.batch, other.batch) == (1.0, 0.4)
    assert table.find(OPENAI, "gpt-4o") is not None, "what it does not say stays as it was"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("endpoints: {h: {models: {m: {input: -1, output: 1}}}}", r"endpoints\.h\.models\.m\.input"),
        ("endpoints: {h: {models: {m: {input: .inf, output: 1}}}}", "input"),
        ("endpoints: {h: {models: {m: {input: 1}}}}", r"m\.output: Field required"),
        ("endpoints: {h: {models: {m: {input: 1, output: 1, per: token}}}}", r"m\.per"),
        ("endpoints: {h: {batch: 2, models: {}}}", "batch"),
        ("prices: {}", "endpoints: Field required"),
        ("- 1", "the file"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"CORAL_PRICES: .*{said}"):
        PriceTable.load(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml cannot be read"):
        PriceTable.load(tmp_path / "nowhere.yaml")


def test_the_advice_is_a_file_that_works(tmp_path: Path) -> None:
    advice = PriceTable.load().advice("http://localhost:8000/v1", "org/model:7b")
    entry = advice.partition("CORAL_PRICES: ")[2]
    table = PriceTable.load(written(tmp_path, entry))
    assert table.find("http://localhost:8000/v1", "org/model:7b") is not None


def test_the_host_with_and_without_its_port() -> None:
    assert host_of("http://LOCALHOST:8000/v1") == ("localhost:8000", "localhost")
    assert host_of(OPENAI) == ("api.openai.com",)
