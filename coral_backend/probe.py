"""What does a project's LLM endpoint take? Each model is asked one question when the project is connected, and it is remembered.

Without this the first texts of a round find it out, one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from coral_backend.annotate import make_team
from coral_backend.controls import project_of, settings_of, spaces
from coral_backend.costs import meter_for
from coral_backend.exceptions import CoralError
from coral_backend.llm.base import Question
from coral_backend.llm.replies import Replies
from coral_backend.questions import wants_logprobs
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.task_prompt import prompt_for
from coral_backend.types import Answer, Floats, Project, Reply, Sample

if TYPE_CHECKING:  # the HTTP client takes a while to import
    from coral_backend.llm.openai import OpenAIAnnotator

__all__ = ["Finding", "probe", "remembered"]

TEXT = "It was a day like any other, and nobody had anything to add."
"""What is asked about: no text of anybody."""


@dataclass(frozen=True)
class Finding:
    """What one model takes.

    Attributes
    ----------
    annotator : str
        ``"openai:gpt-4o-mini"``.
    takes : tuple of str or None
        The optional parts of a request; None where it is not known.
    trouble : str or None
        Why it is not known.
    """

    annotator: str
    takes: tuple[str, ...] | None = None
    trouble: str | None = None

    def told(self) -> str:
        """Return the finding as one line."""
        if self.takes is None:
            return f"{self.annotator}: {self.trouble or 'it was not asked yet what it takes'}"
        return f"{self.annotator} takes {', '.join(self.takes) or 'plain requests only'}"


def probe(store: Store, settings: Settings, project: Project) -> list[Finding]:
    """Ask each model of a project's annotation one question, unless it is known by now what it takes.

    What goes wrong is in the findings: it must not keep anybody from connecting a project. Empty where no LLM is asked.
    """
    settings = settings.with_options(project.options)
    try:
        return [_asked(settings, project, model) for model in _models(store, settings, project)]
    except CoralError as error:
        return [Finding(settings.llm_model, trouble=str(error))]


def remembered(store: Store, settings: Settings, project: Project) -> list[Finding]:
    """Return what is known of each model of a project's annotation; nobody is asked.

    Raises
    ------
    SettingsError
        If the settings name no annotator that could be made.
    """
    settings = settings.with_options(project.options)
    return [_finding(model) for model in _models(store, settings, project)]


def _models(store: Store, settings: Settings, project: Project) -> list[OpenAIAnnotator]:
    meter = meter_for(store, settings, project, None)
    team = make_team(settings, _never_embed, _Unread(store.replies), meter)
    return cast("list[OpenAIAnnotator]", team) if team[0].is_llm else []


def _asked(settings: Settings, project: Project, model: OpenAIAnnotator) -> Finding:
    if model.is_settled:
        return _finding(model)
    project = project_of(project, spaces(project.label_space)[0])
    settings = settings_of(settings, project)
    listed = project.label_space.labels[: settings.llm_labels]
    prompt = prompt_for(settings, project, (), listed=listed)
    question = Question(Sample(0, TEXT), prompt, logprobs=wants_logprobs(settings))
    answers: list[Answer] = []
    try:
        model.annotate([question], lambda _, answer: answers.append(answer), lambda: None)
    except CoralError as error:
        return Finding(model.name, trouble=str(error))
    finding = _finding(model)
    return finding if finding.takes is not None else Finding(model.name, trouble=answers[0].reason)


def _finding(model: OpenAIAnnotator) -> Finding:
    return Finding(model.name, takes=model.shape.names()) if model.is_settled else Finding(model.name)


class _Unread:
    """The store's replies without what was answered before: that would not tell what is taken now."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies

    def together(self) -> AbstractContextManager[None]:
        return self._replies.together()

    def find(self, _: Collection[str]) -> Mapping[str, Reply]:
        return {}

    def put(self, _: Sequence[Reply]) -> None:
        """Keep none: nobody will ask for them."""

    def tidy(self) -> None:
        self._replies.tidy()

    def accepts(self, base_url: str, model: str, *, since: float) -> Mapping[str, Any] | None:
        return self._replies.accepts(base_url, model, since=since)

    def put_accepts(self, base_url: str, model: str, accepts: Mapping[str, Any]) -> None:
        self._replies.put_accepts(base_url, model, accepts)


def _never_embed(_: Sequence[str]) -> Floats:
    raise AssertionError("nothing is embedded to ask what an endpoint takes")
