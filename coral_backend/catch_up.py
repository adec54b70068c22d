"""How does a task get its label between rounds? Tasks that Label Studio asked for, or that came after the round.

They are annotated with the prompt of the round that serves now, scored by its SLM (which has never seen them), judged
together with the corpus, and pushed under the version that is already selected: no round, no new version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coral_backend import corpus_arrays
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.predictions import prediction_row
from coral_backend.llm.base import make_annotator
from coral_backend.rounds import lazy_embed, model_folder, prompt_for, settings_for
from coral_backend.settings import Settings
from coral_backend.store import Lease, Store
from coral_backend.types import UNLABELED, Answer, Flag, Floats, Ints, Project, Round, Sample, Source, Verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewAnswers:
    """What the SLM says about tasks it was not trained on; same fields as a training's."""

    probs: Floats
    losses: Floats
    p_clean: Floats
    features: Floats


def catch_up(store: Store, settings: Settings, connect: Callable[[], LabelStudioClient], project_id: int) -> int:
    """Label, judge and push the wanted tasks of a project; return how many were pushed.

    Nothing is done while a round is active: it takes these tasks along.
    """
    wanted = store.wanted(project_id)
    if not wanted or store.active_round(project_id) is not None or not _config_serves(store, project_id):
        return 0
    lease = store.take_lease(f"catch-up-{project_id}")
    if lease is None:
        return 0
    try:
        project = store.project(project_id)
        work = CatchUp(store, settings_for(settings, project), project, lease)
        verdicts = work.verdicts(wanted)
        rows = [prediction_row(project.label_space, project.model_version, v) for v in verdicts if v.prediction_label]
        pushed = connect().push_predictions(project_id, rows)
        store.answered(project_id, wanted)
        logger.info("project %d: caught up with %d tasks, pushed %d", project_id, len(wanted), pushed.created)
        return pushed.created
    finally:
        store.drop_lease(lease)


def _config_serves(store: Store, project_id: int) -> bool:
    """Say whether the serving round's labels are of the project's present config; a changed one needs a new round."""
    project = store.project(project_id)
    return project.active_round is None or store.round(project.active_round).config_hash == project.config_hash


@dataclass(frozen=True)
class CatchUp:
    """Labels tasks between rounds; see ``catch_up``."""

    store: Store
    settings: Settings
    project: Project
    lease: Lease

    def verdicts(self, task_ids: Sequence[int]) -> list[Verdict]:
        """Annotate and judge tasks; those without a readable text are passed over."""
        samples = [s for s in self.store.samples(self.project.id, task_ids) if s.problem is None]
        serving = self.store.round(self.project.active_round) if self.project.active_round is not None else None
        self._annotate(samples, serving)
        if serving is None:
            return _first_answers(self.project, samples, self.store.llm_labels(self.project.id))
        return self._judge(samples, serving) if samples else []

    def _annotate(self, samples: Sequence[Sample], serving: Round | None) -> None:
        project_id = self.project.id
        settled = self.store.llm_labels(project_id).keys() | self.store.human_labels(project_id).keys()
        missing = [s for s in samples if s.task_id not in settled]
        if not missing:
            return
        prompt = prompt_for(self.settings, self.project, serving.demos if serving else ())
        number = serving.number if serving else 0

        def keep(sample: Sample, answer: Answer) -> None:
            self.store.put_llm_label(
                project_id, number, sample, answer, prompt_version=prompt.version, lease=self.lease
            )

        annotator = make_annotator(self.settings, lazy_embed(self.settings))
        annotator.annotate(missing, prompt, keep, lambda: self.store.keep_lease(self.lease))

    def _judge(self, samples: Sequence[Sample], serving: Round) -> list[Verdict]:
        """Judge new samples beside the corpus of the round that serves, and keep their verdicts with it."""
        from coral_backend.slm.engine import Model

        folder = corpus_arrays.round_folder(self.settings, serving)
        arrays = corpus_arrays.load_arrays(folder)
        if arrays is None:
            return []
        model, project = Model.load(model_folder(self.settings, serving)), self.project
        probs, features = model.predict([s.text for s in samples])
        answers, human = self.store.llm_labels(project.id), self.store.human_labels(project.id)
        losses = _losses(probs, corpus_arrays.tabulate(project, samples, answers, human).llm_labels)
        new = [s.task_id for s in samples]
        arrays = arrays.extended(new, NewAnswers(probs, losses, model.p_clean(losses), features))
        corpus_arrays.save_arrays(folder, arrays.task_ids, arrays)
        verdicts = corpus_arrays.verdicts(self.store, project, arrays, self.settings.p_threshold)
        chosen = [v for v in verdicts if v.task_id in set(new)]
        self.store.put_verdicts(project.id, serving.id, chosen, None)
        return chosen


def _losses(probs: Floats, labels: Ints) -> Floats:
    """Return the cross-entropy in nats of each label, NaN where there is none."""
    given = np.clip(probs[np.arange(len(labels)), np.where(labels == UNLABELED, 0, labels)], 1e-12, 1.0)
    return np.where(labels == UNLABELED, np.nan, -np.log(given))


def _first_answers(project: Project, samples: Sequence[Sample], answers: dict[int, Answer]) -> list[Verdict]:
    """Before the first round there is no SLM: the annotator's label pre-fills the form, without a score."""
    space = project.label_space
    return [
        Verdict(s.task_id, a.label, None, Source.LLM, Flag.NOISY, 0, prediction_label=a.label, llm_label=a.label)
        for s in samples
        if (a := answers.get(s.task_id)) is not None and a.label in space.labels
    ]
