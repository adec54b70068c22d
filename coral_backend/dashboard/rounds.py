"""Which round is meant, what was the LLM asked in it, and what did it change?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coral_backend.controls import demos_of, project_of, settings_of, spaces
from coral_backend.dashboard.example import first_known
from coral_backend.dashboard.query import Asked
from coral_backend.dashboard.rows import excerpt
from coral_backend.effects import Effect, before_of, effect_of
from coral_backend.exceptions import InputError, NotFoundError, SettingsError
from coral_backend.settings import PROJECT_OPTIONS, Settings
from coral_backend.store import Store, browse
from coral_backend.task_prompt import prompt_for
from coral_backend.types import Change, Demo, Project, Round

__all__ = ["Changed", "SentPrompt", "changed_by", "prompt_of", "round_named", "serving_or"]


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
    sample = first_known(store, project.id)
    if sample is None:
        return None
    kept = {name: value for name, value in current.settings.items() if name in PROJECT_OPTIONS}
    try:
        messages, version = _messages(settings.with_options(kept), project, current.demos, sample.text)
    except SettingsError:
        return None
    asked = current.progress.get("annotate") or {}
    name = str(asked.get("annotator") or current.metrics.get("annotator") or "")
    return SentPrompt(
        messages,
        sample.task_id,
        version,
        asked.get("prompt_version"),
        not name.startswith(("embedded", "recorded")),
    )


def _messages(
    settings: Settings, project: Project, demos: Sequence[Demo], text: str
) -> tuple[list[dict[str, str]], str]:
    """Return the messages about a text and the version of their words; of several controls, one after the other."""
    found, versions = [], []
    for space in spaces(project.label_space):
        view = project_of(project, space)
        own = demos if view.control is None else demos_of(demos, view.control)
        prompt = prompt_for(settings_of(settings, view), view, own)
        of_it = "" if view.control is None else f"{view.control}: "
        found += [{**message, "role": f"{of_it}{message['role']}"} for message in prompt.messages(text)]
        versions.append(prompt.version)
    return found, ", ".join(versions)


@dataclass(frozen=True)
class Changed:
    """What a round changed, and one page of the verdicts that it changed elsewhere.

    Attributes
    ----------
    lines : sequence of Change
        Most doubtful first; each text as ``rows.excerpt`` shows it.
    more : bool
        Whether another page follows.
    """

    effect: Effect
    lines: Sequence[Change]
    more: bool


def changed_by(store: Store, project: Project, current: Round, asked: Asked) -> Changed | None:
    """Return what a round changed elsewhere; None where there is no round to compare it with.

    Raises
    ------
    InputError
        If there is no such page.
    """
    effect, before = effect_of(store, current), before_of(store, current)
    if effect is None or before is None:
        return None
    # One more than is shown, of both: that says whether there is more, and nothing need be counted.
    found = store.verdict_changes(
        current.project_id, before.id, current.id, limit=asked.size + 1, offset=asked.offset,
        characters=None if project.label_space.is_row else browse.EXCERPT + 1, elsewhere=True,
    )  # fmt: skip
    lines = [replace(line, text=excerpt(project.label_space, line.text)) for line in found]
    if not lines and asked.page > 1:
        raise InputError(f"Page {asked.page} of the changed verdicts does not exist; there are fewer.")
    return Changed(effect, lines[: asked.size], len(lines) > asked.size)
