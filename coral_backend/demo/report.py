"""What came out of the round? Figures from our store and, beside them, what Label Studio's own API answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.tabs import tab_counts
from coral_backend.store import Store
from coral_backend.types import Round

__all__ = ["Login", "figures", "table", "where_to_look"]


@dataclass(frozen=True)
class Login:
    """Where the project is, and who may look at it."""

    url: str
    project_id: int
    email: str
    password: str = field(repr=False)


def figures(
    store: Store, client: LabelStudioClient, current: Round, gold: Mapping[int, str], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Return the figures of a round as JSON values.

    ``gold_accuracy`` counts an abstention as wrong; null without gold. ``label_studio`` is what Label Studio answers now.
    """
    metrics = current.metrics
    project_id = current.project_id
    pushed = metrics["pushed"]
    return {
        "project": project_id,
        "round": current.name,
        "annotator": metrics["annotator"],
        "task_strategy": metrics.get("task_strategy"),
        "tasks": metrics["tasks"],
        "annotated": metrics["annotated"],
        "abstained": metrics["abstained"],
        "human_labels": metrics["human_labels"],
        "seconds": {**seconds, **metrics["seconds"], "round": round(sum(metrics["seconds"].values()), 3)},
        "gold_accuracy": _gold_accuracy(store, current, gold),
        "flags": metrics["flags"],
        "pushed": {"sent": pushed["sent"], "created": pushed["created"]},
        "model_version": current.model_version,
        "label_studio": {
            "predictions": client.model_versions(project_id).get(str(current.model_version), 0),
            "project_model_version": client.project(project_id).get("model_version"),
            "scored_tasks": client.scored_tasks(project_id),
            "tabs": tab_counts(client, project_id),
        },
        "notes": metrics.get("notes", []),
    }


def _gold_accuracy(store: Store, current: Round, gold: Mapping[int, str]) -> dict[str, float | None]:
    verdicts = [v for v in store.verdicts(current.project_id, current.id) if v.task_id in gold]
    said: dict[str, Sequence[str | None]] = {
        "llm": [v.llm_label for v in verdicts],
        "slm": [v.slm_label for v in verdicts],
        "verdict": [v.label for v in verdicts],
    }
    true = [gold[v.task_id] for v in verdicts]
    return {name: _share_equal(labels, true) for name, labels in said.items()}


def _share_equal(labels: Sequence[str | None], true: Sequence[str]) -> float | None:
    return round(sum(a == b for a, b in zip(labels, true, strict=True)) / len(true), 4) if true else None


def table(found: Mapping[str, Any]) -> Table:
    """Return the figures as a table for the terminal."""
    rows = Table(title=f"Round {found['round']} of project {found['project']}", show_header=False, title_justify="left")
    seconds, accuracy = found["seconds"], found["gold_accuracy"]
    rows.add_row("annotator", str(found["annotator"]))
    rows.add_row("task strategy", str(found["task_strategy"]))
    rows.add_row("tasks", f"{found['tasks']} ({found['annotated']} annotated, {found['abstained']} abstained)")
    if accuracy["verdict"] is not None:
        shown = ", ".join(f"{name} {share:.1%}" for name, share in accuracy.items())
        rows.add_row("right (gold)", f"{shown} [dim](an abstention counts as wrong)[/]")
    rows.add_row("flags", ", ".join(f"{count} {flag}" for flag, count in found["flags"].items()))
    rows.add_row("pushed", f"{found['pushed']['created']} of {found['pushed']['sent']} as {found['model_version']}")
    stages = ", ".join(f"{name} {spent:.0f}" for name, spent in seconds.items() if name not in ("total", "round"))
    rows.add_row("seconds", f"{seconds['round']:.0f} for the round ({stages})")
    for note in found["notes"]:
        rows.add_row("note", str(note))
    return rows


def where_to_look(login: Login, found: Mapping[str, Any], folder: Path, *, over: bool) -> Text:
    """Return where a person finds the result; the password is shown because this Label Studio is theirs, on loopback."""
    lines = [
        "Where to look",
        f"  project       {login.url}/projects/{login.project_id}/data",
        f"  login         {login.email}  {login.password}",
        f"  review tabs   {', '.join(found['label_studio']['tabs'])}",
        "  to annotate   open a tab, then the arrow beside the big button: 'Label Tasks As Displayed'",
        f"  next round    . {folder / 'env'} && .venv/bin/coral round --project {login.project_id}",
        f"  the file      . {folder / 'env'} && .venv/bin/coral export --project {login.project_id} --output labels.xlsx",
        f"  logs          {folder / 'logs'}",
    ]
    if over:
        lines.append("All parts are stopped now; `make demo` starts them again over the same data.")
    return Text("\n" + "\n".join(lines) + "\n")
