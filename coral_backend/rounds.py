"""How does one round go? A state machine over the stages sync -> annotate -> distil -> flag -> push.

The database holds where a round stands; ``RoundRunner.advance`` does its next step and can be called by anybody at any
time: after a crash the step is simply done again, and what it had stored stays stored. A full round asks the annotator;
a revision of it (``coral round --retrain``, or enough new human labels) only learns anew from what people said.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coral_backend import corpus_arrays, review
from coral_backend.annotate import Annotation, FirstLook, Report, known_from_round, make_strategy, make_team
from coral_backend.batch_clerk import Clerk
from coral_backend.batches import BatchDesk, told_of
from coral_backend.controls import demos_of, joined_demos, project_of, usual_options
from coral_backend.controls import settings_of as settings_of_control
from coral_backend.costs import meter_for
from coral_backend.demos import Neighbours, Verified, choose_demos
from coral_backend.exceptions import (
    BudgetError,
    ConflictError,
    CoralError,
    EndpointError,
    InputError,
    LeaseLostError,
    ModelFileError,
    RoundStopped,
    TrainingError,
    UnavailableError,
)
from coral_backend.heartbeat import kept_alive
from coral_backend.kinds import Work, kind_of
from coral_backend.kinds import features_of as features_of_kind
from coral_backend.labels import SEVERAL, SINGLE
from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.predictions import prediction_rows
from coral_backend.llm.base import Annotator, Embed
from coral_backend.llm.prompt import gives_orders
from coral_backend.questions import Questions
from coral_backend.settings import PROJECT_OPTIONS, Settings
from coral_backend.slices import slice_column
from coral_backend.store import Lease, Store
from coral_backend.store.controls import view_of
from coral_backend.summary import summary, version_of
from coral_backend.sync import nothing_to_label, refresh_project, sync_samples
from coral_backend.task_prompt import prompt_for, with_room
from coral_backend.types import (
    Answer,
    Demo,
    Floats,
    HumanLabel,
    Project,
    Round,
    RoundStatus,
    Sample,
    Stage,
)
from coral_backend.unanswered import Unanswered
from strategies.demonstration import DEMONSTRATIONS

logger = logging.getLogger(__name__)

PAGE = 1000
"""Samples that are read at a time where all are gone through."""
REPORT_SECONDS = 1.0
"""How often a running stage writes its progress, which also looks whether somebody paused the round."""
MOST_NAMED = 50
"""So many tasks whose text speaks to the model are named in a round's metrics."""
ASKING = "asking"
"""Under this name a round's progress has where the last chunk of questions ended; of several controls, with each one's name."""
TURN_SECONDS = 300.0
"""After so long a job asks nothing new, whatever ``annotate_chunk`` allows: other projects' rounds wait for their turn."""
MAX_SETBACKS = 20
"""How often a round is tried again while Label Studio or another part is away, before it pauses for a person."""


class Watch(Protocol):
    """Called with the progress of a stage in the process that runs it, for a progress bar."""

    def __call__(self, stage: Stage, done: int, total: int, detail: Mapping[str, Any]) -> None: ...


@dataclass
class Step:
    """What one step of a round works with."""

    project: Project
    round: Round
    lease: Lease
    settings: Settings


def settings_for(settings: Settings, project: Project) -> Settings:
    """Return the process's settings with the project's own options on top; of spans, examples are retrieved unless another way is set."""
    return settings.with_options({**usual_options(settings, project), **project.options})


def settings_of(settings: Settings, project: Project, current: Round) -> Settings:
    """Return the settings of one round: those of its project, with the budget and the way of asking it was begun with."""
    own = {name: current.settings[name] for name in ("budget", "batch") if name in current.settings}
    return settings_for(settings, project).with_options(own)


def waits_until(current: Round) -> float:
    """Return the time, in seconds since the epoch, before which a round has nothing to do; 0 when it has."""
    return float(current.progress.get("waits_until") or 0.0)


def round_lease(round_id: int) -> str:
    """Return the name of the lease that the worker of a round holds."""
    return f"round-{round_id}"


@dataclass
class Part:
    """How a round asks about one control: all of it, where there is one."""

    runner: RoundRunner
    step: Step
    annotation: Annotation


