"""How is a set of labels learned and judged? As K questions with yes or no about each task, by one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from coral_backend import corpus_arrays
from coral_backend.kinds.base import Judged, Work
from coral_backend.kinds.single import is_embedded
from coral_backend.labels import read_set, write_set
from coral_backend.types import (
    UNLABELED,
    Answer,
    Detail,
    Flag,
    Floats,
    HumanLabel,
    Ints,
    LabelSpace,
    Progress,
    Sample,
    Source,
    Verdict,
)
from strategies.distillation.label_names import label_sentences

if TYPE_CHECKING:
    from strategies.review.sets import SetDecision

__all__ = ["ALL_UP_TO", "SetOfLabels", "SetTable", "tabulate", "verdicts"]

ALL_UP_TO = 30
"""With so many labels, a verdict keeps what was decided about each; with more, about those that anybody names or that are doubtful."""

YES, NO = "yes", "no"


@dataclass(frozen=True)
class SetTable:
    """N samples with what was said of K labels.

    Attributes
    ----------
    llm, human : ndarray
        Shape (N, K): 1 where the set has the label, 0 where not; -1 in all of a row without a set, or with one that the config does
        not allow (any more).
    llm_confidence : ndarray
        Shape (N,), the annotator's own confidence in its set, NaN where unknown.
    """

    task_ids: Ints
    texts: list[str]
    llm: Ints
    llm_confidence: Floats
    human: Ints
    content_hashes: list[str]

    def at(self, rows: Sequence[int]) -> SetTable:
        """Return the table of some rows."""
        return SetTable(
            self.task_ids[rows],
            [self.texts[i] for i in rows],
            self.llm[rows],
            self.llm_confidence[rows],
            self.human[rows],
            [self.content_hashes[i] for i in rows],
        )


@dataclass(frozen=True)
class NewAnswers:
    """What the SLM says about tasks it was not trained on; same fields as a training's."""

    probs: Floats
    losses: Floats
    p_clean: Floats
    features: Floats


class SetOfLabels:
    """Any number of the config's labels a task."""

    def distil(self, work: Work, progress: Progress) -> Mapping[str, Any]:
        """Train the SLM on the sets as they stand; see ``slm/sets.py`` ``distil_sets``."""
        from coral_backend.slm.corpus import SLMConfig
        from coral_backend.slm.sets import SetCorpus, distil_sets

        space, table = work.project.label_space, _read(work)
        about = [label_sentences(label, space.definitions.get(label, "")) for label in space.labels]
        config = replace(SLMConfig.from_settings(work.settings), frozen_view=not is_embedded(work.store, work.project))
        corpus = SetCorpus(table.texts, table.llm, table.human, about)
        distilled = distil_sets(corpus, config, progress=progress, save_to=work.folder / "model")
        corpus_arrays.save_arrays(work.folder, table.task_ids, distilled)
        return {"history": distilled.history, "notes": distilled.notes, "slm_seconds": distilled.seconds}

    def judge(self, work: Work) -> Judged | None:
        """Turn the LLM's sets, the SLM's probabilities and people's sets into verdicts."""
        arrays = corpus_arrays.load_arrays(work.folder)
        space = work.project.label_space
        if arrays is None or arrays.probs.shape[1] != len(space.labels):
            return None
        judged = verdicts(space, _read(work), arrays, work.settings.p_threshold)
        unreadable = [s for s in work.store.samples(work.project.id) if s.problem is not None]
        human = work.store.human_labels(work.project.id)
        return Judged(judged + corpus_arrays.unreadable(unreadable, human, len(judged)))

    def judge_new(self, work: Work, samples: Sequence[Sample]) -> list[Verdict] | None:
        """Judge new samples beside the corpus of the round."""
        from coral_backend.slm.set_model import SetModel

        arrays = corpus_arrays.load_arrays(work.folder)
        if arrays is None:
            return None
        model = SetModel.load(work.folder / "model")
        store, project = work.store, work.project
        table = tabulate(project.label_space, samples, store.llm_labels(project.id), store.human_labels(project.id))
        probs, features = model.predict(table.texts)
        new = NewAnswers(probs, losses(probs, table.llm), model.p_clean(probs, table.llm), features)
        arrays = arrays.extended(table.task_ids.tolist(), new)
        corpus_arrays.save_arrays(work.folder, arrays.task_ids, arrays)
        judged = self.judge(work)
        return judged.verdicts if judged is not None else None


def tabulate(
    space: LabelSpace, samples: Sequence[Sample], answers: Mapping[int, Answer], human: Mapping[int, HumanLabel]
) -> SetTable:
    """Return `samples` with the sets that the annotator and people gave them, as arrays."""
    none = Answer(None)
    llm = [answers.get(s.task_id, none) for s in samples]
    people = [human[s.task_id].label if s.task_id in human else None for s in samples]
    return SetTable(
        np.array([s.task_id for s in samples], dtype=np.int64),
        [s.text for s in samples],
        _answers(space, [a.label for a in llm]),
        np.array([np.nan if a.confidence is None else a.confidence for a in llm], dtype=float),
        _answers(space, people),
        [s.content_hash for s in samples],
    )


