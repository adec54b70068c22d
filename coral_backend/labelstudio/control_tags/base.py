"""What must a control tag be able to do? One class a tag; the rest of CORAL never sees Label Studio's JSON."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from xml.etree.ElementTree import Element

from coral_backend.exceptions import LabelConfigError
from coral_backend.types import LabelSpace

__all__ = ["MARKER_KEY", "ControlTag", "TagBase", "object_key"]

MARKER_KEY = "coral"
"""Our own key in a prediction's region: it carries the flag that the review tabs filter on."""

_MEDIA = frozenset({"Image", "Audio", "AudioPlus", "Video", "TimeSeries", "Pdf", "Chat", "ReactCode"})
_VARIABLE = re.compile(r"\$([^\s$]+)\Z")


class ControlTag(Protocol):
    """The seam: a new tag is a class like this in a file of its own, and one line in the registry."""

    tag: str
    """Name in the label config, for example ``"Choices"``."""

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return what can be said with `control`; `objects` are the config's object tags by name."""

    def to_regions(
        self, space: LabelSpace, label: str | None, score: float | None, *, marker: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the ``result`` of a prediction."""

    def from_result(self, space: LabelSpace, result: Sequence[Any]) -> str | None:
        """Return the label in an annotation's or prediction's ``result``, or None."""


class TagBase(ABC):
    """What the tags share that put one region a task."""

    tag: str
    value_key: str

    @abstractmethod
    def value(self, label: str | None) -> dict[str, Any]:
        """Return the ``value`` of a region for `label`."""

    @abstractmethod
    def label(self, value: Mapping[str, Any]) -> str | None:
        """Return the label of a region's ``value``."""

    def to_regions(
        self, space: LabelSpace, label: str | None, score: float | None, *, marker: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the ``result`` of a prediction; without a label it is empty, or carries only the marker.

        Parameters
        ----------
        score : float or None
            Confidence in `label` in [0, 1], shown beside the region.
        marker : str or None
            Token of the flag (``tabs.flag_token``), kept under our own key, which annotations do not inherit.

        Raises
        ------
        ValueError
            If `label` is not in `space`: Label Studio would drop the prediction without a word.
        """
        if label is None and marker is None:
            return []
        if label is not None and space.index(label) < 0:
            raise ValueError(f"{label!r} is not a label of {space.from_name!r}; there are {list(space.labels)}.")
        region: dict[str, Any] = {
            "id": "coral",
            "from_name": space.from_name,
            "to_name": space.to_name,
            "type": self.value_key,
            "value": self.value(label),
        }
        if score is not None:
            region["score"] = score
        if marker is not None:
            region[MARKER_KEY] = marker
        return [region]

    def from_result(self, space: LabelSpace, result: Sequence[Any]) -> str | None:
        """Return the label in a ``result``; other controls, scores and notes in it are passed over."""
        for region in result:
            if not isinstance(region, Mapping) or region.get("from_name") != space.from_name:
                continue
            value = region.get("value")
            if isinstance(value, Mapping) and (label := self.label(value)) is not None:
                return label
        return None


def object_key(tag: str, name: str, to_name: str, objects: Mapping[str, Element]) -> str:
    """Return the key of the task data that the control `name` labels.

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
    variable = _VARIABLE.match(target.get("value") or "")
    if variable is None:
        raise LabelConfigError(
            f"<{target.tag} name={to_name!r}> has value={target.get('value')!r}; it must be one key of the task data, for "
            'example value="$text".'
        )
    return variable[1]
