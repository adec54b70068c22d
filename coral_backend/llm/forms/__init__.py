"""What does an LLM's answer look like, for each kind of label space? The registry of forms."""

from __future__ import annotations

from coral_backend.labels import MULTIPLE, SINGLE
from coral_backend.llm.forms.base import Asked, Form
from coral_backend.llm.forms.multiple import SetOfLabels
from coral_backend.llm.forms.single import OneLabel

__all__ = ["FORMS", "Asked", "Form"]

FORMS: dict[str, Form] = {
    MULTIPLE: SetOfLabels(),
    SINGLE: OneLabel(),
}
"""By the kind of the label space; a new one is one file and one line here."""