class RoundRunner:
    """Runs rounds in this process.

    Parameters
    ----------
    store, settings
        The database and the resolved settings.
    connect : callable
        Returns the Label Studio client; called when a stage needs it.
    watch : callable, optional
        Told about progress, beside what is written into the store.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        connect: Callable[[], LabelStudioClient],
        *,
        watch: Watch | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self._connect = connect
        self._watch = watch
        self._stages: dict[Stage, Callable[[Step], Stage | None]] = {
            Stage.SYNC: self._sync,
            Stage.ANNOTATE: self._annotate,
            Stage.DISTIL: self._distil,
            Stage.FLAG: self._flag,
            Stage.PUSH: self._push,
        }

    def run(self, round_id: int) -> Round:
        """Advance a round until it is over or paused, and return it.

        Raises
        ------
        ConflictError
            If another worker is on it.
        CoralError
            What ended it; a round that met an absent part (``UnavailableError``) can be run again.
        """
        while (current := self.store.round(round_id)).status in (RoundStatus.PENDING, RoundStatus.RUNNING):
            left = waits_until(current) - time.time()
            if left > 0:
                time.sleep(min(left, REPORT_SECONDS))
            else:
                self.advance(current.id)
        return current

    def advance(self, round_id: int) -> Round:
        """Do the next step of a round (a chunk of annotation, a training, a push) and return the round."""
        lease = self.store.take_lease(round_lease(round_id))
        if lease is None:
            raise ConflictError(f"Another worker is on round {round_id}; follow it with: coral status.")
        try:
            with kept_alive(self.store, lease), self._told(round_id, lease):
                self._step(round_id, lease)
        finally:
            self.store.drop_lease(lease)
        return self.store.round(round_id)

    def _step(self, round_id: int, lease: Lease) -> None:
        before = self.store.round(round_id)
        project = self.store.project(before.project_id)
        # A change of the options is for the next round: they are taken when a round begins, or when a person resumes it.
        if before.status is RoundStatus.PENDING or not before.settings:
            settings = settings_of(self.settings, project, before)
            current = self.store.update_round(round_id, lease, settings=settings.public())
        else:
            settings = self.settings.with_options({k: v for k, v in before.settings.items() if k in PROJECT_OPTIONS})
            current = self.store.update_round(round_id, lease)
        step = Step(project, current, lease, settings)
        stage, began = current.stage, time.monotonic()
        following = self._stages[stage](step)
        if following is None:
            return
        after = self.store.round(round_id)
        metrics = _add_seconds(after.metrics, stage, time.monotonic() - began)
        progress = {key: entry for key, entry in after.progress.items() if key != "setbacks"}
        self.store.update_round(round_id, lease, stage=following, metrics=metrics, progress=progress, error=None)
        logger.info("project %d round %s: %s, then %s", project.id, current.name, stage, following)

    @contextmanager
    def _told(self, round_id: int, lease: Lease) -> Iterator[None]:
        """Turn what a step raised into the round's status; the error itself goes on to the caller."""
        try:
            yield
        except RoundStopped as stop:
            logger.info("round %d: %s", round_id, stop)
        except LeaseLostError:
            raise
        except EndpointError as error:
            self._end(round_id, lease, RoundStatus.PAUSED, error)
            raise
        except UnavailableError as error:
            self._set_back(round_id, lease, error)
            raise
        except CoralError as error:
            self._end(round_id, lease, RoundStatus.FAILED, error)
            raise
        except Exception as error:
            self._end(
                round_id, lease, RoundStatus.FAILED, CoralError(f"Unexpected {type(error).__name__}; see the log.")
            )
            raise

    def _end(self, round_id: int, lease: Lease, status: RoundStatus, error: CoralError) -> None:
        current = self.store.round(round_id)
        if current.status in (RoundStatus.PENDING, RoundStatus.RUNNING):
            logger.warning("project %d round %s: %s: %s", current.project_id, current.name, status, error)
            self.store.set_round_status(round_id, status, str(error), lease=lease)

    def _set_back(self, round_id: int, lease: Lease, error: UnavailableError) -> None:
        """Keep the round alive while a part is away; the ticker tries again, and pauses it after many setbacks."""
        current = self.store.round(round_id)
        setbacks = int(current.progress.get("setbacks", 0)) + 1
        if setbacks > MAX_SETBACKS:
            self._end(round_id, lease, RoundStatus.PAUSED, error)
            return
        progress = {**current.progress, "setbacks": setbacks}
        self.store.update_round(round_id, lease, progress=progress, error=str(error))

    # --- stages -----------------------------------------------------------------------------------------------

    def _sync(self, step: Step) -> Stage:
        """Read label config, tasks and annotations from Label Studio."""
        client, project_id = self._connect(), step.project.id
        project = refresh_project(self.store, client, project_id, controls=self.settings.controls)
        self.store.update_round(step.round.id, step.lease, config_hash=project.config_hash)
        report = self._reporter(step)
        seen = sync_samples(self.store, client, step.settings, project, report)
        usable, orders = 0, []
        for sample in self._all_samples(step):
            usable += sample.problem is None
            if gives_orders(sample.text):
                orders.append(sample.task_id)
        told = {"giving_orders": {"count": len(orders), "task_ids": orders[:MOST_NAMED]}}
        self.store.update_round(step.round.id, step.lease, metrics={**step.round.metrics, **told})
        report(seen, seen, {"usable": usable}, last=True)
        return Stage.ANNOTATE

    def _annotate(self, step: Step) -> Stage:
        """Ask the annotators the next questions, until the strategy has decided about every sample."""
        parts = self._parts(step)
        in_batches = (
            step.settings.batch and step.round.revision == 0
        )  # people wait for a retraining, and it asks little
        if in_batches and not self._collected(step, parts):
            return Stage.ANNOTATE
        if not in_batches and self._called_back(step, parts):
            return Stage.ANNOTATE
        try:
            finished = self._ask(step, parts, in_batches=in_batches)
        except BudgetError:
            if not self._waits_for_batches(step):  # else what those really take may leave some
                raise
            finished = False
        if self._waits_for_batches(step) or not finished:
            return Stage.ANNOTATE
        links = self.store.opinions.usage(step.project.id, step.round.number)
        told = {
            "task_strategy": ", ".join(dict.fromkeys(part.annotation.questions.strategy.name for part in parts)),
            "links": links,
        }
        metrics = {**self.store.round(step.round.id).metrics, **told}
        self.store.update_round(step.round.id, step.lease, metrics=metrics)
        return Stage.DISTIL

    def _ask(self, step: Step, parts: Sequence[Part], *, in_batches: bool) -> bool:
        """Ask the next questions about each control; say whether nothing is left to ask."""
        finished = True
        for part in parts:
            report = self._reporter(step)
            told = _Beside(report, part.step.project.control, len(parts), self.store.round(step.round.id).progress)
            finished &= part.runner._ask_of(part.step, part.annotation, told, in_batches=in_batches)
            if part.step.project.control is not None:
                progress = {**self.store.round(step.round.id).progress, "asked": told.asked}
                self.store.update_round(step.round.id, step.lease, progress=progress)
        return finished

    def _ask_of(self, step: Step, annotation: Annotation, report: Report, *, in_batches: bool) -> bool:
        annotation.seconds = math.inf if in_batches else TURN_SECONDS
        if in_batches or annotation.strategy.waits:
            todo, left, total = self.unanswered(step).count()
            limit = left if in_batches else step.settings.annotate_chunk
            return annotation.advance(todo, total, limit, report)
        return self._ask_some(step, annotation, report)

    def _parts(self, step: Step) -> list[Part]:
        """Return who is asked about each control in this round, how, and in which words; the demonstrations are chosen first."""
        parts = self.drafts(step)
        demos = self._demos(step, parts)
        for part in parts:
            control = part.step.project.control
            own = demos if control is None else demos_of(demos, control)
            part.annotation.questions = part.annotation.questions.with_demos(own)
        return parts

    def drafts(self, step: Step) -> list[Part]:
        """Return who is asked about each control and how, before there are demonstrations; nobody is asked yet."""
        embed, views = lazy_embed(step.settings), self._views(step)
        meter = meter_for(self.store, step.settings, step.project, step.round)
        asks_more = (view.settings for _, view in views if view.settings.annotation != "single")
        leading = with_room(next(asks_more, step.settings), step.project.label_space)
        team = make_team(leading, embed, self.store.replies, meter)
        return [Part(runner, view, runner._draft(view, team, embed)) for runner, view in views]

    def _views(self, step: Step) -> list[tuple[RoundRunner, Step]]:
        """Return the step as it is for each of several controls alone; as it is, where there is one."""
        whole, views = step.project, []
        if not whole.label_space.controls:
            return [(self, step)]
        for space in whole.label_space.controls:
            project = project_of(whole, space)
            own = replace(step.round, demos=demos_of(step.round.demos, space.from_name))
            view = Step(project, own, step.lease, settings_of_control(step.settings, project))
            store = view_of(self.store, whole, space)
            views.append((RoundRunner(store, self.settings, self._connect, watch=self._watch), view))
        return views

    def _draft(self, step: Step, team: Sequence[Annotator], embed: Embed) -> Annotation:
        settings, project = step.settings, step.project
        asked = team[:1] if settings.annotation == "single" else team
        strategy = make_strategy(settings, asked, project.label_space)
        known = known_from_round(self.store, settings, project) if strategy.uses_small_model else {}
        neighbours = neighbours_of(self.store, settings, project) if team[0].is_llm else None
        questions = Questions(settings, project, (), embed=embed, neighbours=neighbours, is_llm=team[0].is_llm)
        return Annotation(
            self.store,
            project,
            step.round.number,
            step.lease,
            asked,
            strategy,
            questions,
            known,
            self._look(step, embed) if strategy.uses_small_model else None,
        )

    def _look(self, step: Step, embed: Embed) -> FirstLook | None:
        """Return the small model of a first round, which has no other."""
        if step.project.active_round is not None or step.project.label_space.kind != SINGLE:
            return None
        samples = [s for s in self.store.samples(step.project.id) if s.problem is None]
        folder = corpus_arrays.round_folder(step.settings, step.round, step.project.control)
        return FirstLook(samples, step.project.label_space.labels, embed, folder, step.settings.seed)

    def _collected(self, step: Step, parts: Sequence[Part]) -> bool:
        """Have all be asked in batches, after those that ended were read; False if any had, and the meter must begin anew."""
        desk = BatchDesk(self.store, step.settings, step.project, step.round, step.lease)
        if desk.collect(_widest(parts)):
            return False
        for part in parts:
            part.annotation.annotators = [Clerk(desk, annotator) for annotator in part.annotation.annotators]
        return True

    def _called_back(self, step: Step, parts: Sequence[Part]) -> bool:
        """Cancel the batches of a round that was told to go on live; False if there are none."""
        if not any(batch.open for batch in self.store.ledger.batches(step.round.id)):
            return False
        BatchDesk(self.store, step.settings, step.project, step.round, step.lease).end(_widest(parts))
        self._waits_for_batches(step)
        return True

    def _waits_for_batches(self, step: Step) -> bool:
        """Say whether batches are open; if so, note until when the round has nothing to do."""
        told = told_of(self.store.ledger.batches(step.round.id))
        if told is None:
            return False
        progress = self.store.round(step.round.id).progress
        entry = {**progress.get(str(Stage.ANNOTATE), {}), "batch": told}
        waits = {str(Stage.ANNOTATE): entry, "waits_until": time.time() + step.settings.batch_poll_s}
        self.store.update_round(step.round.id, step.lease, progress={**progress, **waits})
        return True

    def _distil(self, step: Step) -> Stage:
        """Train the SLM on noisy and human labels, and keep its out-of-sample arrays."""
        project = self.store.project(step.project.id)  # its counter is read before the labels it counts
        work = replace(self._work(step, project), earlier=self._earlier_folder(step, project))
        if all(sample.problem is not None for sample in self.store.samples(project.id)):
            raise InputError(nothing_to_label(project, 0))
        facts = kind_of(project.label_space).distil(work, self._reporter(step))
        metrics = {**step.round.metrics, **facts}
        self.store.update_round(step.round.id, step.lease, metrics=metrics, through_change=project.changes)
        return Stage.FLAG

    def _earlier_folder(self, step: Step, project: Project) -> Path | None:
        """Return the folder of the round that serves, where this one only learns anew from what people said."""
        if step.round.revision == 0 or project.active_round is None:
            return None
        return corpus_arrays.round_folder(step.settings, self.store.round(project.active_round))

    def _work(self, step: Step, project: Project) -> Work:
        return Work(self.store, project, step.settings, corpus_arrays.round_folder(step.settings, step.round))

    def _flag(self, step: Step) -> Stage:
        """Turn LLM labels, SLM probabilities and human labels into verdicts."""
        judged = kind_of(step.project.label_space).judge(self._work(step, step.project))
        if judged is None:
            return self._train_again(step)
        verdicts = judged.verdicts
        self.store.put_verdicts(step.project.id, step.round.id, verdicts, step.lease)
        metrics = {**step.round.metrics, **summary(self.store, step.project, verdicts), **judged.facts}
        if step.round.parent_id is not None:
            metrics["effect"] = self.store.count_changes(step.project.id, step.round.parent_id, step.round.id)
        self.store.update_round(step.round.id, step.lease, metrics=metrics)
        self._reporter(step)(len(verdicts), len(verdicts), metrics["flags"], last=True)
        return Stage.PUSH

    def _train_again(self, step: Step) -> Stage:
        """Go back to the training, once: arrays that are missing again are another machine's."""
        if step.round.progress.get("trained_again"):
            raise TrainingError(
                f"Round {step.round.name}: the SLM's arrays are missing again after a second training. "
                "All workers must share one MODEL_DIR; look whether they do, then start a new round."
            )
        logger.warning("round %s: the SLM's arrays are missing; it is trained again", step.round.name)
        progress = {**step.round.progress, "trained_again": True}
        self.store.update_round(step.round.id, step.lease, progress=progress)
        return Stage.DISTIL

    def _push(self, step: Step) -> None:
        """Push the verdicts as predictions of one new version, select it, and put the review tabs right."""
        client, project_id = self._connect(), step.project.id
        project = refresh_project(self.store, client, project_id, controls=self.settings.controls)
        if project.config_hash != step.round.config_hash:
            self.store.set_round_status(
                step.round.id,
                RoundStatus.STALE,
                "The label config was changed while the round ran; nothing was pushed. Start a new round.",
                lease=step.lease,
            )
            raise RoundStopped(f"Round {step.round.name} is stale: the label config was changed while it ran.")
        verdicts = self.store.verdicts(project_id, step.round.id)
        version = version_of(step.round, verdicts)
        began = time.monotonic()
        rows = prediction_rows(project.label_space, version, verdicts)
        report = self._reporter(step)
        report(0, len(rows), {"version": version})
        pushed = client.push_predictions(project_id, rows, report)
        self.store.update_round(step.round.id, step.lease)  # raises if somebody stopped the round meanwhile
        if rows:
            client.select_version(project_id, version)
        sent = {
            "sent": pushed.sent,
            "created": pushed.created,
            "dropped": list(pushed.dropped),
            "present": pushed.present,
        }

        def told(done: int, total: int) -> None:
            report(len(rows), len(rows), {"version": version, "columns": done, "of": total})

        try:
            slices = slice_column(self.store, project_id, step.round.id)
            shown = review.show(self.store, client, project, version, verdicts, slices=slices, told=told)
            metrics = _add_seconds(self.store.round(step.round.id).metrics, Stage.PUSH, time.monotonic() - began)
            report(len(rows), len(rows), {"version": version}, last=True)
            self.store.finish_round(step.round.id, step.lease, version, {**metrics, "pushed": sent, **shown.to_json()})
        except RoundStopped:
            self._show_serving(client, project)
            raise
        logger.info("project %d round %s: pushed %d of %d", project_id, step.round.name, pushed.created, pushed.sent)

    def _show_serving(self, client: LabelStudioClient, project: Project) -> None:
        """Have Label Studio show the version that serves: the round was stopped after its own had been selected."""
        if project.active_round is not None:
            client.select_version(project.id, project.model_version)
            serving = self.store.verdicts(project.id, project.active_round)
            slices = slice_column(self.store, project.id, project.active_round)
            review.show(self.store, client, project, project.model_version, serving, slices=slices)

    # --- annotate ---------------------------------------------------------------------------------------------

    def _ask_some(self, step: Step, annotation: Annotation, report: Report) -> bool:
        """Ask about the next samples; return whether none is left.

        Where the last chunk ended is in the round's progress, so that what lies before is not read again, but for once at the
        end: a text may have been changed meanwhile.
        """
        unanswered, limit = self.unanswered(step), step.settings.annotate_chunk
        key = ASKING if step.project.control is None else f"{ASKING} {step.project.control}"
        progress = self.store.round(step.round.id).progress
        asking = dict(progress.get(key) or {})
        todo = unanswered.first(limit, after=asking["after"]) if asking else []
        at_the_end = not todo
        if at_the_end:
            todo, asking["left"], asking["total"] = unanswered.count(limit)
        asking["after"] = todo[0].task_id - 1 if todo else 0
        self.store.update_round(step.round.id, step.lease, progress={**progress, key: asking})
        beyond = max(0, asking["left"] - len(todo))
        finished = annotation.advance(todo, asking["total"], limit, report, beyond=beyond)
        progress = self.store.round(step.round.id).progress
        asking["left"] = beyond + len(todo) - annotation.decided
        self.store.update_round(step.round.id, step.lease, progress={**progress, key: asking})
        return finished and at_the_end

    def unanswered(self, step: Step) -> Unanswered:
        """Return what tells which samples this round must still ask about."""
        return Unanswered(self.store, step.project, step.round)

    def _demos(self, step: Step, parts: Sequence[Part]) -> tuple[Demo, ...]:
        """Return the round's demonstrations, of all controls; they are chosen once and kept with it."""
        none_wanted = all(part.step.settings.n_demos == 0 for part in parts)
        if step.round.demos or "demos_chosen" in step.round.progress or none_wanted:
            return step.round.demos
        if step.project.label_space.kind == SEVERAL:
            names = [space.from_name for space in step.project.label_space.controls]
            chosen = [part.runner._chosen(part.step, part.annotation) for part in parts]
            demos = joined_demos(dict(zip(names, chosen, strict=True)))
        else:
            demos = self._chosen(step, parts[0].annotation)
        progress = {**self.store.round(step.round.id).progress, "demos_chosen": len(demos)}
        step.round = self.store.update_round(step.round.id, step.lease, demos=demos, progress=progress)
        return demos

    def _chosen(self, step: Step, annotation: Annotation) -> tuple[Demo, ...]:
        """Choose the demonstrations of a round for one control."""
        if step.settings.n_demos == 0:
            return ()
        if step.project.active_round is None:
            return self._self_labelled(step, annotation) if annotation.annotators[0].is_llm else ()
        if step.round.revision:
            return self.store.round(step.project.active_round).demos
        return choose_demos(self.store, step.settings, step.project)

    def _all_samples(self, step: Step) -> Iterator[Sample]:
        """Yield every sample, without holding more than some of them."""
        after = 0
        while page := self.store.sample_page(step.project.id, after, PAGE):
            yield from page
            after = page[-1].task_id

    def first_samples(self, step: Step) -> list[Sample]:
        """Return the few random samples that are labelled without demonstrations."""
        samples = [s for s in self.store.samples(step.project.id) if s.problem is None]
        select = DEMONSTRATIONS.get(step.settings.first_demonstration)
        space = step.project.label_space
        index = select(
            texts=[s.text for s in samples],
            labels=np.full(len(samples), -1),
            eligible=np.ones(len(samples), dtype=bool),
            features=None,
            n=step.settings.n_demos,
            n_classes=len(space.labels),
            rng=np.random.default_rng(step.settings.seed),
        )
        return [samples[i] for i in index]

    def _self_labelled(self, step: Step, annotation: Annotation) -> tuple[Demo, ...]:
        """Let the LLM label a few samples without demonstrations (the paper's Self-Labeling, section 3).

        Of several the last one is asked, whom the strategies trust most: all others see what it said.
        """
        chosen, space = self.first_samples(step), step.project.label_space
        answers = self.store.llm_labels(step.project.id)
        human = self.store.human_labels(step.project.id)
        missing = [s for s in chosen if s.task_id not in answers and s.task_id not in human]
        last = len(annotation.annotators) - 1
        annotation.ask_once(missing, last, annotation.questions.zero_shot(), self._reporter(step))
        said: dict[int, Answer | HumanLabel] = {**self.store.llm_labels(step.project.id), **human}
        labels = ((s.text, said[s.task_id].label) for s in chosen if s.task_id in said)
        return tuple(Demo(text, label) for text, label in labels if label is not None and space.allows(label))

    def _reporter(self, step: Step) -> Reporter:
        return Reporter(self.store, step, self._watch)


