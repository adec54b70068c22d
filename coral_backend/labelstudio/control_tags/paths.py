"""How is a place in a tree of choices one label? ``Animal > Cat``: read by people and LLMs, and taken apart without loss."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from coral_backend.exceptions import LabelConfigError

__all__ = ["Node", "chosen_path", "chosen_paths", "joined", "nodes", "parts"]

_SEPARATOR = " > "
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

MAX_DEPTH = 100


@dataclass(frozen=True)
class Node:
    """A ``<Choice>`` with where it stands.

    Attributes
    ----------
    path : tuple of str
        What Label Studio stores of it and of those around it, outermost first: the ``alias`` where there is one.
    shown : tuple of str
        What people read in their place.
    """

    path: tuple[str, ...]
    shown: tuple[str, ...]
    hint: str
    is_leaf: bool

    @property
    def label(self) -> str:
        """The path as one label."""
        return joined(self.path)

    @property
    def meaning(self) -> str:
        """What the label means, as far as the config says more than the label itself."""
        seen = joined(self.shown) if self.shown != self.path else ""
        return ": ".join(part for part in (seen, self.hint) if part)


def nodes(element: Element, path: tuple[str, ...] = (), shown: tuple[str, ...] = (), depth: int = 0) -> Iterator[Node]:
    """Yield every ``<Choice>`` below `element`, each before those inside it; other tags between them count as nothing.

    Raises
    ------
    LabelConfigError
        If they are nested deeper than anybody could read.
    """
    if depth > MAX_DEPTH:
        raise LabelConfigError(
            f"The choices of <{element.tag}> are nested more than {MAX_DEPTH} deep; make the tree flatter."
        )
    for child in element:
        if child.tag != "Choice":
            yield from nodes(child, path, shown, depth + 1)
            continue
        value = child.get("value") or ""
        here, seen = (*path, child.get("alias") or value), (*shown, value or child.get("alias") or "")
        yield Node(here, seen, child.get("hint") or "", child.find(".//Choice") is None)
        yield from nodes(child, here, seen, depth + 1)


def joined(path: Sequence[str]) -> str:
    r"""Return a path as one label; a ``>`` or backslash inside a step gets a backslash in front.

    >>> joined(["Animal", "Cat"]), joined(["a > b"])
    ('Animal > Cat', 'a \\> b')
    """
    return _SEPARATOR.join(step.replace("\\", "\\\\").replace(">", "\\>") for step in path)


def parts(label: str) -> list[str]:
    r"""Return the path of a label that ``joined`` made.

    >>> parts(joined(["a > b", "c\\", " > "])) == ["a > b", "c\\", " > "]
    True
    """
    return [_ESCAPED.sub(r"\1", step) for step in label.split(_SEPARATOR)]


def chosen_path(chosen: Any) -> str | None:
    """Return the label of a region's list of paths, or None unless it says one thing.

    A path beside one that leads on from it adds nothing: Label Studio ticks a node whose only child is ticked.
    """
    ends = chosen_paths(chosen)
    return joined(ends[0]) if ends is not None and len(ends) == 1 else None


def chosen_paths(chosen: Any, *, whole: bool = False) -> list[tuple[str, ...]] | None:
    """Return the paths of a region's list, each once; None when it is no such list.

    Parameters
    ----------
    whole : bool
        Return all of them; else a path is left out beside one that leads on from it, see ``chosen_path``.
    """
    if not isinstance(chosen, list):
        return None
    paths = [tuple([path] if isinstance(path, str) else path) for path in chosen if isinstance(path, str | list)]
    if len(paths) < len(chosen) or not all(path and all(isinstance(step, str) for step in path) for path in paths):
        return None
    ends = [p for p in paths if whole or not any(len(o) > len(p) and o[: len(p)] == p for o in paths)]
    return list(dict.fromkeys(ends))
