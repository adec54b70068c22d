"""How is one label a task learned and judged? The paper's own case."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from coral_backend import corpus_arrays, kept_views
from coral_backend.exceptions import ModelFileError
from coral_backend.kinds.base import Judged, Work
from coral_backend.slices import told_of_slices
from coral_backend.store import Store
from coral_backend.task_prompt import named_strategy
from coral_backend.types import UNLABELED, Floats, Ints, Progress, Project, Sample, Verdict
from strategies.distillation.label_names import label_sentences

__all__ = ["SingleLabel"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewAnswers:
    """What the SLM says about tasks it was not trained on; same fields as a training's."""

    probs: Floats
    losses: Floats
    p_clean: Floats
    features: Floats


class SingleLabel:
    """A classification of tasks into K classes."""

    def distil(self, work: Work, progress: Progress) -> Mapping[str, Any]:
        """Train the SLM on the labels as they stand; see ``slm/engine.py`` ``distil``."""
        from coral_backend.slm.engine import Corpus, SLMConfig, distil

        project = work.project
        table = corpus_arrays.read(work.store, project)
        space = project.label_space
        about = [label_sentences(label, space.definitions.get(label, "")) for label in space.labels]
        strategy = named_strategy(work.settings, project)
        columns = {name: column.kind for name, column in strategy.columns.items()}
        corpus = Corpus(
            table.texts, table.llm_labels, table.human_labels, len(space.labels), about, strategy.slm, columns
        )
        # The embedded annotator and the frozen view read the same embeddings, and would make the same errors.
        config = replace(SLMConfig.from_settings(work.settings), frozen_view=not is_embedded(work.store, project))
        key = kept_views.corpus_key(table, {**asdict(config), "labels": space.labels, "slm": strategy.slm})
        earlier = kept_views.earlier_of(work.earlier, table, key, work.settings)
        learn = partial(distil, corpus, config, progress=progress, save_to=work.folder / "model")
        try:
            distilled = learn(earlier=earlier)
        except ModelFileError as error:
            if earlier is None:
                raise
            logger.warning("project %d: its model cannot serve again, all is learned anew: %s", project.id, error)
            earlier, distilled = None, learn()
        corpus_arrays.save_arrays(work.folder, table.task_ids, distilled)
        if distilled.kept is not None and strategy.slm == "text":  # of rows everything is learned anew
            kept_views.keep(work.folder, distilled.kept, key)
        return {
            "tier": "full" if earlier is None else "features-only",
            "history": distilled.history,
            "gmm": distilled.gmm,
            "notes": [*distilled.notes, *([kept_views.told(earlier, table)] if earlier is not None else [])],
            "slm_seconds": distilled.seconds,
        }

    def judge(self, work: Work) -> Judged | None:
        """Turn LLM labels, SLM probabilities and human labels into verdicts."""
        arrays = corpus_arrays.load_arrays(work.folder)
        if arrays is None:
            return None
        judged = corpus_arrays.judge(work.store, work.project, arrays, work.settings.p_threshold)
        return Judged(judged.verdicts, told_of_slices(judged.slices))

    def judge_new(self, work: Work, samples: Sequence[Sample]) -> list[Verdict] | None:
        """Judge new samples beside the corpus of the round."""
        from coral_backend.slm.engine import Model

        arrays = corpus_arrays.load_arrays(work.folder)
        if arrays is None:
            return None
        store, project = work.store, work.project
        model = Model.load(work.folder / "model")
        probs, features = model.predict([s.text for s in samples])
        answers, human = store.llm_labels(project.id), store.human_labels(project.id)
        losses = _losses(probs, corpus_arrays.tabulate(project, samples, answers, human).llm_labels)
        new = NewAnswers(probs, losses, model.p_clean(losses), features)
        arrays = arrays.extended([s.task_id for s in samples], new)
        corpus_arrays.save_arrays(work.folder, arrays.task_ids, arrays)
        return corpus_arrays.judge(store, project, arrays, work.settings.p_threshold).verdicts


def is_embedded(store: Store, project: Project) -> bool:
    """Say whether most labels come from the embedded annotator."""
    names = Counter(answer.annotator.partition(":")[0] for answer in store.llm_labels(project.id).values())
    return names["embedded"] * 2 > names.total()


def _losses(probs: Floats, labels: Ints) -> Floats:
    """Return the cross-entropy in nats of each label, NaN where there is none."""
    given = np.clip(probs[np.arange(len(labels)), np.where(labels == UNLABELED, 0, labels)], 1e-12, 1.0)
    return np.where(labels == UNLABELED, np.nan, -np.log(given))