class _Beside:
    """Tells what is done about one of several controls as a part of all; what is done about the others stays as it is.

    Parameters
    ----------
    control : str or None
        None where there is one: then it tells just that.
    controls : int
        How many there are.
    progress : mapping
        The round's.

    Attributes
    ----------
    asked : dict
        Control -> how many of its questions are answered, and how many there are; of those that were asked so far.
    """

    def __init__(self, report: Report, control: str | None, controls: int, progress: Mapping[str, Any]) -> None:
        self._report, self._control, self._controls = report, control, controls
        self.asked: dict[str, list[int]] = dict(progress.get("asked") or {})

    def __call__(self, done: int, total: int, detail: Mapping[str, Any], *, last: bool = False) -> None:
        if self._control is None:
            self._report(done, total, detail, last=last)
            return
        self.asked[self._control] = [done, total]
        all_done, known = (sum(numbers) for numbers in zip(*self.asked.values(), strict=True))
        unknown = total * (self._controls - len(self.asked))  # taken to be as many
        self._report(all_done, known + unknown, {**detail, "control": self._control}, last=last)


class Reporter:
    """Writes the progress of a stage into the store, at most once a second, and tells the watcher every time.

    Calling it is also how a long stage learns that the round was paused or taken over: it raises ``RoundStopped`` or
    ``LeaseLostError``.
    """

    def __init__(self, store: Store, step: Step, watch: Watch | None) -> None:
        self._store, self._step, self._watch = store, step, watch
        self._stage = step.round.stage
        self._began = self._written = time.monotonic()

    def __call__(self, done: int, total: int, detail: Mapping[str, Any], *, last: bool = False) -> None:
        now = time.monotonic()
        if self._watch is not None:
            self._watch(self._stage, done, total, detail)
        if not last and now - self._written < REPORT_SECONDS:
            return
        self._written = now
        entry = {"done": done, "total": total, "seconds": round(now - self._began, 3), **detail}
        progress = {**self._store.round(self._step.round.id).progress, str(self._stage): entry}
        self._store.update_round(self._step.round.id, self._step.lease, progress=progress)


