"""How many tokens has a request, before anybody is asked? Counted where the model's tokenizer is at hand, else estimated.

At hand is a tokenizer in the Hugging Face cache of this machine, as where a server of one's own was started from it. Nothing is
fetched. Else the endpoint's own ``usage`` of earlier requests to the model tells how many characters a token has; before the
first of them a rule of thumb does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PER_MESSAGE", "TokenCounter", "at_most"]

PER_MESSAGE = 4
"""Tokens that a chat template adds to each message, about."""

MOST_PER_MESSAGE = 16
"""More than any chat template adds to a message."""

ASCII_CHARS = 4.0
OTHER_CHARS = 1.5
"""Characters a token before anything is known: English has about four, scripts beyond ASCII one or two."""

LEARNED_TOKENS = 200
"""So many tokens of real usage are enough to learn from: a request or two."""

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of messages for one model.

    Attributes
    ----------
    model : str
        As the endpoint calls it.
    characters, tokens : int
        Of earlier requests to this model, as the endpoint counted them.
    """

    model: str
    characters: int = 0
    tokens: int = 0

    @property
    def how(self) -> str:
        """Where the count comes from: ``tokenizer``, ``learned`` from usage, or ``default``."""
        if _at_hand(self.model) is not None:
            return "tokenizer"
        return "learned" if self.tokens >= LEARNED_TOKENS and self.characters > 0 else "default"

    def explained(self) -> str:
        """Return the same in words."""
        how = self.how
        if how == "tokenizer":
            return f"counted with the tokenizer of {self.model}"
        if how == "learned":
            return f"{self.characters / self.tokens:.2f} characters a token, learned from {self.tokens:,} tokens of real usage"
        return (
            f"{ASCII_CHARS:g} characters a token ({OTHER_CHARS:g} beyond ASCII), a rule of thumb until the first usage"
        )

    def count(self, messages: Messages) -> int:
        """Return the tokens of one request's messages, at least 1."""
        texts = [message["content"] for message in messages]
        how = self.how
        if how == "learned":  # the usage holds what the template and the schema add
            return max(1, round(sum(map(len, texts)) * self.tokens / self.characters))
        tokenizer = _at_hand(self.model) if how == "tokenizer" else None
        found = sum(
            len(tokenizer.encode(text, add_special_tokens=False).ids) if tokenizer else _rule_of_thumb(text)
            for text in texts
        )
        return max(1, round(found) + PER_MESSAGE * len(texts))


def at_most(messages: Messages, parameters: Mapping[str, Any]) -> int:
    """Return more tokens than any tokenizer makes of a request: it makes at most one of each byte."""
    texts = sum(len(message["content"].encode("utf-8", "replace")) + MOST_PER_MESSAGE for message in messages)
    return texts + len(json.dumps(parameters.get("response_format") or "").encode())


def _rule_of_thumb(text: str) -> float:
    ascii_chars = sum(character < "\x80" for character in text)
    return ascii_chars / ASCII_CHARS + (len(text) - ascii_chars) / OTHER_CHARS


@cache
def _at_hand(model: str) -> Tokenizer | None:
    """Return the tokenizer that the Hugging Face cache of this machine has for a model; nothing is fetched."""
    if model.count("/") != 1:  # names of the hub are org/name
        return None
    from huggingface_hub import try_to_load_from_cache
    from tokenizers import Tokenizer

    try:
        path = try_to_load_from_cache(model, "tokenizer.json")
        if not isinstance(path, str):
            return None
        found = Tokenizer.from_file(path)
    except Exception:  # noqa: BLE001 - tokenizers raises bare exceptions; a foreign file must not end a round
        return None
    found.no_padding()  # some files ask for texts to be cut, or filled up, to one length
    found.no_truncation()
    return found
