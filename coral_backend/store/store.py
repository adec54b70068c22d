"""What can be asked of the database, and what can be told to it? About twenty verbs; each is one transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Row, Table, and_, bindparam, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from coral_backend.exceptions import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    RoundStopped,
    StoreUnavailableError,
)
from coral_backend.store import holders
from coral_backend.store import tables as t
from coral_backend.store.asked import Asked
from coral_backend.store.engine import move_log, open_engine
from coral_backend.store.engine import storable as _clean
from coral_backend.store.ledger import Ledger
from coral_backend.store.migrations import migrate
from coral_backend.store.opinions import Opinions
from coral_backend.store.replies import Replies
from coral_backend.store.review import ReviewVerbs, rollback_lease
from coral_backend.types import (
    Answer,
    Demo,
    Detail,
    Flag,
    HumanLabel,
    LabelSpace,
    Lease,
    Project,
    Round,
    RoundStatus,
    Sample,
    Source,
    Stage,
    Verdict,
)

LEASE_SECONDS = 120.0
"""How long a lease lives without a sign of life from its holder."""

ACTIVE = (RoundStatus.PENDING, RoundStatus.RUNNING, RoundStatus.PAUSED)
ANNOTATION_KEY = ("project_id", "annotation_id")
TELLING = ("task_id", "label", "skipped", "ground_truth")
"""What a retraining can learn from; a change of anything else starts none."""
ORIGIN = ("prediction_version", "prediction_label")
SAMPLE_COLUMNS = tuple(t.samples.c[name] for name in Sample.__dataclass_fields__)
COUNTED = {"preserve_rowcount": True}
"""Without it SQLAlchemy answers -1 for the rows of an INSERT on PostgreSQL."""
IN_CHUNK = 500
"""Rows in one statement: below SQLite's and PostgreSQL's limits on bound values."""


class Store(ReviewVerbs):
    """The database as CORAL sees it.

    Parameters
    ----------
    url : str
        SQLAlchemy URL of SQLite or PostgreSQL; missing tables are made.
    now : callable, optional
        Returns seconds since the epoch; tests pass their own.

    Attributes
    ----------
    asked : Asked
        What is known about each sample that a round could ask about.
    ledger : Ledger
        What requests took and cost, and the batches that are paid for.
    opinions : Opinions
        What each annotator said, before it was decided.
    replies : Replies
        What LLM endpoints answered and accept.
    """

    def __init__(self, url: str, *, now: Callable[[], float] = time.time) -> None:
        self._engine = open_engine(url)
        self._now = now
        self._insert: Any = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        self._open = _Open()
        self._upserts: dict[tuple[Any, ...], Any] = {}
        self.asked = Asked(self)
        self.ledger = Ledger(self)
        self.opinions = Opinions(self)
        self.replies = Replies(self)
        with self._write() as connection:
            migrate(connection)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def tidy(self) -> None:
        """Move SQLite's log into the file, as far as nobody reads from it; others write meanwhile.

        Whoever commits beyond ``WAL_PAGES`` must do it while all his slots wait.
        """
        if self._engine.dialect.name == "sqlite":
            move_log(self._engine)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commit everything that this thread writes in the block in one transaction; when the block raises, nothing.

        Many small writes cost a fraction of what they cost alone. It holds the database's write lock: keep it short.
        """
        if self._open.connection is not None:
            yield
            return
        with self._write() as connection:
            self._open.connection = connection
            try:
                yield
                for finish in self._open.at_the_end.values():
                    finish()
                self._open.execute_rows()
            finally:
                self._open.connection = None
                self._open.guarded.clear()
                self._open.rows.clear()
                self._open.at_the_end.clear()

    # --- projects ---------------------------------------------------------------------------------------------

    def save_project(self, project: Project) -> None:
        """Insert `project`, or update its title, label config and options; versions and counters stay as they are."""
        values = {
            "title": _clean(project.title),
            "label_config": _clean(project.label_config),
            "config_hash": project.config_hash,
            "label_space": project.label_space.to_json(),
            "options": dict(project.options),
        }
        first = {**values, "id": project.id, "model_version": project.model_version, "changes": 0}
        with self._write() as connection:
            self._upsert(connection, t.projects, [first], key=("id",), change=tuple(values))

    def project(self, project_id: int) -> Project:
        """Return a project.

        Raises
        ------
        NotFoundError
            If it is not connected.
        """
        with self._read() as connection:
            row = connection.execute(select(t.projects).where(t.projects.c.id == project_id)).first()
        if row is None:
            known = [project.id for project in self.projects()]
            raise NotFoundError(
                f"Project {project_id} is not connected to CORAL (connected: {known or 'none'}). "
                f"Connect it: coral connect --project {project_id}."
            )
        return _project(row)

    def projects(self) -> list[Project]:
        """Return all connected projects by id."""
        with self._read() as connection:
            return [_project(row) for row in connection.execute(select(t.projects).order_by(t.projects.c.id))]

    def mark_reconciled(self, project_id: int) -> None:
        """Remember that annotations were read back from Label Studio now, or that this was tried."""
        self._set_project(project_id, reconciled_at=self._now())

    def delay_catch_up(self, project_id: int, seconds: float, error: str) -> None:
        """Have the wanted tasks of a project wait: labelling them failed with `error`."""
        self._set_project(project_id, catch_up_after=self._now() + seconds, catch_up_error=_clean(error))

    # --- samples ----------------------------------------------------------------------------------------------

    def put_samples(self, project_id: int, samples: Sequence[Sample], *, wanted: bool = False) -> int:
        """Insert or update samples and return how many are new or changed; an unchanged one costs no write.

        `wanted` marks tasks that Label Studio asked for before their label was known.
        """
        if not samples:
            return 0
        known = self._known(project_id, [s.task_id for s in samples])
        fresh = {s.task_id: s for s in samples if known.get(s.task_id) != (s.content_hash, _clean(s.slice)) or wanted}
        rows = [
            {
                "project_id": project_id,
                "task_id": s.task_id,
                "text": _clean(s.text),
                "problem": _clean(s.problem),
                "recorded": _clean(s.recorded),
                "content_hash": s.content_hash,
                "wanted": wanted,
                "retired": False,
                "slice": _clean(s.slice),
            }
            for s in fresh.values()
        ]
        change = ("text", "problem", "recorded", "content_hash", "retired", "slice") + (("wanted",) if wanted else ())
        with self._write() as connection:
            self._upsert(connection, t.samples, rows, key=("project_id", "task_id"), change=change)
        return sum(1 for s in fresh.values() if known.get(s.task_id, ("",))[0] != s.content_hash)

    def retire_samples(self, project_id: int, task_ids: Collection[int]) -> None:
        """Mark samples as deleted in Label Studio; their labels stay as history."""
        with self._write() as connection:
            for chunk in _chunks(sorted(task_ids)):
                connection.execute(
                    update(t.samples)
                    .where(t.samples.c.project_id == project_id, t.samples.c.task_id.in_(chunk))
                    .values(retired=True, wanted=False)
                )

    def samples(self, project_id: int, task_ids: Collection[int] | None = None) -> list[Sample]:
        """Return the samples that are not retired, by task id; only `task_ids` of them if given."""
        c = t.samples.c
        query = select(*SAMPLE_COLUMNS).where(c.project_id == project_id, c.retired.is_(False))
        return [Sample(*tuple(row)) for row in self._by_task(query.order_by(c.task_id), c.task_id, task_ids)]

    def sample_page(self, project_id: int, after: int, size: int) -> list[Sample]:
        """Return the next `size` samples that are not retired, behind the task `after`, by task id."""
        c = t.samples.c
        query = select(*SAMPLE_COLUMNS).where(c.project_id == project_id, c.retired.is_(False))
        query = query.where(c.task_id > after).order_by(c.task_id).limit(size)
        with self._read() as connection:
            return [Sample(*tuple(row)) for row in connection.execute(query)]

    def wanted(self, project_id: int) -> list[int]:
        """Return the ids of tasks that Label Studio asked for and that no background job has answered yet."""
        c = t.samples.c
        query = select(c.task_id).where(c.project_id == project_id, c.wanted.is_(True), c.retired.is_(False))
        with self._read() as connection:
            return list(connection.scalars(query.order_by(c.task_id)))

    def answered(self, project_id: int, task_ids: Collection[int]) -> None:
        """Take back the mark that ``put_samples(wanted=True)`` made, and any delay of the project."""
        self._set_project(project_id, catch_up_after=None, catch_up_error=None)
        with self._write() as connection:
            for chunk in _chunks(sorted(task_ids)):
                connection.execute(
                    update(t.samples)
                    .where(t.samples.c.project_id == project_id, t.samples.c.task_id.in_(chunk))
                    .values(wanted=False)
                )

    # --- llm labels -------------------------------------------------------------------------------------------

    def put_llm_label(
        self,
        project_id: int,
        round_number: int,
        sample: Sample,
        answer: Answer,
        *,
        prompt_version: str,
        lease: Lease | None = None,
    ) -> None:
        """Store one answer of the annotator; the first of a round to the same content and prompt stays.

        Raises
        ------
        LeaseLostError
            If `lease` is no longer the newest: another worker owns the round.
        """
        row = self._llm_label_row(project_id, round_number, sample, answer, prompt_version)
        self._put(self._llm_label_upsert, [row], lease)

    def _llm_label_row(
        self, project_id: int, round_number: int, sample: Sample, answer: Answer, prompt_version: str
    ) -> dict[str, Any]:
        return {
            "project_id": project_id,
            "task_id": sample.task_id,
            "round_number": round_number,
            "content_hash": sample.content_hash,
            "label": _clean(answer.label),
            "raw": _clean(answer.raw),
            "reason": _clean(answer.reason),
            "confidence": answer.confidence,
            "annotator": answer.annotator,
            "prompt_version": prompt_version,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "seconds": answer.seconds,
            "created_at": self._now(),
        }

    @cached_property
    def _llm_label_upsert(self) -> Any:
        # Made once: to put the statement together takes longer than to execute it.
        key, c = ("project_id", "task_id", "round_number"), t.llm_labels.c
        return self._upsert_into(
            t.llm_labels,
            key=key,
            change=tuple(set(c.keys()) - set(key)),
            where=lambda new: or_(c.content_hash != new.content_hash, c.prompt_version != new.prompt_version),
        )

    def llm_labels(
        self, project_id: int, *, round_number: int | None = None, task_ids: Collection[int] | None = None
    ) -> dict[int, Answer]:
        """Return each task's newest answer that still fits its content; only those of one round, or some tasks, if given.

        The answers of rounds that a rollback set aside do not count, unless their round is asked for.
        """
        return self._answers(t.llm_labels, project_id, round_number, task_ids)

    def _answers(
        self, table: Table, project_id: int, round_number: int | None, task_ids: Collection[int] | None, *more: Any
    ) -> dict[int, Answer]:
        """Return ``llm_labels`` of `table`, which fulfil `more`."""
        c, s, r = table.c, t.samples.c, t.rounds.c
        same = and_(s.project_id == c.project_id, s.task_id == c.task_id, s.content_hash == c.content_hash)
        query = select(table).join(t.samples, same).where(c.project_id == project_id, s.retired.is_(False), *more)
        if round_number is not None:
            query = query.where(c.round_number == round_number)
        else:
            aside = select(r.number).where(r.project_id == project_id, r.set_aside.is_(True))
            query = query.where(c.round_number.not_in(aside))
        rows = self._by_task(query.order_by(c.round_number), c.task_id, task_ids)
        return {row.task_id: _answer(row) for row in rows}

    def llm_rounds(self, project_id: int) -> list[int]:
        """Return the numbers of the rounds that asked the annotator, ascending; 0 stands for answers before the first."""
        c = t.llm_labels.c
        query = select(c.round_number).where(c.project_id == project_id).distinct().order_by(c.round_number)
        with self._read() as connection:
            return list(connection.scalars(query))

    def llm_history(self, project_id: int, task_ids: Collection[int]) -> dict[int, dict[int, tuple[str | None, str]]]:
        """Return every answer ever stored about some tasks: task id -> round number -> (label, prompt version)."""
        c = t.llm_labels.c
        columns = (c.task_id, c.round_number, c.label, c.prompt_version)
        query = select(*columns).where(c.project_id == project_id).order_by(c.task_id, c.round_number)
        history: dict[int, dict[int, tuple[str | None, str]]] = {}
        for row in self._by_task(query, c.task_id, task_ids):
            history.setdefault(row.task_id, {})[row.round_number] = (row.label, row.prompt_version)
        return history

    def llm_usage(self, project_id: int) -> dict[int, dict[str, int]]:
        """Return, for each round number, the answers asked for, how many are labels, and the tokens they took."""
        c = t.llm_labels.c
        sums = (func.count(), func.count(c.label), func.sum(c.prompt_tokens), func.sum(c.completion_tokens))
        query = select(c.round_number, *sums).where(c.project_id == project_id).group_by(c.round_number)
        with self._read() as connection:
            rows = connection.execute(query.order_by(c.round_number)).all()
        names = ("answers", "labels", "prompt_tokens", "completion_tokens")
        return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}

    # --- human labels -----------------------------------------------------------------------------------------

    def put_annotations(self, project_id: int, labels: Sequence[HumanLabel]) -> int:
        """Insert or update annotations by people and return how many changed anything.

        Events may come twice or out of order: the newer state of an annotation wins, and a deleted one stays deleted.
        """
        rows = {label.annotation_id: _annotation_row(project_id, label) for label in _newest_last(labels)}
        with self._write() as connection:
            known = self._annotations(connection, project_id, rows)
            fresh = [(known.get(key), row) for key, row in rows.items() if _is_newer(row, known.get(key))]
            kept = [row if old is None else _with_origin(row, old) for old, row in fresh]
            change = tuple(set(kept[0]) - set(ANNOTATION_KEY)) if kept else ()
            self._upsert(connection, t.annotations, kept, key=ANNOTATION_KEY, change=change)
            changed = sum(old is None or any(row[k] != getattr(old, k) for k in TELLING) for old, row in fresh)
            self._count_changes(connection, project_id, changed)
        return changed

    def retire_annotations(self, project_id: int, annotation_ids: Collection[int]) -> int:
        """Mark annotations as deleted, known or not (the "created" event may come later); return how many changed."""
        c = t.annotations.c
        with self._write() as connection:
            changed = 0
            for annotation_id in sorted(annotation_ids):
                row = {
                    "project_id": project_id, "annotation_id": annotation_id, "task_id": None, "label": None,
                    "user_id": None, "updated_at": "", "skipped": False, "ground_truth": False, "deleted": True,
                }  # fmt: skip
                changed += self._upsert(
                    connection,
                    t.annotations,
                    [row],
                    key=ANNOTATION_KEY,
                    change=("deleted",),
                    where=c.deleted.is_(False),
                )
            self._count_changes(connection, project_id, changed)
        return changed

    def annotation_ids(self, project_id: int) -> set[int]:
        """Return the ids of the annotations that are not deleted."""
        c = t.annotations.c
        query = select(c.annotation_id).where(c.project_id == project_id, c.deleted.is_(False))
        with self._read() as connection:
            return set(connection.scalars(query))

    def human_labels(self, project_id: int, task_ids: Collection[int] | None = None) -> dict[int, HumanLabel]:
        """Return the human label of each task that has one.

        Of several annotations the ground truth counts, else the newest; skipped and empty ones are no label.
        """
        c = t.annotations.c
        columns = [c[name] for name in HumanLabel.__dataclass_fields__]
        query = select(*columns).where(c.project_id == project_id, c.deleted.is_(False), c.label.is_not(None))
        order = query.order_by(c.ground_truth, c.updated_at, c.annotation_id)
        return {row.task_id: HumanLabel(*tuple(row)) for row in self._by_task(order, c.task_id, task_ids)}

    def put_event(self, project_id: int, action: str, digest: str) -> bool:
        """Record a webhook event; False if the same one was recorded before."""
        row = {"digest": digest, "project_id": project_id, "action": action, "received_at": self._now()}
        with self._write() as connection:
            statement = self._insert(t.events).values(row).on_conflict_do_nothing()
            return bool(connection.execute(statement, execution_options=COUNTED).rowcount)

    def last_event_at(self, project_id: int) -> float | None:
        """Return when the last webhook event of a project came, in seconds since the epoch; None when none did."""
        query = select(func.max(t.events.c.received_at)).where(t.events.c.project_id == project_id)
        with self._read() as connection:
            last: float | None = connection.scalar(query)
        return last

    # --- rounds -----------------------------------------------------------------------------------------------

    def create_round(self, project_id: int, settings: Mapping[str, Any], *, retrain: bool = False) -> Round:
        """Begin a round (or, with `retrain`, the next revision of the newest one that counts) as pending.

        Raises
        ------
        ConflictError
            If the project has an active round (two people pressed the button, and one round is what they want), or is
            going back to an older one.
        """
        project, rounds = self.project(project_id), self.rounds(project_id)
        last = next((one for one in rounds if not one.set_aside), None) if retrain else next(iter(rounds), None)
        number = (last.number if last else 1) if retrain else (last.number + 1 if last else 1)
        revision = last.revision + 1 if retrain and last else 0
        now = self._now()
        row = {
            "project_id": project_id, "number": number, "revision": revision, "status": RoundStatus.PENDING,
            "stage": Stage.SYNC, "config_hash": project.config_hash, "settings": dict(settings), "progress": {},
            "metrics": {}, "demos": [], "through_change": project.changes, "created_at": now, "updated_at": now, "active": project_id,
            "parent_id": project.active_round,
        }  # fmt: skip
        try:
            with self._write() as connection:
                connection.execute(self._first_lease(rollback_lease(project_id)))
                self._refuse_rollback(connection, project_id)
                round_id = connection.execute(insert(t.rounds).values(row).returning(t.rounds.c.id)).scalar_one()
        except IntegrityError:
            active = self.active_round(project_id)
            name = f"round {active.name} ({active.status}, {active.stage})" if active else "another round"
            raise ConflictError(
                f"Project {project_id} already has {name}. Wait for it, or cancel it: coral round --cancel."
            ) from None
        return self.round(round_id)

    def round(self, round_id: int) -> Round:
        """Return a round.

        Raises
        ------
        NotFoundError
            If there is none with this id.
        """
        with self._read() as connection:
            row = connection.execute(select(t.rounds).where(t.rounds.c.id == round_id)).first()
        if row is None:
            raise NotFoundError(f"There is no round with id {round_id}.")
        return _round(row)

    def rounds(self, project_id: int) -> list[Round]:
        """Return a project's rounds, the newest first."""
        c = t.rounds.c
        query = select(t.rounds).where(c.project_id == project_id).order_by(c.number.desc(), c.revision.desc())
        with self._read() as connection:
            return [_round(row) for row in connection.execute(query)]

    def active_round(self, project_id: int | None = None) -> Round | None:
        """Return the pending, running or paused round of a project (of any project if None)."""
        c = t.rounds.c
        query = select(t.rounds).where(c.active.is_not(None) if project_id is None else c.active == project_id)
        with self._read() as connection:
            row = connection.execute(query.order_by(c.id).limit(1)).first()
        return _round(row) if row else None

    def update_round(self, round_id: int, lease: Lease, **changes: Any) -> Round:
        """Change a round's columns under `lease`, renew the lease, and return the round.

        Allowed: stage, progress, metrics, demos, model_version, settings, config_hash, through_change, status, error.

        Raises
        ------
        LeaseLostError
            If another worker owns the round now.
        RoundStopped
            If somebody paused or cancelled it meanwhile; nothing is changed then.
        """
        if "demos" in changes:
            changes["demos"] = [[demo.text, demo.label] for demo in changes["demos"]]
        with self._write() as connection:
            self._guard(connection, lease)
            self._refuse_stopped(connection, round_id)
            self._set_round(connection, round_id, {"status": RoundStatus.RUNNING, **changes})
            self._renew(connection, lease)
        return self.round(round_id)

    def finish_round(self, round_id: int, lease: Lease, model_version: str, metrics: Mapping[str, Any]) -> None:
        """Mark a round as done and make its verdicts and model the ones that serve, in one transaction.

        Tasks that it judged are no longer wanted.

        Raises
        ------
        LeaseLostError, RoundStopped
            As ``update_round``.
        """
        with self._write() as connection:
            self._guard(connection, lease)
            self._refuse_stopped(connection, round_id)
            done = {"status": RoundStatus.DONE, "model_version": model_version, "metrics": dict(metrics)}
            project_id = self._set_round(connection, round_id, done)
            row = update(t.projects).where(t.projects.c.id == project_id)
            connection.execute(row.values(active_round=round_id, model_version=model_version))
            c, v = t.samples.c, t.verdicts.c
            judged = select(v.task_id).where(v.round_id == round_id, v.content_hash == c.content_hash)
            judged = judged.where(v.project_id == c.project_id, v.task_id == c.task_id)
            mine = and_(c.project_id == project_id, c.wanted.is_(True), judged.exists())
            connection.execute(update(t.samples).where(mine).values(wanted=False))

    def set_round_status(
        self, round_id: int, status: RoundStatus, error: str | None = None, *, lease: Lease | None = None
    ) -> Round:
        """Pause, resume (``pending``), cancel or fail a round; only an active one can change.

        With a `lease` only its holder can: what happens to a worker that was taken over no longer matters to the round.

        Raises
        ------
        ConflictError
            If the round is over.
        LeaseLostError
            If `lease` is no longer the newest.
        """
        changes: dict[str, Any] = {"status": status, "error": _clean(error)}
        self.round(round_id)  # raises if there is none
        with self._write() as connection:
            self._guard(connection, lease)
            query = select(t.rounds).where(t.rounds.c.id == round_id).with_for_update()
            current = _round(connection.execute(query).one())  # its worker may finish it at this moment
            if current.status not in ACTIVE:
                raise ConflictError(
                    f"Round {current.name} is {current.status}; only an active round can become {status}."
                )
            if status is RoundStatus.PENDING:  # a person resumed it: its setbacks are forgiven
                forgiven = {"setbacks", "waits_until", "asking"}
                kept = (k for k in current.progress if k.partition(" ")[0] not in forgiven)
                changes["progress"] = {k: current.progress[k] for k in kept}
            self._set_round(connection, round_id, changes)
        return self.round(round_id)

    def set_round_options(self, round_id: int, **options: Any) -> Round:
        """Change settings that a round carries with it (its budget, whether it asks in batches)."""
        current = self.round(round_id)
        with self._write() as connection:
            self._set_round(connection, round_id, {"settings": {**current.settings, **options}})
        return self.round(round_id)

    # --- verdicts ---------------------------------------------------------------------------------------------

    def put_verdicts(self, project_id: int, round_id: int, verdicts: Sequence[Verdict], lease: Lease | None) -> None:
        """Store the verdicts of a round; those it had for the same tasks are replaced."""
        rows = [{"project_id": project_id, "round_id": round_id, **_verdict_row(v)} for v in verdicts]
        key = ("project_id", "round_id", "task_id")
        with self._write() as connection:
            self._guard(connection, lease)
            for chunk in _chunks(rows):
                self._upsert(connection, t.verdicts, chunk, key=key, change=tuple(set(chunk[0]) - set(key)))

    def verdicts(self, project_id: int, round_id: int, task_ids: Collection[int] | None = None) -> list[Verdict]:
        """Return a round's verdicts of the tasks that still exist, most doubtful first."""
        return self._verdicts(project_id, round_id, task_ids)

    def _verdicts(self, project_id: int, round_id: int, task_ids: Collection[int] | None, *more: Any) -> list[Verdict]:
        c, s = t.verdicts.c, t.samples.c
        here = and_(s.project_id == c.project_id, s.task_id == c.task_id)
        columns = [c[name] for name in Verdict.__dataclass_fields__]
        query = select(*columns).join(t.samples, here)
        query = query.where(c.project_id == project_id, c.round_id == round_id, s.retired.is_(False), *more)
        return [_verdict(row) for row in self._by_task(query.order_by(c.rank, c.task_id), c.task_id, task_ids)]

    # --- leases -----------------------------------------------------------------------------------------------

    def take_lease(self, name: str, *, seconds: float = LEASE_SECONDS) -> Lease | None:
        """Return the lease `name` with a new token, or None while another holder's sign of life is fresh.

        That of a process that is known to be dead counts for nothing, so that a killed round goes on at once.
        """
        now = self._now()
        c = t.leases.c
        with self._write() as connection:
            connection.execute(self._first_lease(name))
            held = connection.execute(select(t.leases).where(c.name == name).with_for_update()).one()
            free = held.expires_at <= now or holders.is_dead(held.holder)
            taken = None
            if free:
                row = update(t.leases).where(c.name == name, c.token == held.token)
                values = {"token": c.token + 1, "holder": holders.this_process(), "expires_at": now + seconds}
                taken = connection.execute(row.values(values).returning(c.token)).scalar()
        return Lease(name, taken) if taken is not None else None

    def keep_lease(self, lease: Lease) -> None:
        """Give a sign of life.

        Raises
        ------
        LeaseLostError
            If it is somebody else's by now.
        """
        with self._write() as connection:
            self._guard(connection, lease)
            self._renew(connection, lease)

    def drop_lease(self, lease: Lease) -> None:
        """Give a lease back; does nothing if it is somebody else's by now."""
        with self._write() as connection:
            mine = and_(t.leases.c.name == lease.name, t.leases.c.token == lease.token)
            connection.execute(update(t.leases).where(mine).values(expires_at=0.0))

    def lease_is_held(self, name: str) -> bool:
        """Say whether somebody holds the lease `name` now."""
        with self._read() as connection:
            row = connection.execute(select(t.leases).where(t.leases.c.name == name)).first()
        return row is not None and row.expires_at > self._now() and not holders.is_dead(row.holder)

    # --- inside -----------------------------------------------------------------------------------------------

    def reading(self) -> AbstractContextManager[Connection]:
        """Give a connection to the store's other modules, for questions of their own."""
        return self._read()

    def writing(self) -> AbstractContextManager[Connection]:
        """Give them a transaction that may write."""
        return self._write()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        if self._open.connection is not None:
            self._open.execute_rows()
            yield self._open.connection
            return
        with _answering(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        if self._open.connection is not None:
            self._open.execute_rows()
            yield self._open.connection
            return
        with _answering(), self._engine.connect() as plain:
            connection = plain.execution_options(coral_writes=True)
            with connection.begin():
                yield connection

    def _put(self, statement: Any, rows: Sequence[Mapping[str, Any]], lease: Lease | None = None) -> None:
        """Execute `statement` with `rows`; inside ``together`` once for all rows of all callers, before anything else is read.

        To execute a statement costs several times what one more row of it does.
        """
        if self._open.connection is not None:
            self._guard(self._open.connection, lease)
            self._open.rows.setdefault(statement, []).extend(rows)
            return
        with self._write() as connection:
            self._guard(connection, lease)
            connection.execute(statement, list(rows))

    def _first_lease(self, name: str) -> Any:
        """Return the statement that makes a lease's row, which nobody holds, if there is none: it can then be locked."""
        first = {"name": name, "token": 0, "holder": "", "expires_at": 0.0}
        return self._insert(t.leases).values(first).on_conflict_do_nothing()

    def _upsert(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: Sequence[str],
        change: Sequence[str],
        where: Any = None,
    ) -> int:
        """Insert `rows`; where the key exists, change the columns named in `change` if `where` holds. Return the count."""
        if not rows:
            return 0
        # One statement with many parameter sets: a VALUES list would be compiled anew for each length. It is kept, for to
        # put it together takes longer than to execute it.
        name = (table.name, tuple(key), tuple(change))
        statement = self._upserts.get(name) if where is None else None
        if statement is None:
            statement = self._upsert_into(table, key=key, change=change, where=where)
            if where is None:
                self._upserts[name] = statement
        return int(connection.execute(statement, list(rows), execution_options=COUNTED).rowcount)

    def _upsert_into(self, table: Table, *, key: Sequence[str], change: Sequence[str], where: Any) -> Any:
        statement = self._insert(table)
        condition = where(statement.excluded) if callable(where) else where
        values = {name: statement.excluded[name] for name in change}
        return statement.on_conflict_do_update(index_elements=list(key), set_=values, where=condition)

    def _by_task(self, query: Any, column: Any, task_ids: Collection[int] | None) -> list[Row[Any]]:
        with self._read() as connection:
            if task_ids is None:
                return list(connection.execute(query))
            chunks = _chunks(sorted(set(task_ids)))
            return [row for chunk in chunks for row in connection.execute(query.where(column.in_(chunk)))]

    def _annotations(self, connection: Connection, project_id: int, ids: Collection[int]) -> dict[int, Row[Any]]:
        c = t.annotations.c
        query = select(t.annotations).where(c.project_id == project_id)
        chunks = _chunks(sorted(ids))
        rows = (row for chunk in chunks for row in connection.execute(query.where(c.annotation_id.in_(chunk))))
        return {row.annotation_id: row for row in rows}

    def _known(self, project_id: int, task_ids: Collection[int]) -> dict[int, tuple[str, str | None]]:
        """Return content hash and slice of the samples that are there."""
        c = t.samples.c
        query = select(c.task_id, c.content_hash, c.slice).where(c.project_id == project_id, c.retired.is_(False))
        return {row.task_id: (row.content_hash, row.slice) for row in self._by_task(query, c.task_id, task_ids)}

    def _guard(self, connection: Connection, lease: Lease | None) -> None:
        if lease is None or lease in self._open.guarded:
            return
        token = connection.scalar(_TOKEN, {"lease": lease.name})
        if token != lease.token:
            raise LeaseLostError(f"{lease.name} was taken over (token {token}, ours {lease.token}); this worker stops.")
        if self._open.connection is not None:  # the row is locked until the commit
            self._open.guarded.add(lease)

    def _renew(self, connection: Connection, lease: Lease) -> None:
        row = update(t.leases).where(t.leases.c.name == lease.name)
        connection.execute(row.values(expires_at=self._now() + LEASE_SECONDS))

    def _set_project(self, project_id: int, **values: Any) -> None:
        with self._write() as connection:
            connection.execute(update(t.projects).where(t.projects.c.id == project_id).values(values))

    def _refuse_stopped(self, connection: Connection, round_id: int) -> None:
        row = connection.execute(select(t.rounds).where(t.rounds.c.id == round_id)).one()
        if row.status not in (RoundStatus.PENDING, RoundStatus.RUNNING):
            raise RoundStopped(f"Round {_round(row).name} is {row.status}.")

    def _set_round(self, connection: Connection, round_id: int, changes: Mapping[str, Any]) -> int:
        """Write `changes`, keep ``active`` and the times in step with the status, and return the project's id."""
        now = self._now()
        values = {**changes, "updated_at": now}
        if values.get("status", RoundStatus.RUNNING) not in ACTIVE:
            values.update(active=None, finished_at=now)
        statement = update(t.rounds).where(t.rounds.c.id == round_id).values(values).returning(t.rounds.c.project_id)
        return int(connection.execute(statement).scalar_one())

    def _count_changes(self, connection: Connection, project_id: int, changed: int) -> None:
        if changed:
            row = update(t.projects).where(t.projects.c.id == project_id)
            connection.execute(row.values(changes=t.projects.c.changes + changed, changed_at=self._now()))


_TOKEN = select(t.leases.c.token).where(t.leases.c.name == bindparam("lease")).with_for_update()


class _Open(threading.local):
    """The transaction that ``Store.together`` has open in this thread.

    Attributes
    ----------
    guarded : set of Lease
        Leases known to be ours in it.
    rows : dict
        What is to be written before it is committed: statement -> rows.
    at_the_end : dict
        What is to be called once before it is committed, by any key.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.guarded: set[Lease] = set()
        self.rows: dict[Any, list[Mapping[str, Any]]] = {}
        self.at_the_end: dict[Any, Callable[[], None]] = {}

    def execute_rows(self) -> None:
        """Write what is to be written."""
        if self.connection is None or not self.rows:
            return
        rows, self.rows = self.rows, {}
        for statement, many in rows.items():
            self.connection.execute(statement, many)


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what the driver raises when the database is away, locked or full into our own error, without its SQL."""
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        # Only an operational error's text is free of values from the rows.
        cause = error.orig if isinstance(error, OperationalError) else None
        reason = str(cause).splitlines()[0] if cause is not None else type(error).__name__
        raise StoreUnavailableError(
            f"The database does not answer ({reason}). Nothing of this step was kept; look at its disk space and locks "
            "(SQLite: MODEL_DIR) or at the server (DATABASE_URL), then try again."
        ) from error


def _chunks(items: Sequence[Any], size: int = IN_CHUNK) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), max(1, size)))


