"""How are labelled spans learned and judged? A token classifier, and a decision about every span that LLM or SLM sees."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from coral_backend import corpus_arrays, span_arrays
from coral_backend.kinds.base import Judged, Work
from coral_backend.labels import Span, read_spans, write_spans
from coral_backend.span_arrays import Opinion, SpanArrays
from coral_backend.types import Answer, Detail, Flag, Floats, HumanLabel, LabelSpace, Progress, Sample, Source, Verdict

if TYPE_CHECKING:
    from strategies.review.spans import SpanDecision

__all__ = ["SpanLabels"]

QUIET = 0.98
"""Probability that a text is right in which neither LLM nor SLM sees anything."""

UNANSWERED = Answer(None)


@dataclass(frozen=True)
class SpanAnswers:
    """What is kept of the texts beside their spans, so that maps and demonstrations work as for other kinds; see ``SLMAnswers``."""

    probs: Floats
    losses: Floats
    p_clean: Floats
    features: Floats

    @classmethod
    def of(cls, features: Floats) -> SpanAnswers:
        """Return features alone: classes of whole texts there are none."""
        unknown = np.full(len(features), np.nan)
        return cls(np.zeros((len(features), 1)), unknown, unknown, features)


class SpanLabels:
    """Labelled spans of a text."""

    def distil(self, work: Work, progress: Progress) -> Mapping[str, Any]:
        """Train the SLM on the spans as they stand; see ``slm/span_engine.py`` ``distil_spans``."""
        from coral_backend.slm.corpus import SLMConfig
        from coral_backend.slm.span_engine import SpanCorpus, distil_spans

        store, project = work.store, work.project
        samples = [s for s in store.samples(project.id) if s.problem is None]
        answers, human, space = store.llm_labels(project.id), store.human_labels(project.id), project.label_space
        llm = [_spans(space, answers.get(s.task_id, UNANSWERED).label) for s in samples]
        persons = [_spans(space, human[s.task_id].label) if s.task_id in human else None for s in samples]
        corpus = SpanCorpus([s.text for s in samples], llm, persons, space.labels)
        config = SLMConfig.from_settings(work.settings)
        found = distil_spans(corpus, config, progress=progress, save_to=work.folder / "model")
        task_ids = [s.task_id for s in samples]
        p_clean = _posterior(found.split, np.array([one.loss for one in found.seen]))
        span_arrays.save(work.folder, SpanArrays.of(found.seen, p_clean, task_ids, space.labels))
        ids = np.array(task_ids, dtype=np.int64)
        corpus_arrays.save_arrays(work.folder, ids, SpanAnswers.of(found.features))
        return {
            "history": found.history,
            "gmm": found.split.to_json() if found.split is not None else {},
            "notes": found.notes,
            "slm_seconds": found.seconds,
        }

    def judge(self, work: Work) -> Judged | None:
        """Turn the LLM's spans, the SLM's probabilities and people's spans into verdicts."""
        arrays = span_arrays.load(work.folder)
        tasks = corpus_arrays.load_arrays(work.folder)
        if arrays is None or tasks is None:
            return None
        return Judged(_judged(work, arrays, set(tasks.task_ids.tolist())))

    def judge_new(self, work: Work, samples: Sequence[Sample]) -> list[Verdict] | None:
        """Judge new samples beside the corpus of the round."""
        from coral_backend.slm.span_engine import SpanModel

        arrays, tasks = span_arrays.load(work.folder), corpus_arrays.load_arrays(work.folder)
        if arrays is None or tasks is None:
            return None
        model, space = SpanModel.load(work.folder / "model"), work.project.label_space
        answers = work.store.llm_labels(work.project.id)
        said = [_spans(space, answers.get(s.task_id, UNANSWERED).label) or () for s in samples]
        seen, features = model.predict([s.text for s in samples], said)
        ids = [s.task_id for s in samples]
        new = SpanArrays.of(seen, _posterior(model.split, np.array([one.loss for one in seen])), ids, space.labels)
        arrays, tasks = arrays.extended(new, ids), tasks.extended(ids, SpanAnswers.of(features))
        span_arrays.save(work.folder, arrays)
        corpus_arrays.save_arrays(work.folder, tasks.task_ids, tasks)
        return _judged(work, arrays, set(tasks.task_ids.tolist()))


