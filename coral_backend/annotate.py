"""How do a round's samples get their labels? Annotators are asked in waves until the strategy has decided about each sample.

Every answer is stored as an opinion before anything else happens, and what is decided from the opinions as the sample's label:
whoever goes on after a crash asks only what has no answer yet.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from safetensors.numpy import load_file, save_file

from coral_backend import corpus_arrays
from coral_backend.exceptions import SettingsError
from coral_backend.labels import SINGLE, SPANS
from coral_backend.llm.base import Annotator, Embed, Question, make_annotator
from coral_backend.llm.replies import Replies
from coral_backend.llm.spend import Meter
from coral_backend.questions import Questions
from coral_backend.settings import Settings
from coral_backend.store import Lease, Store
from coral_backend.types import Answer, Floats, Ints, LabelSpace, Project, Said, Sample
from strategies.annotation import (
    ANNOTATION,
    SLM,
    AnnotationStrategy,
    Ask,
    Decision,
    Opinion,
    Sampled,
    Single,
    Team,
)
from strategies.annotation.first_look import FEWEST, first_look
from strategies.registry import UnknownStrategyError

MOST_LOOKED_AT = 20_000
"""From so many labels at most the first look learns; its one decomposition takes 8 N D bytes."""

LOOK_FILE = "first_look.safetensors"

Look: TypeAlias = Callable[[Mapping[int, str | None]], Mapping[int, Opinion]]
"""First answers by task id (None: abstained) to the small model's opinions by task id."""


class Report(Protocol):
    """Told about every answer; may raise ``RoundStopped`` or ``LeaseLostError`` to end the work."""

    def __call__(self, done: int, total: int, detail: Mapping[str, Any], *, last: bool = False) -> None:
        """Tell that `done` of `total` questions of this wave are answered; `last` after the last of an annotator."""
        ...


def make_team(
    settings: Settings, embed: Embed, replies: Replies | None = None, meter: Meter | None = None
) -> list[Annotator]:
    """Return the annotators that `settings` ask for, cheapest first; the strategy ``single`` has one, the first.

    Parameters
    ----------
    replies : Replies or None
        Where paid replies are kept.
    meter : Meter or None
        Counts what the requests of all of them cost.

    Raises
    ------
    SettingsError
        If one of them lacks what it needs, or several models are named for an annotator that has none.
    """
    names = settings.models[:1] if settings.annotation == "single" else settings.models
    first, *others = [settings.model_copy(update={"llm_model": name}) for name in names]
    leader = make_annotator(first, embed, replies, meter)
    if others and not leader.is_llm:
        raise SettingsError(
            f"CORAL_LLM_MODELS names {len(names)} models, and the annotator is {leader.name}, which has none. "
            "Set OPENAI_BASE_URL or OPENAI_API_KEY, or leave CORAL_LLM_MODELS empty."
        )
    return [leader, *(make_annotator(other, embed, replies, meter) for other in others)]


def make_strategy(settings: Settings, annotators: Sequence[Annotator], space: LabelSpace) -> AnnotationStrategy:
    """Return the annotation strategy that `settings` name; what is no LLM is asked once, whatever they name.

    Raises
    ------
    SettingsError
        If there is no such strategy, or it weighs single labels and the label config asks for more.
    """
    team = Team(len(annotators), settings.votes, space.labels)
    if space.kind == SPANS and annotators[0].name.startswith("embedded:"):
        raise SettingsError(
            f"The embedded annotator compares whole texts with labels and cannot mark spans, as <{space.tag} "
            f"name={space.from_name!r}> wants. Set OPENAI_BASE_URL or OPENAI_API_KEY for an LLM, or CORAL_ANNOTATOR to "
            "'recorded' with CORAL_RECORDED_KEY for spans that exist already."
        )
    if space.kind != SINGLE and settings.annotation != "single":
        raise SettingsError(
            f"CORAL_ANNOTATION is {settings.annotation!r}, which weighs one label a task against others; "
            f"<{space.tag} name={space.from_name!r}> takes more than one. Set it to 'single'."
        )
    try:
        strategy = ANNOTATION.get(settings.annotation)(team)
    except UnknownStrategyError as error:
        raise SettingsError(f"CORAL_ANNOTATION is {settings.annotation!r}: {error}") from None
    if not annotators[0].is_llm:
        return Single(team)
    if space.kind != SINGLE:
        return strategy
    return Sampled(strategy, settings.votes) if settings.llm_confidence == "samples" else strategy