def _project(row: Row[Any]) -> Project:
    values = {name: getattr(row, name) for name in Project.__dataclass_fields__ if name != "control"}
    return Project(**{**values, "label_space": LabelSpace.from_json(row.label_space)})


def _answer(row: Row[Any]) -> Answer:
    return Answer(**{name: getattr(row, name) for name in Answer.__dataclass_fields__ if name != "missing_mass"})


def _annotation_row(project_id: int, label: HumanLabel) -> dict[str, Any]:
    row = {name: getattr(label, name) for name in HumanLabel.__dataclass_fields__}
    texts = {name: _clean(row[name]) for name in ("label", "prediction_version", "prediction_label")}
    return {**row, **texts, "project_id": project_id, "deleted": False}


def _newest_last(labels: Sequence[HumanLabel]) -> list[HumanLabel]:
    return sorted(labels, key=lambda label: label.updated_at)


def _is_newer(row: Mapping[str, Any], old: Row[Any] | None) -> bool:
    """Say whether `row` is a later state than what is stored, or says more at the same time; deleted stays deleted."""
    return old is None or (not old.deleted and old.updated_at <= row["updated_at"])


def _with_origin(row: dict[str, Any], old: Row[Any]) -> dict[str, Any]:
    # The prediction that pre-filled the form is deleted with its version; what was known of it stays.
    return {**row, **{k: row[k] if row[k] is not None else getattr(old, k) for k in ORIGIN}}


def _round(row: Row[Any]) -> Round:
    values = {name: getattr(row, name) for name in Round.__dataclass_fields__}
    demos = tuple(Demo(text, label) for text, label in row.demos)
    return replace(Round(**values), demos=demos, status=RoundStatus(row.status), stage=Stage(row.stage))


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    values = {name: getattr(verdict, name) for name in Verdict.__dataclass_fields__}
    return {**values, "details": [asdict(detail) for detail in verdict.details] or None}


def _verdict(row: Row[Any]) -> Verdict:
    values = Verdict(*tuple(row))
    details = tuple(_detail(said) for said in row.details or ())
    return replace(values, flag=Flag(values.flag), source=_source(values.source), details=details)


def _detail(said: Mapping[str, Any]) -> Detail:
    return Detail(**{**said, "flag": Flag(said["flag"]), "source": _source(said["source"])})


def _source(name: str | None) -> Source | None:
    return Source(name) if name else None
