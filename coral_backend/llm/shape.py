"""Which optional parts of a request does an endpoint accept? Found out by asking, and remembered for endpoint and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from coral_backend.llm.base import Question

TOP_LOGPROBS = 20
"""The most that OpenAI gives; others give what they have."""


@dataclass(frozen=True)
class Shape:
    """The optional parts of a request.

    An endpoint that accepts the JSON schema and ignores it does no harm: every answer is checked against the labels by us.
    """

    schema: bool = True
    temperature: bool = True
    logprobs: bool = True
    tokens_name: str = "max_tokens"

    def adapted(self, complaint: str, question: Question) -> Shape | None:
        """Return a shape without what `complaint` names, else without what is most often refused; None when nothing is left."""
        complaint = complaint.lower()
        if "max_completion_tokens" in complaint and self.tokens_name == "max_tokens":
            return replace(self, tokens_name="max_completion_tokens")
        if "temperature" in complaint and self.temperature:
            return replace(self, temperature=False)
        if self.logprobs and question.logprobs and ("logprob" in complaint or not self.schema):
            return replace(self, logprobs=False)
        if self.schema:
            return replace(self, schema=False)
        return None

    def parameters(self, question: Question, max_tokens: int) -> dict[str, Any]:
        """Return the parameters of a request beside model and messages."""
        values: dict[str, Any] = {self.tokens_name: max_tokens}
        if self.temperature:
            values["temperature"] = question.temperature
        if self.schema:
            values["response_format"] = question.prompt.response_format()
        if self.logprobs and question.logprobs:
            values |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return values

    def names(self) -> tuple[str, ...]:
        """Return the parts in words."""
        parts = {"a JSON schema": self.schema, "temperature": self.temperature, "log-probabilities": self.logprobs}
        return (*(name for name, taken in parts.items() if taken), self.tokens_name)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_json`` restores an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Shape:
        """Restore what ``to_json`` returned; what another version wrote is left out."""
        fresh = cls()
        return cls(**{k: data[k] for k, v in asdict(fresh).items() if type(data.get(k)) is type(v)})


class Known:
    """What is known of an endpoint's shape in this process.

    Attributes
    ----------
    settled : bool
        A request of this shape was accepted, now or in an earlier run: many can be sent at once.
    confirmed : bool
        One was accepted in this run: what is refused now is refused for its text.
    """

    def __init__(self, remembered: Shape | None = None) -> None:
        self.shape = remembered or Shape()
        self._remembered = remembered
        self.settled = remembered is not None
        self.confirmed = False
        self._logprobs_accepted = False

    def accepted(self, sent: Shape, question: Question) -> bool:
        """Note that a request in the shape `sent` was accepted; True if this is news to be remembered."""
        self._logprobs_accepted |= sent.logprobs and question.logprobs
        if self.confirmed or sent != self.shape:
            return False
        self.settled = self.confirmed = True
        news, self._remembered = self.shape != self._remembered, self.shape
        return news

    def refused(self, sent: Shape, complaint: str, question: Question) -> bool:
        """Change the shape after a request in the shape `sent` was refused; False if it is not the shape that is wrong."""
        if sent != self.shape:
            return True  # another slot found out meanwhile
        if self.confirmed:
            return self._dropped_logprobs(question)
        if self.settled:  # remembered, and no longer true: ask anew from the start
            self.settled, self.shape = False, Shape()
            if sent != self.shape:
                return True
        following = sent.adapted(complaint, question)
        self.shape = following or Shape()
        return following is not None

    def _dropped_logprobs(self, question: Question) -> bool:
        """Drop log-probabilities that the endpoint was never seen to accept; the rest of the shape is known to be right."""
        if not question.logprobs or not self.shape.logprobs or self._logprobs_accepted:
            return False
        self.shape, self.confirmed = replace(self.shape, logprobs=False), False
        return True
