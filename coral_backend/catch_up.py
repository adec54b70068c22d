"""How does a task get its label between rounds? Tasks that Label Studio asked for, or that came after the round.

They are annotated with the prompt of the round that serves now, scored by its SLM (which has never seen them), judged
together with the corpus, and pushed under the version that is already selected: no round, no new version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coral_backend import corpus_arrays, review
from coral_backend.annotate import Annotation, known_from_round, make_strategy, make_team, small_opinions
from coral_backend.controls import project_of, settings_of, spaces
from coral_backend.costs import meter_for
from coral_backend.exceptions import CoralError, EndpointError, ModelFileError, UnavailableError
from coral_backend.heartbeat import kept_alive
from coral_backend.kinds import Work, kind_of
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.predictions import prediction_rows
from coral_backend.questions import Questions
from coral_backend.rounds import lazy_embed, model_folder, neighbours_of, settings_for
from coral_backend.settings import Settings
from coral_backend.slices import slice_column
from coral_backend.store import Lease, Store
from coral_backend.store.controls import view_of
from coral_backend.task_prompt import with_room
from coral_backend.types import (
    Answer,
    Flag,
    Project,
    Round,
    RoundStatus,
    Sample,
    Source,
    Stage,
    Verdict,
)
from strategies.annotation import Opinion

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""After Label Studio or another part was away."""
PERSON_SECONDS = 900.0
"""After a failure that a person must mend, or the next round does."""


def catch_up(store: Store, settings: Settings, connect: Callable[[], LabelStudioClient], project_id: int) -> int:
    """Label, judge and push the wanted tasks of a project; return how many were pushed.

    Nothing is done while a round runs: it takes these tasks along. After a failure the tasks stay wanted and wait, long where
    a person must act first (wrong key, damaged model).
    """
    wanted = store.wanted(project_id)
    if not wanted or not catch_up_is_possible(store, store.project(project_id)):
        return 0
    lease = store.take_lease(f"catch-up-{project_id}")
    if lease is None:
        return 0
    try:
        with kept_alive(store, lease):
            return _catch_up(store, settings, connect, wanted, lease, project_id=project_id)
    except CoralError as error:
        passing = isinstance(error, UnavailableError) and not isinstance(error, EndpointError)
        store.delay_catch_up(project_id, RETRY_SECONDS if passing else PERSON_SECONDS, str(error))
        raise
    finally:
        store.drop_lease(lease)


def _catch_up(
    store: Store,
    settings: Settings,
    connect: Callable[[], LabelStudioClient],
    wanted: Sequence[int],
    lease: Lease,
    *,
    project_id: int,
) -> int:
    project = store.project(project_id)
    work = CatchUp(store, settings_for(settings, project), project, lease)
    edited, new = work.unjudged(wanted)
    verdicts = work.verdicts(edited + new)
    verdicts = [verdict for verdict in verdicts if verdict.prediction_label]
    rows = prediction_rows(project.label_space, project.model_version, verdicts)
    now = store.project(project_id)
    if (now.model_version, now.config_hash) != (project.model_version, project.config_hash):
        return 0  # a round was quicker: its tasks are not wanted any more, the others are tried again under its version
    client = connect()
    if edited:
        client.delete_task_predictions(project_id, edited)  # those are about another text
    pushed = client.push_predictions(project_id, rows)
    store.answered(project_id, wanted)
    if project.active_round is not None:
        slices = slice_column(store, project_id, project.active_round, [verdict.task_id for verdict in verdicts])
        review.show_some(client, project, verdicts, slices)
    logger.info("project %d: caught up with %d tasks, pushed %d", project_id, len(wanted), pushed.created)
    return pushed.created


def catch_up_is_possible(store: Store, project: Project) -> bool:
    """Say whether tasks can be labelled outside a round now.

    Not while one runs (a paused one does not stand in the way, unless it has a budget, which would be passed by asking beside
    it), and not when the label config has changed since the round that serves: its labels are others.
    """
    active = store.active_round(project.id)
    if active is not None:
        asks = active.stage in (Stage.SYNC, Stage.ANNOTATE)
        if active.status is not RoundStatus.PAUSED or (asks and active.settings.get("budget") is not None):
            return False
    return project.active_round is None or store.round(project.active_round).config_hash == project.config_hash