@dataclass
class Annotation:
    """The annotation of one round, or of tasks between rounds.

    Attributes
    ----------
    number : int
        The round under which answers are stored.
    annotators : sequence of Annotator
        Cheapest first.
    known : mapping of int to sequence of Opinion
        What was known of a task before anybody was asked, by task id.
    look : callable or None
        Called with all answers of the first wave; returns the opinion of a small model that learned from them.
    beside : sequence of int
        Further rounds whose opinions say what is usual, where a strategy compares samples.
    seconds : float
        After so long an annotator is asked nothing new; what was asked is waited for, the rest is for the next ``advance``.
    decided : int
        Samples that the last ``advance`` decided about.
    """

    store: Store
    project: Project
    number: int
    lease: Lease
    annotators: Sequence[Annotator]
    strategy: AnnotationStrategy
    questions: Questions
    known: Mapping[int, Sequence[Opinion]] = field(default_factory=dict)
    look: Look | None = None
    beside: Sequence[int] = ()
    seconds: float = math.inf
    decided: int = field(default=0, init=False)

    def advance(self, undecided: Sequence[Sample], total: int, limit: int, report: Report, *, beyond: int = 0) -> bool:
        """Ask the next questions about `undecided`, at most `limit`; return whether nothing is left to do.

        A strategy that compares samples gets them wave by wave: all have their first opinion before one has its second.

        Parameters
        ----------
        total : int
            Samples that are asked about in all, decided or not.
        beyond : int
            So many more samples are undecided, and not asked about now.
        """
        left, self.decided = list(undecided), 0
        while left:
            batch = left if self.strategy.waits else left[:limit]
            said = self._said(batch)
            depth = min(len(said.get(s.task_id, ())) for s in batch)
            self._look(depth, said)
            strategy = self._fitted(said)
            wave = [s for s in batch if not strategy.waits or len(said.get(s.task_id, ())) == depth]
            steps = [(s, strategy(self._opinions(s.task_id, said))) for s in wave]
            self._decide([(s, step, said.get(s.task_id, [])) for s, step in steps if isinstance(step, Decision)])
            asks = [(s, step) for s, step in steps if isinstance(step, Ask)]
            if asks:
                open_now = len(left) - len(batch) + len(asks) + beyond
                count = _Count(report, total - open_now, total, {"wave": depth + 1} if strategy.waits else {})
                self._ask(asks[:limit], said, strategy, self.questions, count)
                self.decided += len(batch) - len(asks) + count.decided
                return count.decided == open_now
            decided = {s.task_id for s in wave}
            self.decided += len(decided)
            left = [s for s in left if s.task_id not in decided]
        return beyond == 0

    def opinions_on(self, samples: Sequence[Sample]) -> dict[int, list[Opinion]]:
        """Return what the strategy knows of each of `samples` by now, by task id."""
        said = self._said(samples)
        return {sample.task_id: self._opinions(sample.task_id, said) for sample in samples}

    def ask_once(self, samples: Sequence[Sample], annotator: int, questions: Questions, report: Report) -> None:
        """Have one annotator label `samples`, whatever the strategy: its word decides."""
        asks = [(s, Ask(annotator)) for s in samples]
        self._ask(asks, {}, Single(Team()), questions, _Count(report, 0, len(asks), {}))

    def _ask(
        self,
        asks: Sequence[tuple[Sample, Ask]],
        said: Mapping[int, Sequence[Said]],
        strategy: AnnotationStrategy,
        questions: Questions,
        count: _Count,
    ) -> None:
        """Put the questions, one annotator after the other, and keep every answer as it comes."""
        by_annotator: dict[int, list[tuple[Sample, Ask]]] = defaultdict(list)
        for sample, ask in asks:
            by_annotator[ask.annotator].append((sample, ask))
        for place, mine in sorted(by_annotator.items()):
            annotator = self.annotators[place]
            count.who = annotator.name
            put: dict[int, Question] = {}

            def keep(sample: Sample, answer: Answer, put: dict[int, Question] = put) -> None:
                before, prompt = said.get(sample.task_id, ()), put.pop(sample.task_id).prompt
                candidates = None if set(prompt.labels) == set(self.project.label_space.labels) else prompt.labels
                newest = Said(len(before), answer, candidates, prompt.version)
                count.decided += self._keep(sample, [*before, newest], strategy)
                count.done += 1

            annotator.annotate(_in_time(_noted(questions.about(mine), put), self.seconds), keep, count.tell)
            count.tell(last=True)

    def _look(self, depth: int, said: Mapping[int, Sequence[Said]]) -> None:
        """Have a small model learn from the first wave, once it is complete, where none is known from an earlier round."""
        if depth == 0 or self.look is None or not self.strategy.uses_small_model:
            return
        firsts = {task_id: answers[0].answer.label for task_id, answers in said.items()}
        seen = self.look(firsts)
        tasks = {*self.known, *seen}
        self.known = {t: [*self.known.get(t, ()), *([seen[t]] if t in seen else [])] for t in tasks}
        self.look = None

    def _keep(self, sample: Sample, said: Sequence[Said], strategy: AnnotationStrategy) -> bool:
        """Store the newest opinion, and the decision with it where that follows from this sample alone; say whether it does."""
        step = None if strategy.waits else strategy(self._opinions(sample.task_id, {sample.task_id: said}))
        with self.store.together():
            self.store.opinions.put(self.project.id, self.number, sample, said[-1], lease=self.lease)
            if isinstance(step, Decision):
                self._decide([(sample, step, said)])
        return isinstance(step, Decision)

    def _decide(self, decisions: Sequence[tuple[Sample, Decision, Sequence[Said]]]) -> None:
        """Store labels, each with the cost of all opinions that led to it."""
        if not decisions:
            return
        with self.store.together():
            for sample, decision, said in decisions:
                answer, version = _answer(decision, said)
                self.store.put_llm_label(
                    self.project.id, self.number, sample, answer, prompt_version=version, lease=self.lease
                )

    def _said(self, undecided: Sequence[Sample]) -> dict[int, list[Said]]:
        """Return the round's opinions; those on decided samples are needed only to compare with."""
        only = None if self.strategy.waits else [s.task_id for s in undecided]
        return self.store.opinions.of_round(self.project.id, self.number, only)

    def _fitted(self, said: Mapping[int, Sequence[Said]]) -> AnnotationStrategy:
        if not self.strategy.waits:
            return self.strategy
        wave = [self._opinions(task_id, said) for task_id in said]
        for number in self.beside:
            others = self.store.opinions.of_round(self.project.id, number)
            wave += [self._opinions(task_id, others) for task_id in others if number != self.number]
        return self.strategy.fit(wave)

    def _opinions(self, task_id: int, said: Mapping[int, Sequence[Said]]) -> list[Opinion]:
        known = self.known.get(task_id, ()) if self.strategy.uses_small_model else ()
        return [*known, *(_opinion(one.answer) for one in said.get(task_id, ()))]


