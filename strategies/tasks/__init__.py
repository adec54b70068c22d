"""What is a task type? Prompt parts, label meanings and the family of the small model, as one YAML file each.

The paper's "flexible strategy schema" (section 4, step 1): a new task type with known shapes is a new file here, or a file
of the user's anywhere. A file is checked in full when it is loaded, before the first paid request.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

__all__ = ["TaskStrategy", "TaskStrategyError", "choose", "load", "names"]

FOLDER = Path(__file__).parent
MAX_FILE_BYTES = 256 * 1024
"""A larger file is refused: it is no task strategy."""

LABEL_FIELDS = frozenset({"labels", "count", "choices", "definitions"})
"""Placeholders that come from the label config; allowed in every prompt part."""

TEMPLATES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "task_description": (frozenset(), LABEL_FIELDS),
    "demonstration": (frozenset({"demonstrations"}), LABEL_FIELDS),
    "output_control": (frozenset({"query"}), LABEL_FIELDS),
}
"""For each prompt part: the placeholders it must have, and those it may have."""


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
        Family of the small model: ``"text"``.
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

    def __post_init__(self) -> None:
        if not self.tags:
            raise TaskStrategyError(
                f"{self.name}: 'tags' is empty; name at least one control tag, for example Choices."
            )
        for part, (required, optional) in TEMPLATES.items():
            _check_template(f"{self.name}: {part!r}", getattr(self, part), required, optional)
        used = frozenset().union(*(_placeholders(getattr(self, part)) for part in TEMPLATES))
        if not used & {"labels", "choices"}:
            raise TaskStrategyError(
                f"{self.name}: no part of the prompt names the labels; write {{labels}} or {{choices}}."
            )
        for hypothesis in self.hypotheses:
            _check_template(f"{self.name}: 'hypotheses'", hypothesis, frozenset(), frozenset({"label", "definition"}))
            if not _placeholders(hypothesis):
                raise TaskStrategyError(
                    f"{self.name}: the hypothesis {hypothesis!r} names no label; write {{label}} in it."
                )

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

    def is_meant_for(self, labels: Sequence[str]) -> bool:
        """Say whether every one of `labels`, two at least, is known to `aliases` and no two mean the same."""
        canonical = {self.canonical(label) for label in labels}
        return len(labels) > 1 and len(canonical) == len(labels) and canonical <= set(self.aliases)


def names() -> list[str]:
    """Return the names of the strategies that come with CORAL, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> TaskStrategy:
    """Return the strategy called `name`, or the one in the YAML file at the path `name`.

    Raises
    ------
    TaskStrategyError
        If there is none, or the file is wrong in any part.
    """
    if name in names():
        return _read(FOLDER / f"{name}.yaml")
    path = Path(name).expanduser()
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return _read(path)
    raise TaskStrategyError(
        f"There is no task strategy {name!r}. There are: {', '.join(names())}; or give the path of a .yaml file."
    )


def choose(tag: str, labels: Sequence[str], *, slm: str = "text") -> TaskStrategy:
    """Return the strategy for a label config, for the task setting ``auto``.

    Among those of the family `slm`: the one whose aliases know all of `labels` (sentiment for positive and negative), else
    one that takes any labels (topic).

    Raises
    ------
    TaskStrategyError
        If no strategy serves `tag`.
    """
    serving = [strategy for strategy in map(load, names()) if tag in strategy.tags and strategy.slm == slm]
    meant = [strategy for strategy in serving if strategy.is_meant_for(labels)]
    chosen = meant or [strategy for strategy in serving if not strategy.aliases]
    if not chosen:
        raise TaskStrategyError(
            f"No task strategy serves {tag} with the labels {', '.join(labels)}; write one and name it."
        )
    return chosen[0]


def _read(path: Path) -> TaskStrategy:
    """Read and check one YAML file."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TaskStrategyError(
                f"{path.name} has more than {MAX_FILE_BYTES} bytes; a task strategy is a short file."
            )
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TaskStrategyError(f"{path.name} cannot be read as YAML: {error}") from error
    if not isinstance(data, dict):
        raise TaskStrategyError(f"{path.name} holds {type(data).__name__}; a task strategy is a mapping of its parts.")
    return _from_mapping(path.stem, data)


def _from_mapping(name: str, data: Mapping[Any, Any]) -> TaskStrategy:
    """Build a strategy from YAML values, every value of the kind that its field wants."""
    known = {f.name for f in fields(TaskStrategy)} - {"name"}
    unknown = sorted(str(key) for key in data if key not in known)
    if unknown:
        raise TaskStrategyError(f"{name}: unknown key {', '.join(unknown)}. Allowed: {', '.join(sorted(known))}.")
    missing = sorted({"title", "tags", "slm", *TEMPLATES} - set(data))
    if missing:
        raise TaskStrategyError(f"{name}: {', '.join(missing)} is missing; sentiment.yaml shows every part.")
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in {"tags", "hypotheses"}:
            values[key] = _texts(f"{name}: {key!r}", value)
        elif key in {"definitions", "aliases", "anchors"}:
            values[key] = _mapping(f"{name}: {key!r}", value, of_lists=key != "definitions")
        else:
            values[key] = _text(f"{name}: {key!r}", value)
    return TaskStrategy(name=name, **values)


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaskStrategyError(
            f"{what} is {value!r}; it must be a text that is not empty (quote numbers, yes and no)."
        )
    return value.strip()


def _texts(what: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise TaskStrategyError(f"{what} is {value!r}; it must be a list of texts.")
    return tuple(_text(what, item) for item in value)


def _mapping(what: str, value: object, *, of_lists: bool) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TaskStrategyError(f"{what} is {value!r}; it must be a mapping from labels.")
    read = _texts if of_lists else _text
    return MappingProxyType({_text(f"{what}, a label", k): read(f"{what}, {k!r}", v) for k, v in value.items()})


def _placeholders(template: str) -> frozenset[str]:
    """Return the names between braces; raises ValueError where the braces are wrong."""
    found = set()
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is not None:
            found.add(name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else ""))
    return frozenset(found)


def _check_template(what: str, template: str, required: frozenset[str], optional: frozenset[str]) -> None:
    """Refuse a template with wrong braces, with a placeholder that does not exist, or without one that must be there."""
    allowed = ", ".join(f"{{{name}}}" for name in sorted(required | optional))
    try:
        found = _placeholders(template)
    except ValueError as error:
        raise TaskStrategyError(
            f"{what} has wrong braces ({error}); write {{{{ and }}}} for a brace itself."
        ) from error
    if unknown := sorted(found - required - optional):
        raise TaskStrategyError(
            f"{what} has the unknown placeholder {{{unknown[0]}}}. Allowed: {allowed}; write {{{{ and }}}} for a brace itself."
        )
    if missing := sorted(required - found):
        raise TaskStrategyError(f"{what} lacks the placeholder {{{missing[0]}}}. Allowed: {allowed}.")


def _fold(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())