@dataclass(frozen=True)
class CatchUp:
    """Labels tasks between rounds; see ``catch_up``."""

    store: Store
    settings: Settings
    project: Project
    lease: Lease

    def unjudged(self, task_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the tasks whose text was edited since their verdict, and those without one.

        What was judged as it stands is left alone: the SLM was trained on it, and would now score its own memory.
        """
        if self.project.active_round is None:
            return [], list(task_ids)
        judged = self.store.verdicts(self.project.id, self.project.active_round, task_ids)
        hashes = {verdict.task_id: verdict.content_hash for verdict in judged}
        samples = self.store.samples(self.project.id, task_ids)
        edited = [s.task_id for s in samples if s.task_id in hashes and hashes[s.task_id] != s.content_hash]
        return edited, [s.task_id for s in samples if s.task_id not in hashes]

    def verdicts(self, task_ids: Sequence[int]) -> list[Verdict]:
        """Annotate and judge tasks; those without a readable text are passed over."""
        samples = [s for s in self.store.samples(self.project.id, task_ids) if s.problem is None]
        serving = self.store.round(self.project.active_round) if self.project.active_round is not None else None
        self._annotate(samples, serving)
        if serving is None:
            return _first_answers(self.project, samples, self.store.llm_labels(self.project.id))
        return self._judge(samples, serving) if samples else []

    def _annotate(self, samples: Sequence[Sample], serving: Round | None) -> None:
        """Have every control labelled; each is asked about as if it were alone."""
        for space in spaces(self.project.label_space):
            project, store = project_of(self.project, space), view_of(self.store, self.project, space)
            part = CatchUp(store, settings_of(self.settings, project), project, self.lease)
            part._ask(samples, store.round(serving.id) if serving is not None else None)

    def _ask(self, samples: Sequence[Sample], serving: Round | None) -> None:
        project, settings = self.project, self.settings
        settled = self.store.llm_labels(project.id).keys() | self.store.human_labels(project.id).keys()
        missing = [s for s in samples if s.task_id not in settled]
        if not missing:
            return
        embed = lazy_embed(settings)
        meter = meter_for(self.store, settings, project, None)
        team = make_team(with_room(settings, project.label_space), embed, self.store.replies, meter)
        strategy = make_strategy(settings, team, project.label_space)
        neighbours = neighbours_of(self.store, settings, project) if team[0].is_llm else None
        demos = serving.demos if serving else ()
        annotation = Annotation(
            self.store,
            project,
            serving.number if serving else 0,
            self.lease,
            team,
            strategy,
            Questions(settings, project, demos, embed=embed, neighbours=neighbours, is_llm=team[0].is_llm),
            self._known(missing, serving) if strategy.uses_small_model else {},
            beside=range(1, serving.number + 1) if serving else (),
        )

        def stay(*_: object, **__: object) -> None:
            self.store.keep_lease(self.lease)

        undecided = missing
        while not annotation.advance(undecided, len(missing), len(missing), stay):
            decided = self.store.llm_labels(project.id)
            undecided = [s for s in missing if s.task_id not in decided]

    def _known(self, samples: Sequence[Sample], serving: Round | None) -> dict[int, list[Opinion]]:
        """Return what the round that serves knew, with its model's opinions on the new samples."""
        if serving is None:
            return {}
        if (model_folder(self.settings, serving, self.project.control).parent / corpus_arrays.UNLEARNED).is_file():
            return known_from_round(self.store, self.settings, self.project)  # one of several controls, without a model
        from coral_backend.slm.engine import Model

        probs, _ = Model.load(model_folder(self.settings, serving, self.project.control)).predict(
            [s.text for s in samples]
        )
        opinions = small_opinions(probs, self.project.label_space.labels)
        fresh = {s.task_id: opinion for s, opinion in zip(samples, opinions, strict=True)}
        return known_from_round(self.store, self.settings, self.project, fresh=fresh)

    def _judge(self, samples: Sequence[Sample], serving: Round) -> list[Verdict]:
        """Judge new samples beside the corpus of the round that serves, and keep their verdicts with it."""
        work = Work(self.store, self.project, self.settings, corpus_arrays.round_folder(self.settings, serving))
        verdicts = kind_of(self.project.label_space).judge_new(work, samples)
        if verdicts is None:
            raise ModelFileError(
                f"The SLM's arrays of round {serving.name} are missing in {work.folder}; new tasks cannot be judged. "
                "Run coral round --retrain, and look whether all workers share one MODEL_DIR."
            )
        new = {sample.task_id for sample in samples}
        chosen = [v for v in verdicts if v.task_id in new]
        self.store.put_verdicts(self.project.id, serving.id, chosen, None)
        return chosen


def _first_answers(project: Project, samples: Sequence[Sample], answers: dict[int, Answer]) -> list[Verdict]:
    """Before the first round there is no SLM: the annotator's label pre-fills the form, without a score."""
    space = project.label_space
    return [
        Verdict(
            s.task_id,
            a.label,
            None,
            Source.LLM,
            Flag.NOISY,
            rank=0,
            prediction_label=a.label,
            llm_label=a.label,
            content_hash=s.content_hash,
        )
        for s in samples
        if (a := answers.get(s.task_id)) is not None and space.allows(a.label)
    ]
