"""Do all annotators keep the contract, and do the two without an endpoint answer rightly?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from coral_backend.exceptions import RoundStopped
from coral_backend.llm.base import Annotator, asked
from coral_backend.llm.client import Endpoint
from coral_backend.llm.embedded import EmbeddedAnnotator, label_vectors, probabilities
from coral_backend.llm.openai import OpenAIAnnotator
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.recorded import RecordedAnnotator
from coral_backend.types import Answer, Demo, Floats, LabelSpace, Sample
from strategies.tasks import load
from tests.scripted_openai import ScriptedOpenAI

SPACE = LabelSpace("Choices", "topic", "text", "text", ("billing", "delivery"), {"billing": "a charge or an invoice"})
WORDS = ("billing", "charge", "invoice", "delivery", "parcel", "late", "text", "topic")


def embed(texts: Sequence[str]) -> Floats:
    """Count words: enough of an encoder to see which text lies near which label."""
    rows = [[float(text.lower().count(word)) for word in WORDS] + [0.1] for text in texts]
    vectors = np.array(rows)
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@pytest.fixture(params=["openai", "embedded", "recorded"])
def annotator(request: pytest.FixtureRequest) -> Iterator[Annotator]:
    with ScriptedOpenAI() as server:
        who: dict[str, Callable[[], Annotator]] = {
            "openai": lambda: OpenAIAnnotator(Endpoint(server.base_url, "none", "scripted")),
            "embedded": lambda: EmbeddedAnnotator(embed),
            "recorded": lambda: RecordedAnnotator("llm_label"),
        }
        yield who[request.param]()


def run(who: Annotator, samples: Sequence[Sample], demos: Sequence[Demo] = ()) -> dict[int, Answer]:
    answers: dict[int, Answer] = {}

    def on_answer(sample: Sample, answer: Answer) -> None:
        assert sample.task_id not in answers
        answers[sample.task_id] = answer

    who.annotate(asked(samples, Prompt.build(load("topic"), SPACE, demos)), on_answer, lambda: None)
    return answers


# --- the contract --------------------------------------------------------------------------------------------------


def test_each_sample_is_answered_once(annotator: Annotator) -> None:
    mixed = [
        Sample(0, "", problem="no 'text' in it"),
        Sample(1, " "),
        Sample(2, "late\x00 parcel \ud800", recorded="billing"),
    ]
    many = [Sample(i, f"the parcel {i % 90} is late", recorded="delivery") for i in range(3, 203)]
    answers = run(annotator, [*mixed, *many])
    assert sorted(answers) == list(range(203))
    assert answers[0] == Answer(None, reason="no 'text' in it", annotator=annotator.name)
    assert answers[1].label is None
    for answer in answers.values():
        assert answer.annotator == annotator.name
        assert (answer.label is None) == (answer.reason is not None)
        assert answer.label is None or answer.label in SPACE.labels or annotator.is_llm
        assert answer.confidence is None or 0.0 <= answer.confidence <= 1.0


def test_no_samples(annotator: Annotator) -> None:
    assert run(annotator, []) == {}


def test_check_stops_the_work(annotator: Annotator) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RoundStopped("paused")

    answers: list[Answer] = []
    with pytest.raises(RoundStopped):
        annotator.annotate(
            asked(
                [Sample(i, f"text {i}", recorded="billing") for i in range(1_000)], Prompt.build(load("topic"), SPACE)
            ),
            lambda sample, answer: answers.append(answer),
            check,
        )
    assert len(answers) < 1_000


# --- recorded ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "label", "reason"),
    [
        ("billing", "billing", None),
        (" Delivery ", "delivery", None),
        ("", None, "'llm_label' holds no label"),
        (None, None, "'llm_label' holds no label"),
        ("refunds", None, "'refunds' is none of the 2 labels"),
    ],
)
def test_recorded_labels(recorded: str | None, label: str | None, reason: str | None) -> None:
    answer = run(RecordedAnnotator("llm_label"), [Sample(1, "text", recorded=recorded)])[1]
    assert answer.label == label
    assert answer.annotator == "recorded:llm_label"
    assert (reason is None and answer.reason is None) or (reason or "") in (answer.reason or "")


# --- embedded ------------------------------------------------------------------------------------------------------


def test_embedded_takes_the_nearest_label_and_says_that_it_is_no_llm() -> None:
    who = EmbeddedAnnotator(embed)
    answers = run(who, [Sample(1, "this invoice has a charge"), Sample(2, "a late parcel, delivery failed")])
    assert [answers[1].label, answers[2].label] == ["billing", "delivery"]
    assert all(0.5 < (answer.confidence or 0.0) <= 1.0 for answer in answers.values())
    assert who.name == "embedded:all-MiniLM-L6-v2"
    assert not who.is_llm


def test_embedded_learns_from_demonstrations() -> None:
    text = [Sample(1, "late")]
    before = run(EmbeddedAnnotator(embed), text)[1]
    demos = [Demo("so late", "delivery")] * 8 + [Demo("an invoice", "billing")] * 8
    after = run(EmbeddedAnnotator(embed), text, demos)[1]
    assert after.label == "delivery"
    assert (after.confidence or 0.0) > (before.confidence or 0.0)


def test_embedded_vectors_and_probabilities_by_hand() -> None:
    prompt = Prompt.build(load("topic"), SPACE)
    vectors = label_vectors(prompt, embed)
    assert vectors.shape == (2, len(WORDS) + 1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)
    probs = probabilities(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.94, 0.0]]))
    # One temperature apart: odds of e.
    np.testing.assert_allclose(probs[0], [np.e / (1 + np.e), 1 / (1 + np.e)])
    np.testing.assert_allclose(probs[1], [0.5, 0.5])


def test_embedded_does_well_on_the_shipped_corpus() -> None:
    encoder = pytest.importorskip("coral_backend.slm.encoder")
    data = pytest.importorskip("coral_backend.demo.data")
    assert Path(data.SHIPPED).is_file()
    corpus = data.shipped(70)
    space = LabelSpace("Choices", "topic", "text", "text", tuple(corpus.labels), corpus.definitions)
    samples = [Sample(i, row.text) for i, row in enumerate(corpus.rows)]
    answers: dict[int, Answer] = {}
    EmbeddedAnnotator(encoder.Encoder.load("embedded", 128).embed).annotate(
        asked(samples, Prompt.build(load("topic"), space)), lambda s, a: answers.update({s.task_id: a}), lambda: None
    )
    right = sum(answers[i].label == row.gold for i, row in enumerate(corpus.rows))
    assert right / len(samples) > 0.5, "seven topics: chance is 0.14, measured 0.62 on all of it"


def test_equal_texts_are_all_answered_whenever_they_join() -> None:
    """A text can be read while the answer to its twin is being committed; it must get that answer too."""
    with ScriptedOpenAI() as server:
        for different in range(5, 15):
            who = OpenAIAnnotator(Endpoint(server.base_url, "none", "scripted", concurrency=8))
            answers = run(who, [Sample(i, f"the parcel {i % different} is late") for i in range(400)])
            assert len(answers) == 400
