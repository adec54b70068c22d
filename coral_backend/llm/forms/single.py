"""How is one label asked for and read? ``{"label": "..."}``, confined to an enum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from coral_backend.llm.forms.base import Asked
from coral_backend.llm.parse import read_label
from coral_backend.types import Demo

__all__ = ["OneLabel"]


class OneLabel:
    """One label, or the letter that stands for it."""

    weighed = True

    def properties(self, asked: Asked, listed: Sequence[str]) -> dict[str, Any]:
        """Return the properties of the answer's JSON schema."""
        return {"label": {"type": "string", "enum": list(asked.codes) or list(listed)}}

    def read(self, answer: str, asked: Asked, text: str) -> tuple[str | None, str | None]:  # noqa: ARG002
        """Return the label that an answer names, and None; or None and the reason why it names none."""
        label, reason = read_label(answer, (*asked.codes, *asked.allowed))
        return (asked.codes.get(label, label), None) if label is not None else (None, reason)

    def again(self, asked: Asked) -> str:
        """Return the sentence that asks once more."""
        allowed = json.dumps(list(asked.codes or asked.labels), ensure_ascii=False)
        return f'Your answer is not one of the labels. Reply with nothing but JSON: {{"label": "..."}}, with one of {allowed}.'

    def example(self, demo: Demo) -> dict[str, Any]:
        """Return a demonstration as the JSON object of its line."""
        return {"content": demo.text, "label": demo.label}