@dataclass(frozen=True)
class _Task:
    """A task with everything that is said about it; `opinions` are the SLM's."""

    sample: Sample
    llm: tuple[Span, ...] | None
    human: tuple[Span, ...] | None
    opinions: Mapping[Span, Opinion]

    @property
    def spans(self) -> list[Span]:
        """Return every span that anybody sees, in the order of the text."""
        return sorted({*(self.llm or ()), *(self.human or ()), *self.opinions})


def _judged(work: Work, arrays: SpanArrays, known: set[int]) -> list[Verdict]:
    from strategies.review.ranking import review_order
    from strategies.review.spans import Candidates, decide_spans, doubtfulness

    store, project = work.store, work.project
    space, answers, human = project.label_space, store.llm_labels(project.id), store.human_labels(project.id)
    samples, opinions = store.samples(project.id), arrays.by_task(space.labels)
    tasks = [
        _Task(
            s,
            _spans(space, answers.get(s.task_id, UNANSWERED).label),
            _spans(space, human[s.task_id].label) if s.task_id in human else None,
            opinions.get(s.task_id, {}),
        )
        for s in samples
        if s.problem is None and s.task_id in known
    ]
    rows = [(row, task, span) for row, task in enumerate(tasks) for span in task.spans]
    seen = [task.opinions.get(span) for _, task, span in rows]
    said = np.array([span in (task.llm or ()) for _, task, span in rows], dtype=bool)
    candidates = Candidates(
        task=np.array([row for row, *_ in rows], dtype=np.int64),
        start=np.array([span.start for *_, span in rows], dtype=np.int64),
        end=np.array([span.end for *_, span in rows], dtype=np.int64),
        kind=np.array([space.labels.index(span.label) for *_, span in rows], dtype=np.int64),
        p=np.array([np.nan if one is None else one.p for one in seen], dtype=float),
        said=said,
        asked=np.array([task.llm is not None for _, task, _ in rows], dtype=bool),
        p_clean=np.where(said, [np.nan if one is None else one.p_clean for one in seen], np.nan),
        checked=np.array([task.human is not None for _, task, _ in rows], dtype=bool),
        right=np.array([span in (task.human or ()) for _, task, span in rows], dtype=bool),
    )
    decision = decide_spans(candidates, p_threshold=work.settings.p_threshold)
    # Nothing is known of a text that the LLM did not answer and in which the SLM sees nothing.
    usual = [1.0 if task.human is not None else 0.5 if task.llm is None else QUIET for task in tasks]
    scores = doubtfulness(candidates.task, len(tasks), decision, usual)
    done = np.array([task.human is not None for task in tasks], dtype=bool)
    ranks = review_order(scores, done)
    places: list[list[int]] = [[] for _ in tasks]
    for i, (row, *_) in enumerate(rows):
        places[row].append(i)
    verdicts = [
        replace(
            _verdict(task, list(zip(task.spans, places[row], strict=True)), decision, human),
            score=float(scores[row]),
            rank=int(ranks[row]),
        )
        for row, task in enumerate(tasks)
    ]
    unreadable = [s for s in samples if s.problem is not None]
    return verdicts + corpus_arrays.unreadable(unreadable, human, len(verdicts))


