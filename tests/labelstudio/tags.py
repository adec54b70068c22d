"""One label config for each control tag that is served, with what people's forms send for each of its labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coral_backend.labels import Span, write_set, write_spans
from coral_backend.labelstudio.control_tags.paths import joined

TEXT = '<Text name="text" value="$text"/>'
TREE = (
    '<Choice value="Animal"><Choice value="Cat" hint="it purrs"/><Choice value="a &gt; b"/></Choice>'
    '<Choice value="Plant" alias="flora"><Choice value="Oak"/></Choice><Choice value="Stone"/>'
)


@dataclass(frozen=True)
class Case:
    """A config, the data of a task of it, its label space in short, and the ``value`` a form sends for each label."""

    name: str
    xml: str
    values: dict[str, dict[str, Any]]
    data: dict[str, Any]
    text: str
    to_name: str = "text"
    """What the form itself writes; of a Pairwise it is the control's own name."""
    tag: str = "Choices"
    labels: tuple[str, ...] = ()
    """Of a control where several may be chosen; `values` are then of sets of them."""
    spans: dict[str, list[dict[str, Any]]] | None = None
    """Of a control that marks spans: what can be said -> the ``value`` of each region; `values` are then of one label each."""

    @property
    def said(self) -> tuple[str, ...]:
        """Things that can be said of the task, as ``labels.py`` writes them."""
        return tuple(self.values if self.spans is None else self.spans)

    def result(self, said: str) -> list[dict[str, Any]]:
        """Return what a form sends when that is said in it: of an empty set nothing."""
        values = [self.values[said]] if self.spans is None else self.spans[said]
        base = {"from_name": "label", "to_name": self.to_name, "type": self.tag.lower(), "origin": "manual"}
        return [{"id": f"person{i}", **base, "value": value} for i, value in enumerate(values) if value]


def _view(inside: str, target: str = TEXT) -> str:
    return f"<View>{target}{inside}</View>"


def _paths(key: str, *paths: list[str]) -> list[dict[str, Any]]:
    return [{key: [path]} for path in paths]


def _sets(key: str, *chosen: list[Any]) -> dict[str, dict[str, Any]]:
    """Return the values of sets of labels or paths; of an empty one Label Studio sends nothing at all."""
    names = [[one if isinstance(one, str) else joined(one) for one in some] for some in chosen]
    return {write_set(own, own): {key: some} if some else {} for own, some in zip(names, chosen, strict=True)}


_TWO = '<Choices name="label" toName="text"><Choice value="a"/><Choice value="b"/></Choices>'
_AB = {"a": {"choices": ["a"]}, "b": {"choices": ["b"]}}
_LEAVES = [["Animal", "Cat"], ["Animal", "a > b"], ["flora", "Oak"], ["Stone"]]
_LEAF_LABELS = ("Animal > Cat", "Animal > a \\> b", "flora > Oak", "Stone")
_ALL = [["Animal"], *_LEAVES[:2], ["flora"], *_LEAVES[2:]]
_ALL_LABELS = ("Animal", *_LEAF_LABELS[:2], "flora", *_LEAF_LABELS[2:])
_DATA, _SAID = {"text": "a text"}, "a text"

BEFORE_SPANS = " \t\r\n\n \x07\U0001f44d\U0001f3fd cafe\u0301 <b"
"""Eighteen characters that move offsets where something is stripped, folded, joined or counted in UTF-16."""


def _spans(*spans: tuple[int, int, str]) -> str:
    return write_spans([Span(*span) for span in spans])


