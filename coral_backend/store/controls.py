"""What does the database say of one control of a project? The same verbs, for one of the controls that are served together."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sqlalchemy import and_, or_, select

from coral_backend.controls import demos_of, human_label_of, joined_answer, verdict_of
from coral_backend.store import tables as t
from coral_backend.store.asked import Asked, Known
from coral_backend.store.opinions import Opinions
from coral_backend.store.store import Store, _answer
from coral_backend.types import Answer, HumanLabel, LabelSpace, Lease, Project, Round, Sample, Verdict

__all__ = ["ControlStore", "view_of"]

PLACES = 1_000
"""Questions about one control of a task in one round, at most: a strategy asks a handful."""

KEY = ("project_id", "task_id", "round_number", "control")


def view_of(store: Store, project: Project, space: LabelSpace) -> Store:
    """Return `store` as if the project had no other control than `space`; itself where it has none."""
    return ControlStore(store, space, project.label_space) if project.label_space.controls else store


def _aside(project_id: Any) -> Any:
    """Return the numbers of the rounds that a rollback set aside."""
    r = t.rounds.c
    return select(r.number).where(r.project_id == project_id, r.set_aside.is_(True))


@dataclass
class _Join:
    """Writes what all controls of some tasks say by now as the tasks' answers, once for all that is committed together."""

    whole: Store
    order: Sequence[str]
    project_id: int
    round_number: int
    lease: Lease | None
    samples: dict[int, Sample] = field(default_factory=dict)

    def __call__(self) -> None:
        c = t.control_labels.c
        query = select(t.control_labels).where(
            c.project_id == self.project_id, c.round_number.not_in(_aside(self.project_id))
        )
        rows: dict[int, dict[str, Any]] = {}
        for row in self.whole._by_task(query.order_by(c.task_id, c.round_number), c.task_id, self.samples):
            if row.content_hash == self.samples[row.task_id].content_hash:
                rows.setdefault(row.task_id, {})[row.control] = row
        for task_id, by_control in rows.items():
            self._put(self.samples[task_id], by_control)

    def _put(self, sample: Sample, rows: Mapping[str, Any]) -> None:
        answers = {name: _answer(row) for name, row in rows.items()}
        for name, row in rows.items():
            if row.round_number != self.round_number:  # what an earlier round took is its own
                answers[name] = replace(answers[name], prompt_tokens=0, completion_tokens=0, seconds=0.0)
        versions = [f"{name}={rows[name].prompt_version}" for name in self.order if name in rows]
        version = hashlib.sha256("\x00".join(versions).encode("utf-8", "surrogatepass")).hexdigest()[:12]
        joined = joined_answer(answers, self.order)
        self.whole.put_llm_label(
            self.project_id, self.round_number, sample, joined, prompt_version=version, lease=self.lease
        )


class ControlStore(Store):
    """A view: connection and transactions are those of the store it was made of.

    Labels, verdicts and demonstrations are those of one control. The annotator's answers are kept by control, and what they say
    together as the task's answer; everything else is the same.
    """

    def __init__(self, whole: Store, space: LabelSpace, all_controls: LabelSpace) -> None:
        self.__dict__.update(whole.__dict__)
        self._whole, self._space = whole, space
        self.asked = ControlAsked(self)
        self._order = [control.from_name for control in all_controls.controls]
        self.opinions = Opinions(self, space.from_name, PLACES * self._order.index(space.from_name))

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
        """Store one answer about the control, and with it what all controls say by now; see ``Store.put_llm_label``."""
        row = {
            **self._llm_label_row(project_id, round_number, sample, answer, prompt_version),
            "control": self._space.from_name,
        }
        with self._whole.together():
            self._put(self._control_label_upsert, [row], lease)
            join = _Join(self._whole, self._order, project_id, round_number, lease)
            known = self._open.at_the_end.setdefault(("join", project_id, round_number), join)
            if isinstance(known, _Join):
                known.samples[sample.task_id] = sample

    def llm_labels(
        self, project_id: int, *, round_number: int | None = None, task_ids: Collection[int] | None = None
    ) -> dict[int, Answer]:
        """Return each task's newest answer about the control; see ``Store.llm_labels``."""
        mine = t.control_labels.c.control == self._space.from_name
        return self._answers(t.control_labels, project_id, round_number, task_ids, mine)

    def human_labels(self, project_id: int, task_ids: Collection[int] | None = None) -> dict[int, HumanLabel]:
        """Return what people say of the control, where the annotation that counts says something of it."""
        found = self._whole.human_labels(project_id, task_ids)
        mine = {task_id: human_label_of(label, self._space.from_name) for task_id, label in found.items()}
        return {task_id: label for task_id, label in mine.items() if label.label is not None}

    def verdicts(self, project_id: int, round_id: int, task_ids: Collection[int] | None = None) -> list[Verdict]:
        """Return what a round decided about the control, the most doubtful tasks first."""
        return [verdict_of(one, self._space) for one in self._whole.verdicts(project_id, round_id, task_ids)]

    def judged(self, project_id: int, round_id: int) -> list[Verdict]:
        """Return ``verdicts``, without those about another text than the task has now."""
        fits = t.verdicts.c.content_hash == t.samples.c.content_hash
        return [verdict_of(one, self._space) for one in self._whole._verdicts(project_id, round_id, None, fits)]

    def round(self, round_id: int) -> Round:
        """Return a round with the control's demonstrations."""
        found = self._whole.round(round_id)
        return replace(found, demos=demos_of(found.demos, self._space.from_name))

    def answers_by_round(self, project_id: int, task_ids: Collection[int]) -> dict[int, dict[int, str | None]]:
        """Return the annotator's labels that fit the tasks as they are now and count: task id -> round number -> label."""
        c, s = t.control_labels.c, t.samples.c
        same = and_(s.project_id == c.project_id, s.task_id == c.task_id, s.content_hash == c.content_hash)
        query = select(c.task_id, c.round_number, c.label).join(t.samples, same).where(c.project_id == project_id)
        query = query.where(c.control == self._space.from_name, c.round_number.not_in(_aside(project_id)))
        found: dict[int, dict[int, str | None]] = {}
        for row in self._by_task(query.order_by(c.task_id, c.round_number), c.task_id, task_ids):
            found.setdefault(row.task_id, {})[row.round_number] = row.label
        return found

    @cached_property
    def _control_label_upsert(self) -> Any:
        c = t.control_labels.c
        return self._upsert_into(
            t.control_labels,
            key=KEY,
            change=tuple(set(c.keys()) - set(KEY)),
            where=lambda new: or_(c.content_hash != new.content_hash, c.prompt_version != new.prompt_version),
        )


class ControlAsked(Asked):
    """What is known of each sample about one control; see ``Asked``."""

    def __init__(self, view: ControlStore) -> None:
        super().__init__(view)
        self._view = view

    def page(self, project_id: int, after: int, size: int, *, serving: int | None = None) -> list[Known]:
        """Return the next samples with what is known of the control."""
        samples = self._view.sample_page(project_id, after, size)
        ids = [sample.task_id for sample in samples]
        human, answers = self._view.human_labels(project_id, ids), self._view.answers_by_round(project_id, ids)
        judged = {v.task_id: v for v in self._view.verdicts(project_id, serving, ids)} if serving is not None else {}
        return [
            Known(
                sample,
                sample.task_id in human,
                str(judged[sample.task_id].flag) if sample.task_id in judged else None,
                judged[sample.task_id].label if sample.task_id in judged else None,
                answers.get(sample.task_id, {}),
            )
            for sample in samples
        ]