def _answers(space: LabelSpace, said: Sequence[str | None]) -> Ints:
    found = np.full((len(said), len(space.labels)), UNLABELED, dtype=np.int64)
    for row, one in zip(found, said, strict=True):
        if space.allows(one):
            row[:] = 0
            row[[space.index(label) for label in read_set(one) or ()]] = 1
    return found


def _read(work: Work) -> SetTable:
    samples = [s for s in work.store.samples(work.project.id) if s.problem is None]
    answers, human = work.store.llm_labels(work.project.id), work.store.human_labels(work.project.id)
    return tabulate(work.project.label_space, samples, answers, human)


def losses(probs: Floats, answers: Ints) -> Floats:
    """Return the cross-entropy in nats of answers (N, K); NaN where none is given."""
    given = np.clip(np.where(answers == 1, probs, 1.0 - probs), 1e-12, 1.0)
    return np.where(answers == UNLABELED, np.nan, -np.log(given))


def verdicts(space: LabelSpace, table: SetTable, arrays: corpus_arrays.Arrays, p_threshold: float) -> list[Verdict]:
    """Decide about every sample of `table` that a round's arrays know.

    The score of a task is the product over its labels: the probability that all of the set is right, the labels taken for independent.
    The order of review goes by the least sure label.
    """
    from strategies.review.sets import decide_sets  # scikit-learn: the web process reads arrays and decides nothing

    place = {task_id: i for i, task_id in enumerate(arrays.task_ids.tolist())}
    confidence = calibrated(table)
    known = [i for i, task_id in enumerate(table.task_ids.tolist()) if task_id in place]
    rows = np.array([place[int(table.task_ids[i])] for i in known], dtype=np.int64)
    table, probs, p_clean = table.at(known), arrays.probs[rows], arrays.p_clean[rows]
    # An LLM's answer that came after the arrays has no loss yet; it is neither clean nor noisy.
    p_clean = np.where(table.llm == UNLABELED, np.nan, p_clean)
    decision = decide_sets(
        table.llm, probs, p_clean, table.human, confidence[known], p_threshold=p_threshold, required=space.required
    )
    judged = _Judged(space, table, decision, probs, p_clean)
    return [judged.verdict(i) for i in range(len(known))]


def calibrated(table: SetTable) -> Floats:
    """Return the annotator's confidence in its whole sets, shape (N,): calibrated on people's sets where these suffice, else raw."""
    from strategies.review.calibration import platt  # scikit-learn, as above

    checked = (table.human[:, 0] != UNLABELED) & (table.llm[:, 0] != UNLABELED)
    right = (table.human == table.llm).all(axis=1)
    calibration = platt(table.llm_confidence[checked], right[checked])
    return table.llm_confidence if calibration is None else calibration(table.llm_confidence)


@dataclass(frozen=True)
class _Judged:
    """What the verdicts of N samples are made of; ``probs`` and ``p_clean`` have shape (N, K)."""

    space: LabelSpace
    table: SetTable
    decision: SetDecision
    probs: Floats
    p_clean: Floats

    def verdict(self, i: int) -> Verdict:
        """Return the verdict about the i-th sample."""
        space, table, decision, p_clean = self.space, self.table, self.decision, self.p_clean[i]
        asked = bool(table.llm[i, 0] != UNLABELED)
        telling = (table.llm[i] == 1) | (decision.slm_label[i] == 1) | (decision.label_flag[i] != str(Flag.CLEAN))
        shown = telling | (decision.label[i] == 1) | (len(space.labels) <= ALL_UP_TO)
        sure = p_clean[telling & np.isfinite(p_clean)]
        return Verdict(
            task_id=int(table.task_ids[i]),
            label=_written(space, decision.label[i]),
            score=float(decision.score[i]),
            source=Source(str(decision.source[i])),
            flag=Flag(str(decision.flag[i])),
            rank=int(decision.rank[i]),
            prediction_label=_written(space, decision.prediction[i]),
            prediction_score=float(decision.prediction_score[i]),
            llm_label=_written(space, table.llm[i]) if asked else None,
            slm_label=_written(space, decision.slm_label[i]),
            slm_score=float(decision.slm_score[i]),
            p_clean=None if not asked else float(sure.min()) if sure.size else 1.0,
            loss=float(losses(self.probs[i], table.llm[i]).sum()) if asked else None,
            content_hash=table.content_hashes[i],
            machine_label=_written(space, decision.machine_label[i]),
            details=tuple(self._detail(i, k, asked=asked) for k in np.flatnonzero(shown).tolist()),
        )

    def _detail(self, i: int, k: int, *, asked: bool) -> Detail:
        decision, p_clean = self.decision, float(self.p_clean[i, k])
        return Detail(
            name=self.space.labels[k],
            label=_word(decision.label[i, k]),
            score=float(decision.label_score[i, k]),
            flag=Flag(str(decision.label_flag[i, k])),
            source=Source(str(decision.label_source[i, k])),
            llm_label=_word(self.table.llm[i, k]) if asked else None,
            slm_label=_word(decision.slm_label[i, k]),
            slm_score=float(decision.slm_label_score[i, k]),
            p_clean=p_clean if np.isfinite(p_clean) else None,
        )


def _written(space: LabelSpace, answers: Ints) -> str:
    return write_set([space.labels[k] for k in np.flatnonzero(answers == 1).tolist()], space.labels)


def _word(answer: Any) -> str:
    return YES if answer == 1 else NO
