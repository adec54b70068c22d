"""Where do the tokens of a text stand in it? Texts are cut into pieces that the encoder can read, with the place of every token."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coral_backend.exceptions import ModelFileError
from coral_backend.labels import Span
from coral_backend.slm.encoder import Encoder, clean_text
from coral_backend.types import Floats, Ints
from strategies.distillation.bio import Range

__all__ = ["N_SHAPES", "Piece", "cut"]

SPECIAL = -1
"""The place of a token that is no part of the text."""

N_SHAPES = 7
"""What ``Piece.shapes`` tells of each token."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a sample's text that the encoder reads at once, as T tokens.

    Attributes
    ----------
    sample : int
        Row of the corpus.
    text : str
        The stretch.
    places : ndarray
        Shape (T, 2): start and end of each token in the sample's text, in code points; ``SPECIAL`` for the encoder's own.
    inner : ndarray
        Shape (T,), bool: it goes on with the word of the token before.
    shapes : ndarray
        Shape (T, ``N_SHAPES``), float32: capitals and digits, which encoders without case do not see.
    """

    sample: int
    text: str
    places: Ints
    inner: npt.NDArray[np.bool_]
    shapes: Floats

    @property
    def real(self) -> npt.NDArray[np.bool_]:
        """Which tokens are part of the text, shape (T,)."""
        return np.asarray(self.places[:, 0] != SPECIAL)

    def range_of(self, span: Span, kind: int) -> Range | None:
        """Return the tokens of a span, or None when it has none here, or goes over the end of the piece."""
        inside = np.flatnonzero(self.real & (self.places[:, 0] < span.end) & (self.places[:, 1] > span.start))
        if not inside.size:
            return None
        start, end = self.places[self.real][[0, -1], [0, 1]]
        if (span.start < start and inside[0] == 1) or (span.end > end and inside[-1] == len(self.places) - 2):
            return None
        return Range(int(inside[0]), int(inside[-1]), kind)

    def span_of(self, one: Range, label: str, text: str) -> Span:
        """Return where tokens stand in the sample's `text`, with the marks that belong to the last letter."""
        end = int(self.places[one.last, 1])
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        return Span(int(self.places[one.first, 0]), end, label)


def cut(encoder: Encoder, texts: Sequence[str]) -> list[Piece]:
    """Return the pieces of each text in turn: most texts are one; longer ones are cut where a word begins.

    Raises
    ------
    ModelFileError
        If the encoder's tokenizer cannot say where its tokens stand.
    """
    if not encoder.tokenizer.is_fast:
        raise ModelFileError(
            f"The tokenizer of the SLM {encoder.name!r} cannot say where tokens stand in a text, which spans need. "
            "Use 'embedded', or a model with a fast tokenizer (tokenizer.json). Set CORAL_SLM_MODEL."
        )
    stretches = [(row, text, *stretch) for row, text in enumerate(texts) for stretch in _stretches(encoder, text)]
    if not stretches:
        return []
    encoded = encoder.tokenizer(
        [clean_text(text[start:end], encoder.max_length) for _, text, start, end in stretches],
        truncation=True,
        max_length=encoder.max_length,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
    )
    return [
        _piece(row, text, (start, end), places, special)
        for (row, text, start, end), places, special in zip(
            stretches, encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
        )
    ]


def _stretches(encoder: Encoder, text: str) -> Iterable[tuple[int, int]]:
    """Yield where the pieces of a text begin and end."""
    if len(text) < encoder.max_length - 2:
        return [(0, len(text))]
    encoded = encoder.tokenizer(_readable(text), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    places, room = encoded["offset_mapping"], encoder.max_length - 2
    cuts, first = [0], 0
    while len(places) - first > room:
        last = first + room
        words = [i for i in range(first + 1, last + 1) if text[places[i][0] - 1 : places[i][0]].isspace()]
        first = words[-1] if words else last
        cuts.append(places[first][0])
    return list(zip(cuts, [*cuts[1:], len(text)], strict=True))


def _readable(text: str) -> str:
    """Return `text`, character by character, as the tokenizer can read it."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")


def _piece(
    row: int, text: str, stretch: tuple[int, int], places: Sequence[tuple[int, int]], special: Sequence[int]
) -> Piece:
    start, words = stretch[0], text[slice(*stretch)]
    moved = np.array(
        [
            (SPECIAL, SPECIAL) if own else (start + a + _blanks(words[a:b]), start + b)
            for (a, b), own in zip(places, special, strict=True)
        ],
        dtype=np.int64,
    ).reshape(-1, 2)
    inner = np.array([i > 0 and _one_word(text, moved[i - 1], moved[i]) for i in range(len(moved))], dtype=bool)
    return Piece(row, words, moved, inner, _shapes(text, moved, inner))


def _blanks(token: str) -> int:
    return len(token) - len(token.lstrip()) if token.strip() else 0


def _one_word(text: str, before: Ints, after: Ints) -> bool:
    """Say whether two tokens are of one word; scripts without blanks have words of one token."""
    if SPECIAL in (before[0], after[0]) or after[0] > before[1]:
        return False
    last, first = text[before[1] - 1 : before[1]], text[after[0] : after[0] + 1]
    letters = all(one.isalnum() or unicodedata.combining(one) for one in (last, first) if one)
    return letters and unicodedata.east_asian_width(first or "a") not in "WF"


def _shapes(text: str, places: Ints, inner: npt.NDArray[np.bool_]) -> Floats:
    shapes = np.zeros((len(places), N_SHAPES), dtype=np.float32)
    for i, (start, _) in enumerate(places.tolist()):
        if start == SPECIAL:
            continue
        if inner[i]:
            shapes[i, :5] = shapes[i - 1, :5]
            shapes[i, 6] = 1.0
            continue
        last = i
        while last + 1 < len(places) and inner[last + 1]:
            last += 1
        word = text[start : places[last, 1]]
        shapes[i, :5] = (
            word[:1].isupper(),
            word.isupper() and len(word) > 1,
            any(letter.isdigit() for letter in word),
            not word[:1].isalnum(),
            any(letter.isupper() for letter in word[1:]),
        )
    shapes[1:, 5] = shapes[:-1, 0]
    return shapes
