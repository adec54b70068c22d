"""How does a YAML file become a task strategy, and on which line is it wrong?"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from strategies.tasks.base import TEMPLATES, Fault, TaskStrategy, TaskStrategyError, faults
from strategies.tasks.columns import Column

__all__ = ["MAX_FILE_BYTES", "Mistake", "mistakes", "read"]

MAX_FILE_BYTES = 256 * 1024
"""A larger file is refused: it is no task strategy."""

_KNOWN = tuple(f.name for f in fields(TaskStrategy) if f.name != "name")
_NEEDED = ("title", "tags", "slm", *TEMPLATES)
_LISTS = frozenset({"tags", "hypotheses"})
_MAPPINGS = frozenset({"definitions", "aliases", "anchors"})

_COLUMN = tuple(f.name for f in fields(Column))

_BRIEFLY = reprlib.Repr()
_BRIEFLY.maxlevel = 2  # YAML's references let a small file hold a value without end


@dataclass(frozen=True)
class Mistake:
    """A fault and where it stands.

    Attributes
    ----------
    line : int or None
        The first line of the file is 1; None where no line is to blame.
    """

    file: str
    line: int | None
    says: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"{where}: {self.says}"


def read(path: Path) -> TaskStrategy:
    """Return the strategy in a file.

    Raises
    ------
    TaskStrategyError
        With every mistake and its line.
    """
    try:
        stat = path.stat()
    except OSError:
        return _read(path)
    return _read_once(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(64)
def _read_once(path: Path, _mtime_ns: int, _size: int) -> TaskStrategy:
    """Read a file as it is now; a round reads all strategies several times."""
    return _read(path)


def _read(path: Path) -> TaskStrategy:
    values, found = _examined(path)
    if found:
        raise TaskStrategyError("; ".join(str(mistake) for mistake in found))
    return TaskStrategy(name=path.stem, **values)


def mistakes(path: Path, tags: Collection[str] | None = None) -> list[Mistake]:
    """Return what is wrong with a file, in the order of its lines; nothing when it is right.

    Parameters
    ----------
    tags : collection of str, optional
        The control tags that exist; None lets every tag pass.
    """
    return _examined(path, tags)[1]


def _examined(path: Path, tags: Collection[str] | None = None) -> tuple[dict[str, Any], list[Mistake]]:
    """Return the parts of a file that are of the right kind, and its mistakes."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            says = f"the file has more than {MAX_FILE_BYTES} bytes; a task strategy is a short file."
            return {}, [Mistake(path.name, None, says)]
        text = path.read_text(encoding="utf-8")
        data, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        return {}, [Mistake(path.name, line, f"this is no YAML: {error.problem or error.context}.")]
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return {}, [Mistake(path.name, None, f"the file cannot be read as YAML: {' '.join(str(error).split())}.")]
    if not isinstance(data, dict) or not isinstance(root, yaml.MappingNode):
        says = f"the file holds {type(data).__name__}; a task strategy is a mapping of its parts, as in sentiment.yaml."
        return {}, [Mistake(path.name, 1 if root else None, says)]
    values: dict[str, Any] = {}
    found = [*_twice(root), *_kinds(data, values), *faults(values)]
    if tags is not None and "tags" in values:
        known = ", ".join(sorted(tags))
        found += [
            Fault("tags", f"'tags' names {tag!r}, which CORAL does not serve. It serves: {known}.", place)
            for place, tag in enumerate(values["tags"])
            if tag not in tags
        ]
    told = [Mistake(path.name, _line(root, fault), fault.says) for fault in found]
    return values, sorted(told, key=lambda mistake: mistake.line or 0)


def _twice(root: yaml.MappingNode) -> Iterator[Fault]:
    """Yield keys that stand there twice: YAML would keep the last and say nothing."""
    for part, node in [("", root), *((key.value, value) for key, value in root.value)]:
        if isinstance(node, yaml.MappingNode):
            seen: set[Any] = set()
            for place, (key, _) in enumerate(node.value):
                if not isinstance(key, yaml.ScalarNode) or key.value not in seen:
                    seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
                else:
                    yield Fault(part, f"{key.value!r} stands here a second time; keep one.", place)


