"""Which prompt follows from a project's settings? The task strategy's parts, or what people wrote in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from coral_backend.exceptions import SettingsError
from coral_backend.labels import MULTIPLE, SPANS
from coral_backend.llm.prompt import Prompt
from coral_backend.settings import Settings
from coral_backend.types import Demo, LabelSpace, Project
from strategies.tasks import TaskStrategy, TaskStrategyError, choose, load, names

__all__ = [
    "PARTS", "family_of", "label_space_of", "named_strategy", "prompt_for", "strategy_for", "task_names", "with_room",
]  # fmt: skip

ANSWER_TOKENS: Mapping[str, int] = {MULTIPLE: 256, SPANS: 1_024}
"""Longest answer asked for where it is more than one label, unless another length is set."""

PARTS: Mapping[str, str] = {
    "prompt_task": "task_description",
    "prompt_demonstration": "demonstration",
    "prompt_output": "output_control",
}
"""Setting -> the part of the task strategy that it replaces."""


_QUESTION = "Several questions are asked about each text, one at a time. This one is called {name}."
"""Two controls may have the same labels (yes, no); their names say what they are about."""


def named_strategy(settings: Settings, project: Project) -> TaskStrategy:
    """Return the task strategy named in the settings, or the one that fits the label config, with its own words.

    Raises
    ------
    SettingsError
        If there is none, its file is wrong, or it is for other control tags.
    """
    space, name = project.label_space, settings.task_strategy
    try:
        found = None if name == "auto" else load(name, settings.strategies)
        if found is None or not _is_meant(found, settings, project):
            return choose(space.tag, space.labels, kind=space.kind, slm=family_of(space), folder=settings.strategies)
    except TaskStrategyError as error:
        raise SettingsError(f"CORAL_TASK is {name!r}: {error}") from None
    if space.tag not in found.tags:
        served = ", ".join(f"<{tag}>" for tag in found.tags)
        raise SettingsError(
            f"CORAL_TASK is {name!r}, which is for {served}; project {project.id} has a <{space.tag}>. "
            f"Choose another (coral strategies), or add {space.tag} to its tags if it is a file of yours."
        )
    if found.slm != family_of(space):
        what = "a row of a table" if space.is_row else "a text"
        raise SettingsError(
            f"CORAL_TASK is {name!r}, whose small model is {found.slm!r}; project {project.id} shows {what}, which needs slm: "
            f"{family_of(space)}. Choose another (coral strategies), or 'auto'."
        )
    if space.kind != found.kind:
        raise SettingsError(
            f"CORAL_TASK is {name!r}, whose kind is {found.kind!r}; <{space.tag} name={space.from_name!r}> of project "
            f"{project.id} needs one of kind {space.kind!r}. Choose another (coral strategies)."
        )
    return found


def _is_meant(found: TaskStrategy, settings: Settings, project: Project) -> bool:
    """Say whether a strategy that is named for all of several controls fits this one; one named for it alone has to."""
    if project.control is None or "task_strategy" in settings.own_options(project.control):
        return True
    space = project.label_space
    fits = space.tag in found.tags and space.kind == found.kind and found.slm == family_of(space)
    return fits and (not found.aliases or found.is_meant_for(space.labels))


def family_of(space: LabelSpace) -> str:
    """Return which family of small models reads a project's samples, as task strategies name it."""
    return "tabular" if space.is_row else "text"


def task_names(settings: Settings) -> list[str]:
    """Return the names of the task strategies: those that come with CORAL, and those in the user's folder.

    Raises
    ------
    SettingsError
        If that folder cannot be read, or a name in it is taken.
    """
    try:
        return names(settings.strategies)
    except TaskStrategyError as error:
        raise SettingsError(str(error)) from None


def strategy_for(settings: Settings, project: Project) -> TaskStrategy:
    """Return the task strategy of a project, with the prompt parts that the settings replace.

    Raises
    ------
    SettingsError
        If there is no such strategy, or a part lacks a placeholder or has an unknown one.
    """
    strategy = named_strategy(settings, project)
    for name, part in PARTS.items():
        text = getattr(settings, name)
        if text is None:
            continue
        try:
            strategy = replace(strategy, **{part: text})
        except TaskStrategyError as error:
            raise SettingsError(f"{Settings.model_fields[name].alias}: {error}") from None
    if project.control is None:
        return strategy
    question = (
        _QUESTION.format(name=json.dumps(project.control, ensure_ascii=False)).replace("{", "{{").replace("}", "}}")
    )
    return replace(strategy, task_description=f"{strategy.task_description.rstrip()}\n\n{question}")


def label_space_of(settings: Settings, project: Project) -> LabelSpace:
    """Return the project's labels with the meanings that the settings give them."""
    space = project.label_space
    return replace(space, definitions={**space.definitions, **settings.definitions})


def with_room(settings: Settings, space: LabelSpace) -> Settings:
    """Return the settings with room for the answers of a label space, where no length is set: a set is longer than a label."""
    usual = Settings.model_fields["llm_max_tokens"].default
    longest = max(ANSWER_TOKENS.get(one.kind, usual) for one in space.controls or (space,))
    return settings if settings.llm_max_tokens != usual else settings.model_copy(update={"llm_max_tokens": longest})


def prompt_for(
    settings: Settings,
    project: Project,
    demos: Sequence[Demo],
    *,
    strategy: TaskStrategy | None = None,
    listed: Sequence[str] | None = None,
    candidates: Sequence[str] | None = None,
) -> Prompt:
    """Return the prompt of a project with these demonstrations; see ``Prompt.build`` for `listed` and `candidates`."""
    return Prompt.build(
        strategy or strategy_for(settings, project),
        label_space_of(settings, project),
        demos,
        max_chars=settings.max_text_chars,
        context=settings.llm_context,
        answer_tokens=with_room(settings, project.label_space).llm_max_tokens,
        listed=listed,
        candidates=candidates,
        coded=settings.llm_confidence == "logprobs",
        verbalised=settings.llm_confidence == "verbalised",
    )