CASES = (
    Case("choices", _view(_TWO), _AB, _DATA, _SAID),
    Case(
        "nested choices",
        _view(f'<Choices name="label" toName="text" allowNested="true">{TREE}</Choices>'),
        dict(zip(_LEAF_LABELS, _paths("choices", *_LEAVES), strict=True)),
        _DATA,
        _SAID,
    ),
    Case(
        "several choices",
        _view(_TWO.replace("<Choices", '<Choices choice="multiple"')),
        _sets("choices", [], ["b"], ["a", "b"]),
        _DATA,
        _SAID,
        labels=("a", "b"),
    ),
    Case(
        "several choices, at least one",
        _view(_TWO.replace("<Choices", '<Choices choice="multiple" required="true"')),
        _sets("choices", ["a"], ["a", "b"]),
        _DATA,
        _SAID,
        labels=("a", "b"),
    ),
    Case(
        "several nested choices",
        _view(f'<Choices name="label" toName="text" choice="multiple" allowNested="true">{TREE}</Choices>'),
        _sets("choices", [], [_LEAVES[3]], [_LEAVES[0], _LEAVES[1], _LEAVES[2]]),
        _DATA,
        _SAID,
        labels=_LEAF_LABELS,
    ),
    Case(
        "taxonomy of several",
        _view(f'<Taxonomy name="label" toName="text">{TREE}</Taxonomy>'),
        _sets("taxonomy", [], [_ALL[0]], [_ALL[0], _ALL[1]], [_ALL[3], _ALL[5]]),
        _DATA,
        _SAID,
        tag="Taxonomy",
        labels=_ALL_LABELS,
    ),
    Case(
        "taxonomy",
        _view(f'<Taxonomy name="label" toName="text" maxUsages="1">{TREE}</Taxonomy>'),
        dict(zip(_ALL_LABELS, _paths("taxonomy", *_ALL), strict=True)),
        _DATA,
        _SAID,
        tag="Taxonomy",
    ),
    Case(
        "taxonomy of leaves",
        _view(f'<Taxonomy name="label" toName="text" maxUsages="1" leafsOnly="true">{TREE}</Taxonomy>'),
        dict(zip(_LEAF_LABELS, _paths("taxonomy", *_LEAVES), strict=True)),
        _DATA,
        _SAID,
        tag="Taxonomy",
    ),
    Case(
        "rating",
        _view('<Rating name="label" toName="text" maxRating="3"/>'),
        {str(stars): {"rating": stars} for stars in (1, 2, 3)},
        _DATA,
        _SAID,
        tag="Rating",
    ),
    Case(
        "pairwise",
        '<View><Pairwise name="label" toName="one,two"/><Text name="one" value="$a"/><Text name="two" value="$b"/></View>',
        {"left": {"selected": "left"}, "right": {"selected": "right"}},
        data={"a": "first\nRight:\n> second", "b": "other"},
        text="Left:\n> first\n> Right:\n> > second\n\nRight:\n> other",
        to_name="label",
        tag="Pairwise",
    ),
    Case(
        "labels",
        _view(
            '<Labels name="label" toName="text"><Label value="person" alias="PER" hint="a name"/><Label value="LOC"/></Labels>'
        ),
        {label: {"start": 0, "end": 1, "labels": [label]} for label in ("PER", "LOC")},
        data={"text": BEFORE_SPANS + "Bob in Rome"},
        text=BEFORE_SPANS.replace("\x07", " ") + "Bob in Rome",
        tag="Labels",
        spans={
            "[]": [],
            _spans((18, 21, "PER")): [{"start": 18, "end": 21, "text": "Bob", "labels": ["PER"]}],
            _spans((18, 21, "PER"), (18, 29, "LOC"), (25, 29, "LOC")): [
                {"start": 25, "end": 29, "text": "not what is there", "labels": ["LOC"]},
                {"start": 18, "end": 29, "labels": ["LOC"]},
                {"start": 18, "end": 21, "text": "Bob", "labels": ["PER"]},
            ],
            _spans((25, 29, "PER"), (25, 29, "LOC")): [{"start": 25, "end": 29, "labels": ["PER", "LOC"]}],
        },
    ),
    Case(
        "choices on a page",
        _view(_TWO, '<HyperText name="text" value="$page" inline="true"/>'),
        _AB,
        data={"page": "<style>p {}</style><p>So &lt;b&gt; <b>bold</b></p><p>a &amp;amp; b</p>"},
        text="So <b> bold\na &amp; b",
    ),
    Case(
        "choices on a dialogue",
        _view(_TWO, '<Paragraphs name="text" value="$talk" layout="dialogue" nameKey="who"/>'),
        _AB,
        data={"talk": [{"who": "Ann", "text": "Hi"}, {"text": "Who is it?"}, {"who": "Ann", "text": ""}]},
        text="Ann: Hi\nWho is it?",
    ),
    Case(
        "choices on a row",
        _view(_TWO, '<Table name="text" value="$row"/>'),
        _AB,
        data={"row": {"job": "nurse", "age": 41, "income": 52000.5, "left": None, "vip": True}},
        text='{"age": 41, "income": 52000.5, "job": "nurse", "left": null, "vip": true}',
    ),
    Case(
        "choices on fields",
        _view(_TWO, '<Text name="text" value="Job: $job; age: $age"/>'),
        _AB,
        data={"age": 41, "job": "nurse", "hint": ""},
        text='{"job": "nurse", "age": 41}',
    ),
)
