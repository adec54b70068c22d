"""Are spans marked where they stand, and is nothing of the text lost or taken for a tag?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coral_backend.dashboard.marks import Piece, marked


def detail(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "label": "LOC", "score": 0.75, "flag": "clean", "words": "some", **more}


def test_spans_are_marked_where_they_stand() -> None:
    pieces = marked("\U0001f44d <b>Rome</b>", [detail("5:9", flag="noisy")])
    assert [piece.text for piece in pieces] == ["\U0001f44d <b>", "Rome", "</b>"]
    mark = pieces[1].mark
    assert mark is not None
    assert (mark.label, mark.flag, mark.kept, mark.score) == ("LOC", "noisy", True, 0.75)


def test_a_span_that_the_verdict_leaves_out_is_told_apart() -> None:
    mark = marked("Rome", [detail("0:4", label=None, llm_label="PER", flag="inconsistent")])[0].mark
    assert mark is not None
    assert (mark.label, mark.kept, mark.score) == ("PER", False, 0.25)


def test_of_overlapping_spans_the_doubtful_one_is_shown() -> None:
    pieces = marked("New York Times", [detail("0:14"), detail("0:8", flag="noisy")])
    assert [(piece.text, piece.mark is not None) for piece in pieces] == [("New York", True), (" Times", False)]


def test_spans_of_one_of_several_controls_are_marked_whatever_it_is_called() -> None:
    for control in ("names", "a/b", "0:1"):
        pieces = marked("in Rome", [detail(control, words=""), detail(f"{control}/3:7")])
        assert [(piece.text, piece.mark is not None) for piece in pieces] == [("in ", False), ("Rome", True)]


def test_what_is_no_span_is_passed_over() -> None:
    odd = [detail("topic"), detail("3:2"), detail("0:99"), detail("a:b"), detail("1:"), detail("0:2", words=""), {}]
    assert marked("text", odd) == [Piece("text")]
    assert marked("text", None) == [Piece("text")]
    assert marked("", [detail("0:1")]) == []


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 45), st.integers(0, 45)), max_size=6))
def test_the_pieces_are_the_text(text: str, places: list[tuple[int, int]]) -> None:
    assert "".join(piece.text for piece in marked(text, [detail(f"{a}:{b}") for a, b in places])) == text
