"""In which words is each sample asked about? One prompt for all, or one for each with the examples and labels that fit it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from coral_backend.demos import QUERIES, Neighbours
from coral_backend.labels import SPANS
from coral_backend.llm.base import Embed, Question
from coral_backend.llm.prompt import CODES, Prompt
from coral_backend.settings import Settings
from coral_backend.task_prompt import label_space_of, prompt_for, strategy_for
from coral_backend.types import Demo, Floats, Project, Sample
from strategies.annotation import Ask
from strategies.annotation.shortlist import shortlist

SAMPLING_TEMPERATURE = 0.7
"""Of every further sample of an answer; the first is the model's best."""

LISTED_BY_NEIGHBOURS = 50
"""So many verified samples near a text say which labels its prompt lists."""


def wants_logprobs(settings: Settings) -> bool:
    """Say whether questions ask for log-probabilities, where the endpoint gives them."""
    return settings.llm_confidence in ("auto", "logprobs")


class Questions:
    """Puts the questions of one round.

    Parameters
    ----------
    demos : sequence of Demo
        The round's demonstrations, for texts that have no neighbours of their own.
    embed : callable
        The sentence encoder, which compares texts with the words of many labels.
    neighbours : Neighbours or None
        Verified samples, where the nearest to each text are to be shown, or say which of many labels are likely.
    is_llm : bool
        What is no language model reads no examples of its own and no lists: it gets one prompt for all.
    """

    def __init__(
        self,
        settings: Settings,
        project: Project,
        demos: Sequence[Demo],
        *,
        embed: Embed,
        neighbours: Neighbours | None = None,
        is_llm: bool = True,
    ) -> None:
        self._settings, self._project, self._space = settings, project, label_space_of(settings, project)
        self.strategy = strategy_for(settings, project)
        self._demos = tuple(demos)
        self._embed = embed
        self._neighbours = neighbours
        self._is_llm = is_llm
        self._label_vectors: Floats | None = None
        self._built: dict[tuple[str, ...] | None, Prompt] = {}

    def about(self, asks: Iterable[tuple[Sample, Ask]]) -> Iterator[Question]:
        """Yield the question to each sample, in their order."""
        settings, asks = self._settings, iter(asks)
        logprobs = wants_logprobs(settings)
        while batch := list(itertools.islice(asks, QUERIES)):
            for (sample, ask), prompt in zip(batch, self._prompts(batch), strict=True):
                warm = SAMPLING_TEMPERATURE if ask.draw else 0.0
                yield Question(sample, prompt, ask.draw, warm, logprobs, self._project.control)

    def with_demos(self, demos: Sequence[Demo]) -> Questions:
        """Return the same with other demonstrations for texts that have none of their own."""
        return Questions(
            self._settings,
            self._project,
            demos,
            embed=self._embed,
            neighbours=self._neighbours,
            is_llm=self._is_llm,
        )

    def zero_shot(self) -> Questions:
        """Return the same without any demonstration."""
        return Questions(self._settings, self._project, (), embed=self._embed, is_llm=self._is_llm)

    def _prompts(self, batch: Sequence[tuple[Sample, Ask]]) -> list[Prompt]:
        listed = self._listed([sample for sample, _ in batch])
        demos = self._nearest(batch)
        return [
            self._shared(ask.candidates)
            if own_demos is None and (own_list is None or ask.candidates)
            else self._prompt(self._demos if own_demos is None else own_demos, own_list, ask.candidates)
            for (_, ask), own_list, own_demos in zip(batch, listed, demos, strict=True)
        ]

    def _shared(self, candidates: tuple[str, ...] | None) -> Prompt:
        """Return the prompt of all texts with the same candidates, built once."""
        if candidates not in self._built:
            self._built[candidates] = self._prompt(self._demos, None, candidates)
        return self._built[candidates]

    def _prompt(self, demos: Sequence[Demo], listed: Sequence[str] | None, candidates: Sequence[str] | None) -> Prompt:
        return prompt_for(
            self._settings, self._project, demos, strategy=self.strategy, listed=listed, candidates=candidates
        )

    def _nearest(self, batch: Sequence[tuple[Sample, Ask]]) -> list[tuple[Demo, ...] | None]:
        """Return the demonstrations of each sample's own; None for the round's."""
        found: list[tuple[Demo, ...] | None] = [None] * len(batch)
        if self._neighbours is None or self._settings.demonstration != "retrieval":
            return found
        groups: dict[tuple[str, ...] | None, list[int]] = defaultdict(list)
        for i, (_, ask) in enumerate(batch):
            groups[ask.candidates].append(i)
        for candidates, rows in groups.items():
            only = None if candidates is None else [self._space.index(label) for label in candidates]
            places = self._neighbours.find([batch[i][0] for i in rows], self._settings.n_demos, only)
            for i, near in zip(rows, places, strict=True):
                found[i] = self._neighbours.demos(near)
        return found

    def _listed(self, samples: Sequence[Sample]) -> list[tuple[str, ...] | None]:
        """Return the labels that each sample's prompt lists; None for all of them."""
        labels, most = self._space.labels, self._most_listed()
        if not self._is_llm or len(labels) <= most or self._space.kind == SPANS:  # a text may have spans of any label
            return [None] * len(samples)
        likeness = self._embed([s.text or " " for s in samples]) @ self._vectors().T
        near = self._neighbours.find(samples, LISTED_BY_NEIGHBOURS) if self._neighbours else [None] * len(samples)
        chosen = [
            shortlist(
                row,
                None if places is None or self._neighbours is None else self._neighbours.labels(places, self._space),
                most,
            )
            for row, places in zip(likeness, near, strict=True)
        ]
        return [tuple(labels[k] for k in sorted(index.tolist())) for index in chosen]

    def _most_listed(self) -> int:
        most = self._settings.llm_labels
        return min(most, len(CODES)) if self._settings.llm_confidence == "logprobs" else most

    def _vectors(self) -> Floats:
        """Return a unit vector for the words of each label, shape (K, D)."""
        if self._label_vectors is None:
            words = [label.replace("_", " ") for label in self._space.labels]
            meanings = [self._space.definitions.get(x) or self.strategy.definition(x) for x in self._space.labels]
            texts = [f"{word}: {meaning}" if meaning else word for word, meaning in zip(words, meanings, strict=True)]
            self._label_vectors = np.asarray(self._embed(texts))
        return self._label_vectors
