"""Which labelled samples may the LLM be shown? Those a person labelled or the last round found clean, with the SLM's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coral_backend import corpus_arrays
from coral_backend.labels import MULTIPLE, SINGLE, read_set
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import UNLABELED, Demo, Flag, Floats, Ints, LabelSpace, Project, Sample
from strategies.demonstration import DEMONSTRATIONS, nearest
from strategies.demonstration.base import Bools

QUERIES = 256
"""So many texts are compared with the pool at once: their similarities take 8 N bytes each."""


@dataclass(frozen=True)
class Verified:
    """The samples of a project that have verdicts, as arrays of length N; row i belongs to ``task_ids[i]``.

    Attributes
    ----------
    names : tuple of str
        What was said: the labels of the config, or of a kind that can say more, what was said of any sample.
    labels : ndarray
        Shape (N,), index into `names`, -1 where there is none.
    eligible : ndarray
        Shape (N,), bool: clean or labelled by a person, and the label still exists.
    features : ndarray
        Shape (N, D), the SLM's.
    groups : ndarray
        Shape (N,), what examples are balanced by: the label; of a set its rarest one, and one more for the empty set. -1 as `labels`.
    """

    task_ids: Ints
    texts: list[str]
    names: tuple[str, ...]
    labels: Ints
    eligible: Bools
    features: Floats
    groups: Ints

    @classmethod
    def read(cls, store: Store, settings: Settings, project: Project) -> Verified | None:
        """Return those of the round that serves; None when there is none, or its files are not here."""
        if project.active_round is None:
            return None
        verdicts = {v.task_id: v for v in store.verdicts(project.id, project.active_round)}
        serving = store.round(project.active_round)
        arrays = corpus_arrays.load_arrays(corpus_arrays.round_folder(settings, serving, project.control))
        if arrays is None or not verdicts:
            return None
        human, space = store.human_labels(project.id), project.label_space
        samples = {s.task_id: s for s in store.samples(project.id)}
        judged = {t for t, v in verdicts.items() if t in samples and v.content_hash == samples[t].content_hash}
        keep = np.array([t in judged for t in arrays.task_ids.tolist()], dtype=bool)
        ids = arrays.task_ids[keep].tolist()
        said = [human[t].label if t in human else verdicts[t].label for t in ids]
        heard = sorted({one for one in said if one is not None and space.allows(one)})
        names = space.labels if space.kind == SINGLE else tuple(heard)
        index: dict[str | None, int] = {name: i for i, name in enumerate(names)}
        labels = np.array([index.get(one, UNLABELED) for one in said], dtype=np.int64)
        trusted = np.array([t in human or verdicts[t].flag is Flag.CLEAN for t in ids], dtype=bool)
        return cls(
            arrays.task_ids[keep],
            [samples[t].text for t in ids],
            names,
            labels,
            trusted & (labels >= 0),
            arrays.features[keep],
            _groups(space, names, labels),
        )

    def labels_of(self, place: int, space: LabelSpace) -> tuple[int, ...]:
        """Return the places in `space` of what was said of a sample: of a set, of each label in it."""
        if space.kind != MULTIPLE:
            return (int(self.labels[place]),)
        said = self.names[self.labels[place]] if self.labels[place] >= 0 else None
        return tuple(space.index(label) for label in read_set(said) or ())


def _groups(space: LabelSpace, names: Sequence[str], labels: Ints) -> Ints:
    if space.kind != MULTIPLE:
        return labels
    sets = [[space.index(label) for label in read_set(name) or ()] for name in names]
    counts = np.zeros(len(space.labels), dtype=np.int64)
    for place in labels[labels >= 0].tolist():
        counts[sets[place]] += 1
    of_name = [min(own, key=lambda k: (counts[k], k)) if own else len(space.labels) for own in sets]
    return np.array([UNLABELED if one < 0 else of_name[one] for one in labels.tolist()], dtype=np.int64)


def choose_demos(store: Store, settings: Settings, project: Project) -> tuple[Demo, ...]:
    """Choose a round's demonstrations among verified samples (the paper's Distilled Selection, section 3)."""
    verified = Verified.read(store, settings, project)
    if verified is None:
        if project.active_round is None:
            return ()
        return store.round(project.active_round).demos  # a rollback may serve a round whose arrays are no longer kept
    index = DEMONSTRATIONS.get(settings.demonstration)(
        texts=verified.texts,
        labels=verified.groups,
        eligible=verified.eligible,
        features=verified.features,
        n=settings.n_demos,
        n_classes=int(verified.groups.max(initial=0)) + 1,
        rng=np.random.default_rng(settings.seed),
    )
    return tuple(Demo(verified.texts[i], verified.names[verified.labels[i]]) for i in index)


class Neighbours:
    """Finds the verified samples nearest to a text.

    Parameters
    ----------
    features_of : callable
        The SLM's features, shape (Q, D), of texts that it has not seen yet.
    """

    def __init__(self, verified: Verified, features_of: Callable[[Sequence[str]], Floats]) -> None:
        self._verified = verified
        self._features_of = features_of
        self._place = {task_id: i for i, task_id in enumerate(verified.task_ids.tolist())}
        self._by_text: dict[str, int] = {}
        for i, text in enumerate(verified.texts):
            self._by_text.setdefault(text.strip(), i)

    def find(self, samples: Sequence[Sample], n: int, only: Sequence[int] | None = None) -> list[Ints]:
        """Return the places of the `n` verified samples nearest to each of `samples`, class-balanced.

        Parameters
        ----------
        samples : sequence of Sample
            At most ``QUERIES``.
        only : sequence of int or None
            The labels that may be found; None for all.
        """
        v = self._verified
        shown = np.where(v.eligible, v.groups, -1)
        if only is not None:
            shown = np.where(np.isin(shown, list(only)), shown, -1)
        shown = np.where(self._first_of_text(), shown, -1)
        own = np.array([self._by_text.get(s.text.strip(), -1) for s in samples], dtype=np.int64)
        return nearest(self._features(samples), v.features, shown, n, own=own)

    def demos(self, places: Ints) -> tuple[Demo, ...]:
        """Return what is shown of the samples in these places."""
        v = self._verified
        return tuple(Demo(v.texts[i], v.names[v.labels[i]]) for i in places.tolist())

    def labels(self, places: Ints, space: LabelSpace) -> Ints:
        """Return the places in `space` of the labels of these samples, one after the other; a set has several, or none."""
        found = [k for place in places.tolist() for k in self._verified.labels_of(place, space)]
        return np.array(found, dtype=np.int64)

    def _first_of_text(self) -> Bools:
        """Return where a text stands for the first time, shape (N,), bool: none is shown twice."""
        first = np.zeros(len(self._verified.texts), dtype=bool)
        first[list(self._by_text.values())] = True
        return first

    def _features(self, samples: Sequence[Sample]) -> Floats:
        """Return the features of `samples`, shape (Q, D): from the round's arrays where they are in it."""
        v = self._verified
        known = [self._place.get(s.task_id, -1) for s in samples]
        known = [i if i >= 0 and v.texts[i] == s.text else -1 for i, s in zip(known, samples, strict=True)]
        rows: Floats = v.features[np.maximum(known, 0)].copy()
        fresh = [i for i, place in enumerate(known) if place < 0]
        if fresh:
            rows[fresh] = self._features_of([samples[i].text for i in fresh])
        return rows