def neighbours_of(store: Store, settings: Settings, project: Project) -> Neighbours | None:
    """Return what finds the verified samples nearest to a text, where prompts are to be made of them."""
    many = len(project.label_space.labels) > settings.llm_labels
    if project.active_round is None or not (many or settings.demonstration == "retrieval"):
        return None
    verified = Verified.read(store, settings, project)
    if verified is None:
        return None
    serving = store.round(project.active_round)
    folder, width = model_folder(settings, serving, project.control), verified.features.shape[1]

    def features_of(texts: Sequence[str]) -> Floats:
        try:
            return features_of_kind(project.label_space, folder, texts)
        except ModelFileError as error:  # the round trains a new one; without this it would never get there
            logger.warning("project %d: new texts are shown any examples, not the nearest: %s", project.id, error)
            return np.zeros((len(texts), width), dtype=np.float32)

    return Neighbours(verified, features_of)


def lazy_embed(settings: Settings) -> Callable[[Sequence[str]], Floats]:
    """Return a function that embeds texts; the encoder is loaded when it is first called."""
    loaded: list[Callable[[Sequence[str]], Floats]] = []

    def embed(texts: Sequence[str]) -> Floats:
        if not loaded:
            from coral_backend.slm.encoder import Encoder  # torch, only where it is needed

            loaded.append(Encoder.load(settings.slm_model, settings.max_length).embed)
        return loaded[0](texts)

    return embed


def model_folder(settings: Settings, current: Round, control: str | None = None) -> Path:
    """Return where a round's SLM lies; of one of several controls, that control's."""
    return corpus_arrays.round_folder(settings, current, control) / "model"


def _widest(parts: Sequence[Part]) -> Sequence[Annotator]:
    """Return all who are asked about any control; a shorter team is the beginning of a longer one."""
    return max((part.annotation.annotators for part in parts), key=len)


def _add_seconds(metrics: Mapping[str, Any], stage: Stage, seconds: float) -> dict[str, Any]:
    spent = dict(metrics.get("seconds", {}))
    spent[str(stage)] = round(spent.get(str(stage), 0.0) + seconds, 3)
    return {**metrics, "seconds": spent}


__all__ = [
    "RoundRunner",
    "choose_demos",
    "model_folder",
    "neighbours_of",
    "prompt_for",
    "round_lease",
    "settings_for",
    "waits_until",
]
