"""What text, or row of a table, does the object of a control hold, and how does it stand in the task data?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element

from coral_backend.exceptions import LabelConfigError

__all__ = ["text_form", "text_key"]

_MEDIA = frozenset({"Image", "Audio", "AudioPlus", "Video", "TimeSeries", "Pdf", "Chat", "ReactCode"})
_TEMPLATED = frozenset({"Text", "HyperText"})
_VARIABLE = re.compile(r"\$([^\s$]+)\Z")
_KEY = re.compile(r"\w+\Z")
_VARIABLES = re.compile(r"\$([\w\[\].{}]+)")
"""What Label Studio's editor takes for a variable: in ``$age. Next`` it looks for the key ``age.``."""


def text_key(tag: str, name: str, to_name: str, objects: Mapping[str, Element]) -> str:
    """Return the key of the task data that the control `name` labels; of a template of several keys the first.

    Raises
    ------
    LabelConfigError
        If there is no such object, or it shows no text that stands under one key of the task.
    """
    target = objects.get(to_name)
    if target is None:
        raise LabelConfigError(
            f"<{tag} name={name!r}> labels {to_name!r}, but no tag has that name. "
            f"Its toName must be one of {sorted(objects) or 'the names of <Text> tags (there are none)'}."
        )
    if target.tag in _MEDIA or target.get("valueType") == "url":
        raise LabelConfigError(
            f"<{tag} name={name!r}> labels a <{target.tag}>, whose content is behind an address. CORAL labels texts that "
            'stand in the task: use <Text name="text" value="$text"/>.'
        )
    if target.tag == "Table" and target.get("valueType", "json") != "json":
        raise LabelConfigError(
            f"<Table name={to_name!r}> has valueType={target.get('valueType')!r}; CORAL labels one row a task, an object with a "
            'value for each column: use <Table name="row" value="$row"/>.'
        )
    if columns := _columns(target):
        return columns[0]
    variable = _VARIABLE.match(target.get("value") or "")
    if variable is None:
        raise LabelConfigError(
            f"<{target.tag} name={to_name!r}> has value={target.get('value')!r}; it must be one key of the task data, for "
            'example value="$text", or a template of several that does not begin with one, for example value="Age: $age, job: $job".'
        )
    return variable[1]


def text_form(target: Element) -> tuple[str, ...]:
    """Return how the object's value becomes text, as ``LabelSpace.forms`` has it; empty for plain text."""
    if target.tag == "Table" or _columns(target):
        return ("row", *_columns(target))
    if target.tag == "HyperText":
        return ("html",)
    if target.tag == "Paragraphs":
        return ("dialogue", target.get("nameKey") or "author", target.get("textKey") or "text")
    return ()


def _columns(target: Element) -> tuple[str, ...]:
    """Return the keys of a template such as ``Age: $age, job: $job``; empty where the value is none.

    One that begins with a key is none: Label Studio takes all of it for the name of one key, and refuses every task.
    """
    value = target.get("value") or ""
    keys = tuple(dict.fromkeys(_VARIABLES.findall(value)))
    plain = target.tag in _TEMPLATED and not value.startswith("$") and all(_KEY.match(key) for key in keys)
    return keys if plain and len(keys) > 1 else ()
