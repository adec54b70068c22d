"""Can the encoder read these texts at all? Its tokenizer tells: letters of scripts that it does not know become nothing, or one piece each.

An English MiniLM takes most Chinese characters for unknown and spells Marathi out letter by letter, without its vowel signs. It
answers all the same, and only the figures of a round show that the SLM knows nothing. The tokenizer says so beforehand, in milliseconds.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coral_backend.exceptions import SettingsError

__all__ = ["READS", "doubt", "readable_share", "share_of"]

READS = 0.5
"""A text of which the tokenizer knows a smaller share of the letters cannot be read."""

MOST = 0.9
"""An encoder that can read fewer of the texts is doubted: one language of several may be missing. Of 300 real texts each MiniLM can
read all English, Spanish and Danish ones, 9 % of the Chinese and none of the Marathi. To read is not to understand: a larger share promises nothing."""

SAMPLED = 300
"""So many texts are read, spread evenly over the corpus."""

CHARACTERS = 500
"""And so much of each."""

WHOLE = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER")
"""Scripts whose single characters are words or syllables, or are written without gaps: a piece of one character is not spelling."""


def readable_share(tokenizer: Any, texts: Sequence[str]) -> float:
    """Return the share of texts whose letters (and vowel signs) a tokenizer knows as words or parts of words, ``READS`` of them at least.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Of the encoder.
    texts : sequence of str
        Only ``SAMPLED`` of them are read.

    Returns
    -------
    float
        In [0, 1]; 1 when no text has a letter.
    """
    step = max(1, len(texts) // SAMPLED)
    shares = [_known(tokenizer, text[:CHARACTERS]) for text in texts[::step][:SAMPLED]]
    known = [share >= READS for share in shares if share is not None]
    return sum(known) / len(known) if known else 1.0


def _known(tokenizer: Any, text: str) -> float | None:
    """Return the share of a text's letters that are in pieces of several, or stand alone; None without letters."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    letters = [unicodedata.category(character)[0] in "LM" for character in text]
    if not any(letters):
        return None
    found = tokenizer.encode(text, add_special_tokens=False)
    pieces = zip(found.tokens, found.offsets, strict=True)
    read = sum(
        sum(letters[start:end])
        for token, (start, end) in pieces
        if token not in ("[UNK]", "<unk>") and (end - start > 1 or _alone(text, start, end, letters))
    )
    return read / sum(letters)


def _alone(text: str, start: int, end: int, letters: Sequence[bool]) -> bool:
    """Say whether a piece of one character is a word of its own, or of a script in which it may be."""
    if end - start != 1 or not letters[start]:
        return False
    inside = (start > 0 and letters[start - 1]) or (end < len(text) and letters[end])
    return not inside or unicodedata.name(text[start], "").startswith(WHOLE)


def share_of(folder: Path, texts: Sequence[str]) -> float | None:
    """Return what ``readable_share`` says with the tokenizer of a model's folder; None where it has no fast one.

    Raises
    ------
    SettingsError
        If its file is none of a tokenizer.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more special
        raise SettingsError(
            f"{path} is no tokenizer ({error}). Set CORAL_SLM_MODEL to a whole model, or fetch it again."
        ) from None
    return readable_share(unlimited(tokenizer), texts)


def unlimited(tokenizer: Any) -> Any:
    """Return the tokenizer without the cutting and filling that its file may ask for."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def doubt(share: float) -> str | None:
    """Return a sentence for people where the encoder can read too few of the texts, else None."""
    if share >= MOST:
        return None
    return (
        f"The SLM's encoder cannot read {1 - share:.0%} of these texts: it does not know their letters, and can learn little from them. "
        "Set CORAL_SLM_MODEL to a multilingual encoder (a folder or a Hugging Face name with safetensors)."
    )