@dataclass
class _Count:
    """How far the questions of a wave are, told as it changes."""

    report: Report
    done: int
    total: int
    detail: Mapping[str, Any]
    who: str = ""
    decided: int = 0

    def tell(self, *, last: bool = False) -> None:
        self.report(self.done, self.total, {**self.detail, "annotator": self.who}, last=last)


def _noted(questions: Iterable[Question], put: dict[int, Question]) -> Iterator[Question]:
    """Yield `questions`, remembered by their task until they are answered."""
    for question in questions:
        put[question.sample.task_id] = question
        yield question


def _in_time(questions: Iterable[Question], seconds: float) -> Iterator[Question]:
    """Yield `questions`, at least one, until so many seconds are over."""
    until = time.monotonic() + seconds
    for question in questions:
        yield question
        if time.monotonic() > until:
            return


class FirstLook:
    """A small model's opinion in a first round: it learns from the first wave's labels on frozen embeddings, in seconds.

    Parameters
    ----------
    samples : sequence of Sample
        All that have a readable text.
    folder : Path
        The round's; the opinions are kept there, so that whoever resumes the round finds the same.
    """

    def __init__(self, samples: Sequence[Sample], labels: Sequence[str], embed: Embed, folder: Path, seed: int) -> None:
        self._samples, self._labels, self._embed = samples, labels, embed
        self._file, self._seed = folder / LOOK_FILE, seed

    def __call__(self, firsts: Mapping[int, str | None]) -> dict[int, Opinion]:
        """Return an opinion on every sample, none that saw the sample's own label; nothing when there is too little to learn."""
        if self._file.is_file():
            return self._opinions(**load_file(self._file))
        task_ids = np.array([s.task_id for s in self._samples], dtype=np.int64)
        given = np.array([self._index(firsts.get(s.task_id)) for s in self._samples], dtype=np.int64)
        rows = np.flatnonzero(given >= 0)
        if len(rows) < FEWEST:
            return {}
        rng = np.random.default_rng(self._seed)
        given[rng.permutation(rows)[MOST_LOOKED_AT:]] = -1
        probs = first_look(self._embed([s.text or " " for s in self._samples]), given, len(self._labels))
        if probs is None:
            return {}
        best = np.argsort(-probs, axis=1, kind="stable")[:, :2]
        sure = probs[np.arange(len(probs)), best[:, 0]]
        kept = {"task_ids": task_ids, "best": np.ascontiguousarray(best), "sure": np.ascontiguousarray(sure)}
        unfinished = self._file.with_suffix(f".{os.getpid()}")
        save_file(kept, unfinished)
        unfinished.replace(self._file)
        return self._opinions(**kept)

    def _index(self, label: str | None) -> int:
        return self._labels.index(label) if label in self._labels else -1

    def _opinions(self, task_ids: Ints, best: Ints, sure: Floats) -> dict[int, Opinion]:
        rows = zip(task_ids.tolist(), best.tolist(), sure.tolist(), strict=True)
        return {task_id: _small_opinion(top, chance, self._labels) for task_id, top, chance in rows}


