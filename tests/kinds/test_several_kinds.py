"""Do a set or spans beside another control rank, and are they asked about again, as that control alone would be?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from coral_backend import review
from coral_backend.backend import connect_project
from coral_backend.kinds import Kind, Work
from coral_backend.kinds.base import Judged
from coral_backend.kinds.several import SeveralControls
from coral_backend.labels import Span, write_controls, write_spans
from coral_backend.store import Store
from coral_backend.types import Detail, Flag, HumanLabel, LabelSpace, Sample, Source, Verdict
from tests.web_parts import settings_in

CONFIG = """<View><Text name="text" value="$text"/>
<Choices name="mood" toName="text"><Choice value="bad"/><Choice value="good"/></Choices>
<Labels name="names" toName="text"><Label value="PER"/><Label value="LOC"/></Labels></View>"""
ANN, BOB = write_spans([Span(0, 3, "PER")]), write_spans([Span(8, 11, "PER")])
BOTH = ["mood", "names"]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    settings = settings_in(tmp_path)
    store = Store(settings.store_url)
    connect_project(store, settings, 1, CONFIG, title="Names")
    store.put_samples(1, [Sample(i, "Ann and Bob") for i in (1, 2)])
    yield Work(store, store.project(1), settings, tmp_path)
    store.close()


class Says:
    """A kind that says of both tasks what it was made with; the first is a person's."""

    def __init__(self, label: str, details: Sequence[Detail]) -> None:
        self._label, self._details = label, tuple(details)

    def judge(self, _work: Work) -> Judged:
        rest: dict[str, Any] = {"rank": 1, "details": self._details}
        person = Verdict(1, self._label, 1.0, Source.HUMAN, Flag.CLEAN, **rest)
        return Judged([person, Verdict(2, self._label, 1.0, Source.LLM, Flag.CLEAN, **rest)])


def test_a_task_that_a_person_labelled_in_full_comes_last_whatever_spans_were_taken_away(work: Work) -> None:
    denied = Detail("8:11", None, 1.0, Flag.CLEAN, llm_label="PER", words="Bob")
    kinds = {"mood": Says("good", ()), "names": Says(ANN, [Detail("0:3", "PER", 1.0, Flag.CLEAN), denied])}

    def kind_of(space: LabelSpace) -> Kind:
        return cast("Kind", kinds[space.from_name])

    found = SeveralControls(kind_of).judge(work)
    assert found is not None
    assert {one.task_id: one.rank for one in found.verdicts} == {1: 2, 2: 1}


def test_a_second_look_at_spans_beside_another_control_tells_their_words(work: Work) -> None:
    store, person = work.store, write_controls({"mood": "good", "names": ANN}, BOTH)
    store.put_annotations(1, [HumanLabel(1, 1, person, 7, "2026-01-01")])
    machines = write_controls({"mood": "good", "names": BOB}, BOTH)
    parts = (
        Detail("mood", "good", 1.0, Flag.CLEAN, Source.HUMAN, "good", "good", 0.99),
        Detail("names", ANN, 1.0, Flag.CLEAN, Source.HUMAN, BOB, BOB, 0.96),
    )
    verdict = Verdict(
        1, person, 1.0, Source.HUMAN, Flag.CLEAN, 1, llm_label=machines, slm_label=machines, slm_score=0.96, details=parts
    )  # fmt: skip
    [look] = review.ask_again(store, work.project, [verdict])
    assert look.machine_label == write_controls({"names": BOB}, BOTH)
    told = review._look_values(store, work.project)[1]
    assert told[0].startswith("Person: names: PER: Ann · LLM and SLM: names: PER: Bob (")
