"""Does every task get a verdict with a detail for each of its spans, as the labels stand now? Without a training: the arrays are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coral_backend import corpus_arrays, span_arrays
from coral_backend.kinds import Work
from coral_backend.kinds.spans import SpanAnswers, SpanLabels
from coral_backend.labels import Span, read_spans, write_spans
from coral_backend.slm.span_engine import Seen
from coral_backend.span_arrays import SpanArrays
from coral_backend.store import Store
from coral_backend.types import Answer, Flag, HumanLabel, Sample, Source, Verdict
from tests.web_parts import settings_in

CONFIG = '<View><Text name="text" value="$text"/><Labels name="label" toName="text"><Label value="PER"/><Label value="LOC"/></Labels></View>'
BOB, ROME = Span(0, 3, "PER"), Span(11, 15, "LOC")
TEXT = "Bob was in Rome"
USUAL = 24
"""Tasks that are as they should be, so that labels are known and rates are usual."""


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """Return a round with 29 tasks: what LLM and SLM say of the first few is told by ``said`` and ``seen``."""
    from coral_backend.backend import connect_project

    settings = settings_in(tmp_path)
    store = Store(settings.store_url)
    connect_project(store, settings, 1, CONFIG, title="Names")
    samples = [Sample(i, TEXT) for i in range(1, USUAL + 6)]
    samples.append(Sample(99, "", problem="'text' is empty"))
    store.put_samples(1, samples)
    current = store.create_round(1, settings.public())
    lease = store.take_lease("test")
    assert lease is not None
    said: dict[int, str | None] = {s.task_id: write_spans([BOB, ROME]) for s in samples}
    said |= {1: write_spans([BOB, ROME._replace(label="PER")]), 2: write_spans([BOB]), 3: None, 4: "[]"}
    with store.together():
        for sample in samples[:-1]:
            answer = Answer(said[sample.task_id], reason=None if said[sample.task_id] else "refused")
            store.put_llm_label(1, current.number, sample, answer, prompt_version="v", lease=lease)
    seen = [Seen(i, span, 0.95, 0.05, decoded=True) for i in range(len(samples) - 1) for span in (BOB, ROME)]
    seen.append(Seen(0, ROME._replace(label="PER"), 0.0005, 4.0, decoded=False))
    p_clean = np.array([0.02 if one.p < 0.5 else 0.98 for one in seen])
    folder = corpus_arrays.round_folder(settings, current)
    ids = [s.task_id for s in samples[:-1]]
    span_arrays.save(folder, SpanArrays.of(seen, p_clean, ids, ("PER", "LOC")))
    corpus_arrays.save_arrays(folder, np.array(ids), SpanAnswers.of(np.ones((len(ids), 2), dtype=np.float32)))
    yield Work(store, store.project(1), settings, folder)
    store.close()


def judged(work: Work) -> dict[int, Verdict]:
    found = SpanLabels().judge(work)
    assert found is not None
    return {verdict.task_id: verdict for verdict in found.verdicts}


def test_every_task_has_a_verdict_and_every_span_a_detail(work: Work) -> None:
    found = judged(work)
    assert sorted(found) == [*range(1, USUAL + 6), 99]
    assert sorted(v.rank for v in found.values()) == list(range(1, USUAL + 7))
    usual = found[10]
    assert (usual.flag, usual.source, usual.label) == (Flag.CLEAN, Source.LLM, write_spans([BOB, ROME]))
    assert [(d.name, d.label, d.words, d.flag) for d in usual.details] == [
        ("0:3", "PER", "Bob", Flag.CLEAN),
        ("11:15", "LOC", "Rome", Flag.CLEAN),
    ]


def test_a_wrong_type_is_put_right_and_shown_with_both_opinions(work: Work) -> None:
    verdict = judged(work)[1]
    assert set(read_spans(verdict.label) or ()) == {BOB, ROME}
    assert verdict.flag is Flag.INCONSISTENT
    assert verdict.source is Source.SLM
    assert verdict.prediction_label == write_spans([BOB, ROME._replace(label="PER")]), (
        "the form shows what the LLM said"
    )
    rome = next(d for d in verdict.details if d.words == "Rome")
    assert (rome.label, rome.llm_label, rome.slm_label, rome.source) == ("LOC", "PER", "LOC", Source.SLM)


def test_a_missing_span_makes_its_task_doubtful(work: Work) -> None:
    found = judged(work)
    assert found[2].flag is not Flag.CLEAN
    assert found[2].score is not None
    assert found[10].score is not None
    assert found[2].score < found[10].score
    missing = next(d for d in found[2].details if d.words == "Rome")
    assert (missing.llm_label, missing.slm_label) == (None, "LOC")
    assert missing.flag is not Flag.CLEAN


def test_where_the_llm_did_not_answer_the_slm_pre_fills_and_no_spans_are_an_answer(work: Work) -> None:
    found = judged(work)
    assert (found[3].flag, found[3].prediction_label, found[3].llm_label) == (
        Flag.NOISY,
        write_spans([BOB, ROME]),
        None,
    )
    assert (found[4].prediction_label, found[4].llm_label) == ("[]", "[]")
    assert found[4].flag is not Flag.CLEAN, "the SLM sees two"


def test_a_persons_spans_count_whatever_machines_say_also_where_they_overlap(work: Work) -> None:
    theirs = write_spans([BOB, Span(0, 15, "LOC"), ROME])
    work.store.put_annotations(1, [HumanLabel(1, 1, theirs, 1, "2026-01-01"), HumanLabel(2, 2, "[]", 1, "2026-01-01")])
    found = judged(work)
    assert (found[1].label, found[1].source, found[1].score, found[1].flag) == (theirs, Source.HUMAN, 1.0, Flag.CLEAN)
    assert (found[2].label, found[2].source, found[2].flag) == ("[]", Source.HUMAN, Flag.CLEAN)
    assert set(read_spans(found[1].machine_label) or ()) == {BOB, ROME}, "what would be said without them is told, too"
    assert found[10].machine_label == found[10].label
    assert found[99].machine_label is None
    assert {found[1].rank, found[2].rank} == {USUAL + 4, USUAL + 5}, "behind everything that is still to be looked at"


def test_a_span_that_the_slm_has_not_judged_is_no_error(work: Work) -> None:
    odd = Span(4, 7, "PER")
    lease = work.store.take_lease("again")
    assert lease is not None
    number = work.store.rounds(1)[0].number + 1
    answer = Answer(write_spans([BOB, ROME, odd]))
    work.store.put_llm_label(1, number, Sample(7, TEXT), answer, prompt_version="v", lease=lease)
    verdict = judged(work)[7]
    assert odd in (read_spans(verdict.label) or ())
    assert next(d for d in verdict.details if d.words == "was").p_clean is None


def test_without_its_arrays_a_round_trains_again(work: Work) -> None:
    [current], space = work.store.rounds(1), work.project.label_space
    assert corpus_arrays.is_kept(work.settings, current, space)
    (work.folder / span_arrays.FILE).write_bytes(b"broken")
    assert not corpus_arrays.is_kept(work.settings, current, space), "a rollback to it could not label new tasks"
    assert SpanLabels().judge(work) is None
    assert SpanLabels().judge_new(work, []) is None
