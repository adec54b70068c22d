"""Do tokens stand where they stand, and does the SLM learn spans, doubt wrong ones, and come back from its files?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coral_backend.exceptions import ModelFileError, RoundStopped, TrainingError
from coral_backend.labels import Span
from coral_backend.slm.corpus import SLMConfig
from coral_backend.slm.encoder import EMBEDDED, Encoder
from coral_backend.slm.span_engine import SpanCorpus, SpanModel, SpansDistilled, distil_spans
from coral_backend.slm.tokens import cut
from strategies.distillation.bio import Range

PEOPLE, PLACES = ("Anna", "Bob", "Carla", "Hugo"), ("Rome", "Oslo", "Paris", "Lima")
WRONG = 7
"""The text whose person is called a place."""


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(EMBEDDED, 32)


def words_of(encoder: Encoder, text: str) -> list[str]:
    return [text[a:b] for piece in cut(encoder, [text]) for a, b in piece.places[piece.real].tolist()]


def test_tokens_stand_where_they_stand(encoder: Encoder) -> None:
    text = " \r\n\U0001f44d\U0001f3fd cafe\u0301\x00 Bob's \u6771\u4eac \ud800!"
    piece = cut(encoder, [text])[0]
    assert words_of(encoder, text)[-2:] != []
    assert "Bob" in words_of(encoder, text)
    at = text.index("Bob")
    one = piece.range_of(Span(at, at + 3, "PER"), 0)
    assert one is not None
    assert piece.span_of(one, "PER", text) == Span(at, at + 3, "PER")
    cafe = piece.range_of(Span(6, 11, "LOC"), 1)
    assert cafe is not None
    assert piece.span_of(cafe, "LOC", text) == Span(6, 11, "LOC"), "the accent that the tokenizer drops is a part of it"
    tokyo = text.index("\u6771")
    assert not piece.inner[piece.places[:, 0] == tokyo + 1].any(), "a script without blanks has words of one character"


def test_a_long_text_is_cut_where_a_word_begins_and_every_word_is_in_one_piece(encoder: Encoder) -> None:
    text = " ".join(f"word{i}" for i in range(200))
    pieces = cut(encoder, ["short", text])
    assert [piece.sample for piece in pieces[:2]] == [0, 1]
    assert len(pieces) > 3
    assert all(len(piece.places) <= 32 for piece in pieces)
    joined = "".join(piece.text for piece in pieces[1:])
    assert joined == text
    seen = np.zeros(len(text), dtype=bool)
    for piece in pieces[1:]:
        for a, b in piece.places[piece.real].tolist():
            seen[a:b] = True
    assert all(seen[i] or text[i] == " " for i in range(len(text)))
    border = int(pieces[2].places[1, 0])
    over = Span(border - 4, border + 3, "PER")
    assert all(piece.range_of(over, 0) is None for piece in pieces), "a span over a cut is no one's"


def test_a_text_without_tokens_has_no_spans(encoder: Encoder) -> None:
    piece = cut(encoder, ["   "])[0]
    assert not piece.real.any()
    assert piece.range_of(Span(0, 2, "PER"), 0) is None


def corpus() -> tuple[SpanCorpus, list[set[Span]]]:
    """Return sentences with what is right; the LLM errs on one and is silent on another."""
    texts, right = [], []
    for i in range(48):
        person, place = PEOPLE[i % 4], PLACES[(i // 4) % 4]
        text = (f"{person} went to {place}", f"In {place} we saw {person}", f"Yesterday {person} left {place}")[i % 3]
        texts.append(text)
        right.append({Span(text.index(w), text.index(w) + len(w), k) for w, k in ((person, "PER"), (place, "LOC"))})
    llm: list[tuple[Span, ...] | None] = [tuple(sorted(spans)) for spans in right]
    llm[WRONG] = tuple(span._replace(label="LOC") for span in llm[WRONG] or ())
    llm[20] = None
    human: list[tuple[Span, ...] | None] = [None] * 48
    human[0] = llm[0]
    return SpanCorpus(texts, llm, human, ("LOC", "PER")), right


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[SpansDistilled, Path]:
    folder = tmp_path_factory.mktemp("model") / "model"
    told: list[int] = []
    found = distil_spans(
        corpus()[0], SLMConfig(epochs=2, max_length=32), progress=lambda done, *_: told.append(done), save_to=folder
    )
    assert told
    return found, folder


def test_right_spans_are_seen_and_the_wrong_one_is_doubted(distilled: tuple[SpansDistilled, Path]) -> None:
    found, (given, right) = distilled[0], corpus()
    of_llm = {(one.row, one.span): one.p for one in found.seen if one.span in (given.llm[one.row] or ())}
    assert len(of_llm) == sum(len(spans or ()) for spans in given.llm)
    wrong = [p for (row, span), p in of_llm.items() if span not in right[row]]
    good = [p for (row, span), p in of_llm.items() if span in right[row]]
    assert len(wrong) == 1
    assert wrong[0] < np.median(good)
    assert all(0.0 <= p <= 1.0 for p in of_llm.values())
    assert found.features.shape == (48, 384)
    assert np.isfinite(found.features).all()
    assert any("1 of 48 texts have no answer" in note for note in found.notes)
    assert [record["stage"] for record in found.history] == ["warm-up", "warm-up", "training", "training"]


def test_the_model_comes_back_from_its_files_and_reads_new_texts(distilled: tuple[SpansDistilled, Path]) -> None:
    model = SpanModel.load(distilled[1])
    text = "Yesterday Hugo went to Oslo"
    said = Span(10, 14, "LOC")
    seen, features = model.predict([text, ""], [[said], []])
    assert features.shape == (2, 384)
    assert said in {one.span for one in seen}, "what was said is among it, right or wrong"
    assert {one.row for one in seen} == {0}
    assert model.predict([text], [[]])[0] == SpanModel.load(distilled[1]).predict([text], [[]])[0]
    assert model.predict([], [])[1].shape == (0, 384)


def test_too_little_is_told_and_a_stop_leaves_nothing(tmp_path: Path) -> None:
    alone = SpanCorpus(["Bob"], [(Span(0, 3, "PER"),)], [None], ("PER",))
    with pytest.raises(TrainingError, match="1 of 1 texts were answered"):
        distil_spans(alone, SLMConfig(), progress=lambda *_: None, save_to=tmp_path / "model")

    def stop(*_: object) -> None:
        raise RoundStopped("paused")

    with pytest.raises(RoundStopped):
        distil_spans(corpus()[0], SLMConfig(epochs=1, max_length=32), progress=stop, save_to=tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(ModelFileError):
        SpanModel.load(tmp_path / "model")


def test_ranges_of_tokens_are_what_was_marked(encoder: Encoder) -> None:
    piece = cut(encoder, ["Anna went"])[0]
    assert piece.range_of(Span(0, 4, "PER"), 1) == Range(1, 1, 1)
    assert piece.range_of(Span(0, 9, "PER"), 1) == Range(1, 2, 1)
    assert piece.range_of(Span(4, 5, "PER"), 1) is None, "a blank has no token"
