"""Which round is meant, and what was the LLM asked in it?"""

from __future__ import annotations

from dataclasses import dataclass

from coral_backend.dashboard.example import first_known
from coral_backend.exceptions import NotFoundError, SettingsError
from coral_backend.settings import PROJECT_OPTIONS, Settings
from coral_backend.store import Store
from coral_backend.task_prompt import prompt_for
from coral_backend.types import Project, Round

__all__ = ["SentPrompt", "prompt_of", "round_named", "serving_or"]


def round_named(store: Store, project_id: int, name: str) -> Round:
    """Return the round called `name` (``1``, ``1.2``).

    Raises
    ------
    NotFoundError
        If the project has none of this name; the message lists those that exist.
    """
    known = store.rounds(project_id)
    for one in known:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in known[:20]) or "none yet"
    raise NotFoundError(f"Project {project_id} has no round {name[:20]!r}. Its rounds: {names}.")


def serving_or(store: Store, project: Project, name: str | None) -> Round | None:
    """Return the round called `name`, or without a name the one that serves; None before the first is finished."""
    if name:
        return round_named(store, project.id, name)
    return store.round(project.active_round) if project.active_round is not None else None


@dataclass(frozen=True)
class SentPrompt:
    """What an LLM was asked in a round, on one of its tasks.

    Attributes
    ----------
    version : str
        Of these very words.
    sent : str or None
        Version of the words that were sent last; None where nothing was sent.
    is_llm : bool
        Whether the annotator of the round is a language model.
    """

    messages: list[dict[str, str]]
    task_id: int
    version: str
    sent: str | None
    is_llm: bool


def prompt_of(settings: Settings, store: Store, project: Project, current: Round) -> SentPrompt | None:
    """Return the prompt of a round on its first task; None where it cannot be put together any more."""
    kept = {name: value for name, value in current.settings.items() if name in PROJECT_OPTIONS}
    try:
        prompt = prompt_for(settings.with_options(kept), project, current.demos)
    except SettingsError:
        return None
    sample = first_known(store, project.id)
    if sample is None:
        return None
    asked = current.progress.get("annotate") or {}
    name = str(asked.get("annotator") or current.metrics.get("annotator") or "")
    return SentPrompt(
        prompt.messages(sample.text),
        sample.task_id,
        prompt.version,
        asked.get("prompt_version"),
        not name.startswith(("embedded", "recorded")),
    )
