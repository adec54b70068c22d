"""How does the form show both candidates? By one line in the label config, put in and taken out without touching the rest.

``<Markdown value="$coral_hint"/>``: where a task lacks the key the form shows nothing, without a gap, and tasks can be imported
without it; other tags show "undefined" there or refuse the import. The line does not count in ``config_hash``, so that no
round becomes stale by it.
"""

from __future__ import annotations

import re
from xml.parsers import expat

from coral_backend.exceptions import LabelConfigError
from coral_backend.labelstudio.columns import HINT
from coral_backend.labelstudio.control_tags import parse_config

__all__ = ["LINE", "is_shown", "with_hint", "without_hint"]

LINE = f'<Markdown value="${HINT}"/>'

_VARIABLE = re.compile(rf"\${HINT}(?![A-Za-z0-9_])")
_LINE = re.compile(rf'(?:\r?\n[ \t]*)?<Markdown\s+value="\${HINT}"\s*/>')
_INDENT = re.compile(r"\s*?(\r?\n[ \t]*)(?=\S)")
_END_OF_TAG = re.compile(r"""(?:[^>"']|"[^"]*"|'[^']*')*>""")


def is_shown(xml: str) -> bool:
    """Say whether a label config shows the hint, by our line or by one that a person wrote."""
    return _VARIABLE.search(xml) is not None


def with_hint(xml: str) -> str:
    """Return the label config with our line as the first thing in the form; unchanged if it shows the hint already.

    Raises
    ------
    LabelConfigError
        If the config cannot be parsed, or its outermost tag is empty.
    """
    parse_config(xml)  # refuses entities and DTDs before expat sees them
    if is_shown(xml):
        return xml
    tag = _END_OF_TAG.match(xml, _start_of_root(xml))
    if tag is None or tag[0].endswith("/>"):
        raise LabelConfigError("The outermost tag of the label config is empty; there is no place for the hint.")
    indent = _INDENT.match(xml, tag.end())
    return xml[: tag.end()] + (indent[1] if indent else "") + LINE + xml[tag.end() :]


def without_hint(xml: str) -> str:
    """Return the label config without our line: what ``with_hint`` was given."""
    return _LINE.sub("", xml)


def _start_of_root(xml: str) -> int:
    """Return where the outermost tag begins, behind comments and declarations."""
    starts: list[int] = []
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = lambda *_: starts.append(parser.CurrentByteIndex)
    data = xml.encode("utf-8", "replace")
    parser.Parse(data, True)
    return len(data[: starts[0]].decode("utf-8"))