def _kinds(data: Mapping[Any, Any], values: dict[str, Any]) -> Iterator[Fault]:
    """Put into `values` every part that is of the kind its field wants, and yield what is not."""
    for place, key in enumerate(data):
        if key not in _KNOWN:
            yield Fault("", f"unknown key {key}. Allowed: {', '.join(sorted(_KNOWN))}.", place)
    if missing := [part for part in _NEEDED if part not in data]:
        yield Fault("", f"{', '.join(missing)} is missing; sentiment.yaml shows every part.")
    for key in [known for known in _KNOWN if known in data]:
        try:
            if key in _LISTS:
                values[key] = _texts(key, data[key])
            elif key == "columns":
                values[key] = _columns(data[key])
            elif key in _MAPPINGS:
                values[key] = _mapping(key, data[key], of_lists=key != "definitions")
            else:
                values[key] = _text(key, data[key])
        except _WrongKindError as error:
            yield error.fault


class _WrongKindError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.says)
        self.fault = fault


def _text(part: str, value: object, item: int | None = None, what: str = "") -> str:
    if not isinstance(value, str) or not value.strip():
        says = f"{what or repr(part)} is {_BRIEFLY.repr(value)}; it must be a text that is not empty (quote numbers, yes and no)."
        raise _WrongKindError(Fault(part, says, item))
    return value.strip()


def _texts(part: str, value: object, item: int | None = None, what: str = "") -> tuple[str, ...]:
    what = what or repr(part)
    if not isinstance(value, list) or not value:
        raise _WrongKindError(Fault(part, f"{what} is {_BRIEFLY.repr(value)}; it must be a list of texts.", item))
    return tuple(
        _text(part, one, place if item is None else item, f"an item of {what}") for place, one in enumerate(value)
    )


def _mapping(part: str, value: object, *, of_lists: bool) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        says = f"{part!r} is {_BRIEFLY.repr(value)}; it must be a mapping from labels."
        raise _WrongKindError(Fault(part, says))
    inner = _texts if of_lists else _text
    read_all = {
        _text(part, key, place, f"a label of {part!r}"): inner(part, one, place, f"{part!r} of {key!r}")
        for place, (key, one) in enumerate(value.items())
    }
    return MappingProxyType(read_all)


def _columns(value: object) -> Mapping[str, Column]:
    if not isinstance(value, dict) or not value:
        raise _WrongKindError(
            Fault("columns", f"'columns' is {_BRIEFLY.repr(value)}; it must be a mapping from columns.")
        )
    read_all = {}
    for place, (name, about) in enumerate(value.items()):
        key = _text("columns", name, place, "a name in 'columns'")
        read_all[key] = _column(key, about, place)
    return MappingProxyType(read_all)


def _column(name: str, about: object, place: int) -> Column:
    """Read one column: its description, or a mapping of what is said of it; nothing at all is allowed."""
    if about is None:
        return Column()
    if not isinstance(about, dict):
        return Column(_text("columns", about, place, f"column {name!r}"))
    if unknown := [key for key in about if key not in _COLUMN]:
        says = f"column {name!r} has the unknown key {unknown[0]}. Allowed: {', '.join(_COLUMN)}."
        raise _WrongKindError(Fault("columns", says, place, near=str(unknown[0])))
    return Column(**{key: _text("columns", one, place, f"{key!r} of column {name!r}") for key, one in about.items()})


def _line(root: yaml.MappingNode, fault: Fault) -> int:
    """Return the line that a fault stands on; the first for one of the file as a whole."""
    pairs = root.value
    if not fault.part:
        return 1 if fault.item is None or fault.item >= len(pairs) else _starts(pairs[fault.item][0])
    key, node = next(((k, v) for k, v in pairs if k.value == fault.part), (root, root))
    line = _starts(key)
    inside = node.value if isinstance(node, yaml.CollectionNode) else []
    if fault.item is not None and fault.item < len(inside):
        one = inside[fault.item]
        if not isinstance(one, tuple):
            return _starts(one)
        nested = one[1].value if isinstance(one[1], yaml.MappingNode) else []
        return _starts(next((key for key, _ in nested if key.value == fault.near), one[0]))
    if fault.near and isinstance(node, yaml.ScalarNode) and node.style == "|" and fault.near in node.value:
        above = str(node.value).partition(fault.near)[0]
        return _starts(node) + 1 + above.count("\n")
    return line


def _starts(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
