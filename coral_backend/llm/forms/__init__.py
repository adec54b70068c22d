"""What does an LLM's answer look like, for each kind of label space? The registry of forms."""

from __future__ import annotations

from coral_backend.labels import MULTIPLE, SINGLE, SPANS
from coral_backend.llm.forms.base import Asked, Form, Partial
from coral_backend.llm.forms.multiple import SetOfLabels
from coral_backend.llm.forms.single import OneLabel
from coral_backend.llm.forms.spans import Spans

__all__ = ["FORMS", "Asked", "Form", "Partial"]

FORMS: dict[str, Form] = {
    MULTIPLE: SetOfLabels(),
    SINGLE: OneLabel(),
    SPANS: Spans(),
}
"""By the kind of the label space; a new one is one file and one line here."""
