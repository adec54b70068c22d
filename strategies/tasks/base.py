"""What is a task type made of, and which templates, tags and hypotheses make sense in it?"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from strategies.tasks.columns import COLUMN_KINDS, Column, shown

__all__ = ["FAMILIES", "KINDS", "TEMPLATES", "Fault", "TaskStrategy", "TaskStrategyError", "faults"]

FAMILIES = ("text", "tabular")
"""What the small model may be: one that reads texts, or one that reads rows of a table."""

KINDS = ("single", "multiple", "spans")
"""What is said of a task: one label, any number of labels, or labelled spans of its text."""

CHOICES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "slm": ("the small model may be", FAMILIES),
    "kind": ("what is said of a task may be", KINDS),
}
"""Parts that are one word: how a fault begins, and which words there are; the first where a file says nothing."""

LABEL_FIELDS = frozenset({"labels", "count", "choices", "definitions"})
"""Placeholders that come from the label config; allowed in every prompt part."""

TEMPLATES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "task_description": (frozenset(), LABEL_FIELDS),
    "demonstration": (frozenset({"demonstrations"}), LABEL_FIELDS),
    "output_control": (frozenset({"query"}), LABEL_FIELDS),
}
"""For each prompt part: the placeholders it must have, and those it may have."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a task strategy.

    Attributes
    ----------
    part : str
        The key of the part that is wrong; empty for the file as a whole.
    says : str
        What was found, what is allowed, what to do.
    item : int or None
        Its place in the part, where that is a list or mapping.
    near : str
        Words inside the part that the fault is about, or a key inside the item; empty for all of it.
    """

    part: str
    says: str
    item: int | None = None
    near: str = ""


class TaskStrategyError(ValueError):
    """A task strategy is missing or wrong; the message says which part, what is allowed, and what to do."""


@dataclass(frozen=True)
class TaskStrategy:
    """One task type.

    Attributes
    ----------
    name : str
        The file's name without ``.yaml``.
    title : str
        What a person reads.
    tags : tuple of str
        Label Studio control tags it serves, for example ``("Choices",)``.
    slm : str
        Family of the small model, of ``FAMILIES``.
    task_description, demonstration, output_control : str
        The three parts of the prompt (Table 1 of the paper), templates with ``{placeholders}``.
    definitions : mapping of str to str
        What a label means, by canonical label; a definition in the label config wins over it.
    aliases : mapping of str to tuple of str
        Canonical label -> its other spellings. A strategy with aliases is meant for these labels only.
    hypotheses : tuple of str
        Templates with ``{label}``, ``{definition}`` or both: sentences that the embedded annotator compares a text with.
    anchors : mapping of str to tuple of str
        Further such sentences, by canonical label.
    columns : mapping of str to Column
        What the columns of a table mean, in the order in which they are told; others are left out. Empty: whatever rows have.
    kind : str
        What is said of a task, one of ``KINDS``.

    Raises
    ------
    TaskStrategyError
        When a part is empty, or a placeholder is missing or unknown.

    References
    ----------
    CORAL, Table 1: task description, in-context demonstration, output control.
    """

    name: str
    title: str
    tags: tuple[str, ...]
    slm: str
    task_description: str
    demonstration: str
    output_control: str
    definitions: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hypotheses: tuple[str, ...] = ("{label}",)
    anchors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    kind: str = "single"

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if found := list(faults(values)):
            raise TaskStrategyError(f"{self.name}: {'; '.join(fault.says for fault in found)}")

    def canonical(self, label: str) -> str:
        """Return the name under which `definitions` and `anchors` know `label`; `label` itself when they do not."""
        key = _fold(label)
        for name, others in self.aliases.items():
            if key in {_fold(name), *map(_fold, others)}:
                return name
        return next((name for name in (*self.definitions, *self.anchors) if _fold(name) == key), label)

    def definition(self, label: str) -> str:
        """Return what `label` means; empty when the strategy does not say."""
        return self.definitions.get(self.canonical(label), "")

    def shown(self, text: str) -> str:
        """Return what is labelled as the LLM sees it: a text as it is, a row with the meanings of its columns."""
        return shown(text, self.columns) if self.slm == "tabular" else text

    def is_meant_for(self, labels: Sequence[str]) -> bool:
        """Say whether every one of `labels`, two at least, is known to `aliases` and no two mean the same."""
        canonical = {self.canonical(label) for label in labels}
        return len(labels) > 1 and len(canonical) == len(labels) and canonical <= set(self.aliases)


def faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with the parts of a strategy, each of which is of the right kind; absent ones are not looked at."""
    if "tags" in values and not values["tags"]:
        yield Fault("tags", "'tags' is empty; name at least one control tag, for example Choices.")
    yield from _choice_faults(values)
    yield from _column_faults(values)
    used: set[str] = set()
    for part, (required, optional) in TEMPLATES.items():
        if part in values:
            wrong = _template_fault(part, values[part], required, optional)
            used |= {"labels"} if wrong else _placeholders(values[part])
            if wrong:
                yield wrong
    if used and set(TEMPLATES) <= set(values) and not used & {"labels", "choices"}:
        yield Fault("output_control", "no part of the prompt names the labels; write {labels} or {choices}.")
    for place, hypothesis in enumerate(values.get("hypotheses", ())):
        wrong = _template_fault("hypotheses", hypothesis, frozenset(), frozenset({"label", "definition"}), place)
        if wrong is None and not _placeholders(hypothesis):
            wrong = Fault("hypotheses", f"the hypothesis {hypothesis!r} names no label; write {{label}} in it.", place)
        if wrong:
            yield wrong


def _column_faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with the columns."""
    columns = values.get("columns", {})
    if columns and values.get("slm") == "text":
        yield Fault("columns", "'columns' is for the small model of tables; write slm: tabular.")
    for place, (name, column) in enumerate(columns.items()):
        if column.kind and column.kind not in COLUMN_KINDS:
            says = f"the kind of column {name!r} is {column.kind!r}; it may be: {', '.join(COLUMN_KINDS)}."
            yield Fault("columns", says, place, near="kind")


def _choice_faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    for part, (says, allowed) in CHOICES.items():
        if (chosen := values.get(part, allowed[0])) not in allowed:
            yield Fault(part, f"{part!r} is {chosen!r}; {says}: {', '.join(allowed)}.")


def _placeholders(template: str) -> set[str]:
    """Return the names between braces; raises ValueError where the braces are wrong."""
    found = set()
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is not None:
            found.add(name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else ""))
    return found


def _template_fault(
    part: str, template: str, required: frozenset[str], optional: frozenset[str], item: int | None = None
) -> Fault | None:
    """Find wrong braces, a placeholder that does not exist, or the lack of one that must be there."""
    allowed = ", ".join(f"{{{name}}}" for name in sorted(required | optional))
    try:
        found = _placeholders(template)
    except ValueError as error:
        return Fault(part, f"{part!r} has wrong braces ({error}); write {{{{ and }}}} for a brace itself.", item)
    if unknown := sorted(found - required - optional):
        says = (
            f"{part!r} has the unknown placeholder {{{unknown[0]}}}. Allowed: {allowed}; "
            "write {{ and }} for a brace itself."
        )
        return Fault(part, says, item, near=f"{{{unknown[0]}")
    if missing := sorted(required - found):
        return Fault(part, f"{part!r} lacks the placeholder {{{missing[0]}}}. Allowed: {allowed}.", item)
    return None


def _fold(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())