def _verdict(
    task: _Task,
    candidates: Sequence[tuple[Span, int]],
    decision: SpanDecision,
    human: Mapping[int, HumanLabel],
) -> Verdict:
    """Return the verdict on a task, without its score and place in the queue."""
    text, task_id = task.sample.text, task.sample.task_id
    kept = [span for span, i in candidates if decision.kept[i]]
    slm = _decoded(task.opinions)
    shown = task.human if task.human is not None else task.llm if task.llm is not None else slm
    noisy = task.human is None and (task.llm is None or any(decision.noisy[i] for _, i in candidates))
    inconsistent = any(decision.inconsistent[i] for _, i in candidates)
    label = human[task_id].label if task.human is not None else write_spans(kept)
    said = [task.opinions[span] for span in task.llm or () if span in task.opinions]
    sure = [float(decision.p_right[i]) if span in shown else 1.0 - float(decision.p_right[i]) for span, i in candidates]
    source = Source.LLM if task.llm is not None and set(kept) == set(task.llm) else Source.SLM
    return Verdict(
        task_id=task_id,
        label=label,
        score=None,
        source=Source.HUMAN if task.human is not None else source,
        flag=Flag.INCONSISTENT if inconsistent else Flag.NOISY if noisy else Flag.CLEAN,
        rank=0,
        prediction_label=label if task.human is not None else write_spans(shown),
        prediction_score=1.0 if task.human is not None else min(sure, default=QUIET),
        llm_label=None if task.llm is None else write_spans(task.llm),
        slm_label=write_spans(slm),
        slm_score=min((task.opinions[span].p for span in slm), default=QUIET),
        p_clean=min((one.p_clean for one in said if np.isfinite(one.p_clean)), default=None),
        loss=max((one.loss for one in said), default=None),
        content_hash=task.sample.content_hash,
        machine_label=write_spans([span for span, i in candidates if decision.machine[i]]),
        details=tuple(_details(task, candidates, decision, set(slm), text)),
    )


def _details(
    task: _Task, candidates: Sequence[tuple[Span, int]], decision: SpanDecision, slm: set[Span], text: str
) -> list[Detail]:
    """Return what was decided about each place that somebody marks, or that is doubtful."""
    found = []
    for (start, end), group in itertools.groupby(candidates, key=lambda one: one[0][:2]):
        here = list(group)
        llm = [(span, i) for span, i in here if span in (task.llm or ())]
        own = [(span, i) for span, i in here if span in slm]
        kept = [(span, i) for span, i in here if decision.kept[i]]
        if not (llm or own or kept or any(decision.noisy[i] for _, i in here)):
            continue
        best = kept[0] if kept else max(here, key=lambda one: float(decision.p_right[one[1]]))
        opinion = task.opinions.get(own[0][0]) if own else None
        doubted = task.opinions.get(llm[0][0]) if llm else None
        found.append(
            Detail(
                name=f"{start}:{end}",
                label=kept[0][0].label if kept else None,
                score=float(decision.score[best[1]]),
                flag=_flag(decision, here),
                source=_source(task, kept[0][0]) if kept else None,
                llm_label=llm[0][0].label if llm else None,
                slm_label=own[0][0].label if own else None,
                slm_score=opinion.p if opinion else None,
                p_clean=doubted.p_clean if doubted and np.isfinite(doubted.p_clean) else None,
                words=text[start:end],
            )
        )
    return found


def _flag(decision: SpanDecision, here: Sequence[tuple[Span, int]]) -> Flag:
    if any(decision.inconsistent[i] for _, i in here):
        return Flag.INCONSISTENT
    return Flag.NOISY if any(decision.noisy[i] for _, i in here) else Flag.CLEAN


def _source(task: _Task, span: Span) -> Source:
    if task.human is not None:
        return Source.HUMAN
    return Source.LLM if span in (task.llm or ()) else Source.SLM


def _decoded(opinions: Mapping[Span, Opinion]) -> tuple[Span, ...]:
    """Return what the SLM itself says: its most probable path."""
    return tuple(sorted(span for span, opinion in opinions.items() if opinion.decoded))


def _spans(space: LabelSpace, said: str | None) -> tuple[Span, ...] | None:
    """Return the spans that were said with labels that the config still has; None where nothing was."""
    spans = read_spans(said)
    return None if spans is None else tuple(span for span in spans if span.label in space.labels)


def _posterior(split: Any, losses: Floats) -> Floats:
    return np.ones(len(losses)) if split is None else np.asarray(split.posterior(losses))
