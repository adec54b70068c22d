"""What must a form of answers be able to do? Say it as a JSON schema, read it back, ask once more, show it in examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from coral_backend.types import Demo

__all__ = ["Asked", "Form", "Partial"]


class Asked(Protocol):
    """What a form needs to know of the prompt; see ``Prompt``."""

    @property
    def labels(self) -> Sequence[str]:
        """The labels that the prompt lists."""

    @property
    def allowed(self) -> Sequence[str]:
        """The labels that are taken for an answer, in the order of the config."""

    @property
    def codes(self) -> Mapping[str, str]:
        """Letter -> label where the answer is to be a letter; else empty."""

    @property
    def required(self) -> bool:
        """Whether a set of labels must have at least one."""


class Form(Protocol):
    """The seam: how one kind of answer is asked for and read."""

    weighed: bool
    """Whether log-probabilities of its tokens say how sure the model is: only of one label."""

    def properties(self, asked: Asked, listed: Sequence[str]) -> dict[str, Any]:
        """Return the properties of the answer's JSON schema, whose enums name `listed`."""

    def read(self, answer: str, asked: Asked, text: str) -> tuple[str | None, str | None]:
        """Return what `answer` says about `text` as ``labels.py`` writes it, and None; or None and why it says nothing.

        Parameters
        ----------
        text : str
            As it was sent (``Prompt.clean``): characters stand where they stand in the sample's.
        """

    def again(self, asked: Asked) -> str:
        """Return the sentence that asks once more after an answer that could not be read."""

    def example(self, demo: Demo) -> dict[str, Any]:
        """Return a demonstration as the JSON object of its line, or what an answer to it would be."""


@runtime_checkable
class Partial(Protocol):
    """A form whose answers have parts that stand by themselves."""

    def rest(self, answer: str, asked: Asked, text: str) -> tuple[str | None, str | None]:
        """Return what is left of an answer whose second wording could not be read whole either, and why not all of it is."""