def known_from_round(
    store: Store, settings: Settings, project: Project, *, fresh: Mapping[int, Opinion] | None = None
) -> dict[int, list[Opinion]]:
    """Return, for each task, the LLM's label and the small model's opinion as the round that serves left them.

    Parameters
    ----------
    fresh : mapping of int to Opinion, optional
        What its model says about tasks that came later.
    """
    found: dict[int, list[Opinion]] = defaultdict(list)
    for task_id, answer in store.llm_labels(project.id).items():
        if project.label_space.allows(answer.label):
            found[task_id].append(_opinion(answer, asked=False))
    arrays = None
    if project.active_round is not None and project.label_space.kind == SINGLE:
        serving = store.round(project.active_round)
        arrays = corpus_arrays.load_arrays(corpus_arrays.round_folder(settings, serving, project.control))
    if arrays is not None and arrays.probs.shape[1] == len(project.label_space.labels):
        labels = project.label_space.labels
        for task_id, opinion in zip(arrays.task_ids.tolist(), small_opinions(arrays.probs, labels), strict=True):
            found[task_id].append(opinion)
    for task_id, opinion in (fresh or {}).items():
        found[task_id] = [o for o in found[task_id] if o.annotator != SLM] + [opinion]
    return dict(found)


def small_opinions(probs: Floats, labels: Sequence[str]) -> list[Opinion]:
    """Return what the small model thinks, from its probabilities of shape (N, K)."""
    best = np.argsort(-probs, axis=1, kind="stable")[:, :2].tolist()
    return [_small_opinion(top, float(row[top[0]]), labels) for row, top in zip(probs, best, strict=True)]


def _small_opinion(best: Sequence[int], chance: float, labels: Sequence[str]) -> Opinion:
    rival = labels[best[1]] if len(best) > 1 else None
    return Opinion(labels[best[0]], min(1.0, max(0.0, chance)), SLM, rival=rival, asked=False)


def _opinion(answer: Answer, *, asked: bool = True) -> Opinion:
    return Opinion(answer.label, answer.confidence, answer.annotator, answer.reason, asked=asked)


def _answer(decision: Decision, said: Sequence[Said]) -> tuple[Answer, str]:
    """Return a decision as the label that is stored, and the prompt's version of the opinion that it follows."""
    deciding = next((one for one in reversed(said) if one.answer.label == decision.label), said[-1] if said else None)
    answer = Answer(
        decision.label,
        raw=deciding.answer.raw if deciding else "",
        reason=decision.reason,
        confidence=decision.confidence,
        annotator=decision.decided_by,
        prompt_tokens=sum(one.answer.prompt_tokens for one in said),
        completion_tokens=sum(one.answer.completion_tokens for one in said),
        seconds=sum(one.answer.seconds for one in said),
    )
    return answer, deciding.prompt_version if deciding else ""
