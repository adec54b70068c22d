"""What is an annotator, and which one do the settings ask for? The rest of CORAL sees this Protocol only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from coral_backend.exceptions import SettingsError
from coral_backend.llm.prompt import Prompt
from coral_backend.llm.replies import Replies
from coral_backend.llm.spend import Meter
from coral_backend.settings import Settings
from coral_backend.types import Answer, Floats, Sample

Embed: TypeAlias = Callable[[Sequence[str]], Floats]
"""Texts to vectors of shape (N, D), each of length 1."""

OnAnswer: TypeAlias = Callable[[Sample, Answer], None]


@dataclass(frozen=True)
class Question:
    """What label has this sample, asked in these words?

    Attributes
    ----------
    prompt : Prompt
        Most questions of a round share one; a strategy may ask about a sample with candidates or demonstrations of its own.
    draw : int
        0, 1, 2, ...: the same question asked again on purpose (at a temperature above 0) is another request.
    temperature : float
        Of the model's choice among likely words, from 0; an endpoint that takes none has its own.
    logprobs : bool
        Whether to ask for log-probabilities, where the endpoint gives them.
    control : str or None
        Which of several controls it is about; the prompt says so, too.
    """

    sample: Sample
    prompt: Prompt
    draw: int = 0
    temperature: float = 0.0
    logprobs: bool = False
    control: str | None = None


class Annotator(Protocol):
    """Somebody who labels texts."""

    @property
    def name(self) -> str:
        """Who it is: ``"openai:gpt-4o-mini"``, ``"embedded:all-MiniLM-L6-v2"``, ``"recorded:llm_label"``."""
        ...

    @property
    def is_llm(self) -> bool:
        """Whether a language model is asked."""
        ...

    def annotate(self, questions: Iterable[Question], on_answer: OnAnswer, check: Callable[[], None]) -> None:
        """Answer `questions`.

        Parameters
        ----------
        questions : iterable of Question
            At most one a sample; read as the work goes on, so that a generator over a large corpus stays small.
        on_answer : callable
            Called once for every sample, in any order, before the slot that got the answer goes on. It may be called inside
            a transaction of the store, so it should write the answer and do nothing slow.
        check : callable
            Called between items, and at least once a second while waiting. What it raises (``RoundStopped``,
            ``LeaseLostError``) cancels the requests in flight and leaves this method.

        Raises
        ------
        EndpointError
            When the endpoint refuses all further work; the answers already handed over stay.
        """
        ...


def asked(samples: Iterable[Sample], prompt: Prompt) -> Iterator[Question]:
    """Yield the question about each sample in one prompt's words."""
    return (Question(sample, prompt) for sample in samples)


def make_annotator(
    settings: Settings, embed: Embed | None = None, replies: Replies | None = None, meter: Meter | None = None
) -> Annotator:
    """Return the annotator that `settings` ask for.

    Parameters
    ----------
    replies : Replies or None
        Where paid replies are kept (``store.replies``); without it this process's memory keeps the newest.
    embed : callable or None
        The sentence encoder of the ``embedded`` annotator; its attribute ``name``, if any, goes into the annotator's name.
    meter : Meter or None
        Counts what requests to an LLM cost, and keeps them under a budget.

    Raises
    ------
    SettingsError
        If the annotator does not exist, or lacks what it needs.
    """
    choice = settings.annotator
    if choice == "auto":
        choice = "openai" if settings.openai_base_url or settings.openai_api_key else "embedded"
    if choice not in _MAKERS:
        raise SettingsError(f"CORAL_ANNOTATOR is {choice!r}. Allowed: auto, {', '.join(sorted(_MAKERS))}.")
    return _MAKERS[choice](settings, embed, replies, meter)


def abstained(sample: Sample, annotator: str) -> Answer | None:
    """Return the answer to a sample that nobody needs to be asked about, because it holds no text; None if it does."""
    if sample.problem is not None:
        return Answer(None, reason=sample.problem, annotator=annotator)
    if not sample.text.strip():
        return Answer(None, reason="The text is empty.", annotator=annotator)
    return None


def _openai(settings: Settings, _: Embed | None, replies: Replies | None, meter: Meter | None) -> Annotator:
    from coral_backend.llm.openai import OpenAIAnnotator

    return OpenAIAnnotator.from_settings(settings, replies, meter)


def _embedded(_: Settings, embed: Embed | None, *__: object) -> Annotator:
    from coral_backend.llm.embedded import EmbeddedAnnotator

    if embed is None:
        raise SettingsError(
            "The embedded annotator needs a sentence encoder and none was given; set OPENAI_API_KEY for an LLM."
        )
    return EmbeddedAnnotator(embed)


def _recorded(settings: Settings, *_: object) -> Annotator:
    from coral_backend.llm.recorded import RecordedAnnotator

    if not settings.recorded_key:
        raise SettingsError(
            "CORAL_ANNOTATOR is 'recorded' and CORAL_RECORDED_KEY is not set; name the key of the task data."
        )
    return RecordedAnnotator(settings.recorded_key)


_MAKERS: dict[str, Callable[[Settings, Embed | None, Replies | None, Meter | None], Annotator]] = {
    "openai": _openai,
    "embedded": _embedded,
    "recorded": _recorded,
}
