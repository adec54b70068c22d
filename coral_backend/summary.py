"""What came out of a round, in counts and shares, and under which version is it known?"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from coral_backend.controls import agreed_pairs, project_of, spaces, verdict_of
from coral_backend.labels import MULTIPLE, SEVERAL, SPANS, micro_f1, span_f1
from coral_backend.store import Store
from coral_backend.store.controls import view_of
from coral_backend.types import (
    Flag,
    Project,
    Round,
    Verdict,
)


def version_of(current: Round, verdicts: Sequence[Verdict]) -> str:
    """Return the model version: the round's name and a digest of all that is pushed (same labels, same version)."""
    facts = sorted(
        (v.task_id, v.prediction_label, _rounded(v.prediction_score), str(v.flag), *_of_parts(v)) for v in verdicts
    )
    digest = hashlib.sha256(json.dumps([current.config_hash, facts]).encode()).hexdigest()
    return f"coral-r{current.name}-{digest[:6]}"


def _of_parts(verdict: Verdict) -> list[Any]:
    return [[d.name, d.label, _rounded(d.score), _rounded(d.prediction_score), str(d.flag)] for d in verdict.details]


def summary(store: Store, project: Project, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the round's counts as they are stored in its metrics; those of each control too, where there are several."""
    found = _summary(store, project, verdicts)
    if project.label_space.kind == SEVERAL:
        found["by_control"] = {
            space.from_name: _summary(
                view_of(store, project, space), project_of(project, space), [verdict_of(v, space) for v in verdicts]
            )
            for space in spaces(project.label_space)
        }
    return found


def _summary(store: Store, project: Project, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    answers = store.llm_labels(project.id)
    human, space = store.human_labels(project.id), project.label_space
    checked = [pair for v in verdicts if v.task_id in human for pair in agreed_pairs(space, human[v.task_id].label, v)]
    flags = Counter(str(v.flag) for v in verdicts)
    return {
        "tasks": len(store.samples(project.id)),
        "annotated": sum(a.label is not None for a in answers.values()),
        "abstained": sum(a.label is None for a in answers.values()),
        "annotator": next((a.annotator for a in answers.values() if a.annotator), None),
        "flags": {str(flag): flags[str(flag)] for flag in Flag},
        "human_labels": len(human),
        "agreement": {
            "n": len(checked),
            "llm": _share([said == llm for said, llm, _ in checked]),
            "slm": _share([said == slm for said, _, slm in checked]),
            **(_f1(checked) if project.label_space.kind == MULTIPLE else {}),
            **(_span_f1(project, checked) if project.label_space.kind == SPANS else {}),
        },
    }


def _f1(checked: Sequence[tuple[str, str | None, str | None]]) -> dict[str, float | None]:
    """Return the micro-F1 of the LLM's and the SLM's sets against people's."""
    people, llm, slm = ([row[place] for row in checked] for place in range(3))
    return {"llm_f1": micro_f1(llm, people), "slm_f1": micro_f1(slm, people)}


def _span_f1(project: Project, checked: Sequence[tuple[str | None, str | None, str | None]]) -> dict[str, Any]:
    """Return the F1 of the LLM's and the SLM's exact spans against people's, over all labels and of each."""
    people = [label for label, *_ in checked]
    said = {"llm": [llm for _, llm, _ in checked], "slm": [slm for *_, slm in checked]}
    whole = {f"{who}_f1": span_f1(spans, people) for who, spans in said.items()}
    labels = project.label_space.labels
    each = {label: {who: span_f1(spans, people, label) for who, spans in said.items()} for label in labels}
    return {**whole, "by_label": each} if checked else whole


def _share(hits: Sequence[bool]) -> float | None:
    return round(sum(hits) / len(hits), 4) if hits else None


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


__all__ = ["summary", "version_of"]
