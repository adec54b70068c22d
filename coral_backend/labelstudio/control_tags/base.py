"""What must a control tag be able to do? One class a tag; the rest of CORAL never sees Label Studio's JSON."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from xml.etree.ElementTree import Element

from coral_backend.exceptions import LabelConfigError
from coral_backend.labels import MULTIPLE, write_set
from coral_backend.labelstudio.control_tags.objects import text_form, text_key
from coral_backend.labelstudio.control_tags.paths import parts as path_of
from coral_backend.types import Detail, LabelSpace

__all__ = ["MARKER_KEY", "MAX_LABELS", "ControlTag", "TagBase", "check_labels", "vouched"]

MARKER_KEY = "coral"
"""Our own key in a prediction's region: it carries the flag that the review tabs filter on."""

NOTHING_KEY = "coral_says"
"""Our own key in a region that chooses nothing because nothing was predicted: a set of labels may well be empty."""

MAX_LABELS = 1_000
"""More labels than this fit neither a prompt nor a form."""

_KEPT_NAMES = frozenset(
    {"id", "object", "type", "value", "score", "origin", "hidden", "results", "meta", "classification"}
)
"""Names that mean something else to Label Studio's editor where ``vouched`` puts the control's name."""


class ControlTag(Protocol):
    """The seam: a new tag is a class like this in a file of its own, and one line in the registry."""

    tag: str
    """Name in the label config, for example ``"Choices"``."""

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return what can be said with `control`; `objects` are the config's object tags by name."""

    def to_regions(
        self,
        space: LabelSpace,
        label: str | None,
        score: float | None,
        *,
        marker: str | None = None,
        details: Sequence[Detail] = (),
    ) -> list[dict[str, Any]]:
        """Return the ``result`` of a prediction; `details` of the verdict give regions scores of their own."""

    def from_result(self, space: LabelSpace, result: Sequence[Any]) -> str | None:
        """Return the label in an annotation's or prediction's ``result``, or None."""


class TagBase(ABC):
    """What the tags share that put one region a task."""

    tag: str

    @abstractmethod
    def value(self, space: LabelSpace, label: str | None) -> dict[str, Any]:
        """Return the ``value`` of a region for `label`."""

    @abstractmethod
    def label(self, value: Mapping[str, Any]) -> str | None:
        """Return the label of a region's ``value``."""

    def labels(self, value: Mapping[str, Any]) -> Sequence[str] | None:
        """Return the labels of a region's ``value``, where several may be chosen; None when it is foreign."""
        label = self.label(value)
        return None if label is None else (label,)

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""
        if (control.get("value") or "").startswith("$"):
            return f'its choices come from the tasks (value="{control.get("value")}"); write <Choice> elements instead'
        if is_true(control, "perRegion") or is_true(control, "perItem"):
            return "it belongs to regions or items of a task, not to the task"
        return None

    def space(
        self,
        control: Element,
        objects: Mapping[str, Element],
        labels: Sequence[str],
        definitions: Mapping[str, str],
        *,
        nested: bool = False,
        titles: Sequence[str] = (),
    ) -> LabelSpace:
        """Return the label space of a control on one object, or with `titles` on as many, each under its title.

        Raises
        ------
        LabelConfigError
            If the control has no name, the labels are none to choose from, or an object holds no text.
        """
        name = control.get("name") or ""
        if not name:
            raise LabelConfigError(f'A <{self.tag}> has no name. Give it one, for example name="label".')
        check_labels(name, labels)
        if nested and not all(step.strip() for label in labels for step in path_of(label)):
            raise LabelConfigError(f"Control {name!r} has a label without text. Give every <Choice> a value.")
        to_names = (control.get("toName") or "").split(",") if titles else [control.get("toName") or ""]
        keys = [text_key(self.tag, name, to_name, objects) for to_name in to_names]
        forms = {
            key: form for key, to_name in zip(keys, to_names, strict=True) if (form := text_form(objects[to_name]))
        }
        if titles and any(form[0] == "row" for form in forms.values()):
            raise LabelConfigError(
                f"<{self.tag} name={name!r}> compares rows of a table; CORAL serves it for texts only."
            )
        parts = tuple(zip(titles, keys, strict=True)) if titles else ()
        return LabelSpace(
            self.tag,
            name,
            to_names[0],
            keys[0],
            tuple(labels),
            dict(definitions),
            parts=parts,
            forms=forms,
            nested=nested,
        )

    def several(self, space: LabelSpace, control: Element) -> LabelSpace:
        """Return the label space of a control of which any number of labels may be chosen.

        Raises
        ------
        LabelConfigError
            If it is on rows of a table.
        """
        if space.is_row:
            raise LabelConfigError(
                f"Control {space.from_name!r} takes several labels of a row of a table; CORAL serves one label a row. Let one be chosen, "
                "or label a <Text> of one key."
            )
        return replace(space, kind=MULTIPLE, required=is_true(control, "required"))

    def to_regions(
        self,
        space: LabelSpace,
        label: str | None,
        score: float | None,
        *,
        marker: str | None = None,
        details: Sequence[Detail] = (),  # noqa: ARG002 - others need them
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
        if label is not None and not space.allows(label):
            raise ValueError(f"{label!r} is not a label of {space.from_name!r}; there are {list(space.labels)}.")
        region: dict[str, Any] = {
            "id": "coral",
            "from_name": space.from_name,
            "to_name": space.to_name,
            "type": self.tag.lower(),
            "value": self.value(space, label),
        }
        if score is not None:
            region["score"] = score
        if marker is not None:
            region[MARKER_KEY] = marker
        if label is None and space.kind == MULTIPLE:
            region[NOTHING_KEY] = "nothing"
        return [region]

    def from_result(self, space: LabelSpace, result: Sequence[Any]) -> str | None:
        """Return the label in a ``result``; other controls, scores and notes in it are passed over.

        Of a set: Label Studio leaves out the control of which nothing is chosen, so that a form that was submitted so says that no
        label applies; with ``required="true"`` it cannot be submitted so, and says nothing.
        """
        own = [one for one in result if isinstance(one, Mapping) and one.get("from_name") == space.from_name]
        values = [value for one in own if isinstance(value := one.get("value"), Mapping)]
        if space.kind != MULTIPLE:
            return next((label for value in values if (label := self.label(value)) is not None), None)
        found = [self.labels(value) for value in values]
        if any(NOTHING_KEY in one for one in own) or any(labels is None for labels in found) or len(values) < len(own):
            return None
        chosen = {label for labels in found for label in labels or ()}
        if not chosen and space.required:
            return None
        return write_set(chosen, (*space.labels, *sorted(chosen - set(space.labels))))


def vouched(space: LabelSpace, value: Mapping[str, Any], checked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a region's `value` that Label Studio's editor reads as `value` and its import checks as `checked`.

    The check of imported predictions (``validate_prediction``) knows no list of paths in ``choices`` and no pair that nothing
    is chosen of, and drops what it does not know; but where a value has the control's name as a key, it looks there.
    """
    return {**value, space.from_name: dict(checked)}


def cannot_vouch(control: Element, value_key: str) -> str | None:
    """Return why ``vouched`` cannot serve a control of this name, or None."""
    name = control.get("name")
    if name == value_key or name in _KEPT_NAMES:
        return f'its name="{name}" means something else inside a prediction; give it another, for example name="label"'
    return None


def is_true(element: Element, attribute: str) -> bool:
    """Say whether an attribute is switched on; absent is off."""
    return element.get(attribute, "false").lower() == "true"


def check_labels(name: str, labels: Sequence[str], *, fewest: int = 2) -> None:
    """Refuse lists of labels that nobody could choose from.

    Raises
    ------
    LabelConfigError
        For fewer labels than `fewest`, too many, empty ones, and ones that look the same.
    """
    if len(labels) < fewest:
        raise LabelConfigError(f"Control {name!r} has {len(labels)} label(s); at least {fewest} are needed.")
    if len(labels) > MAX_LABELS:
        raise LabelConfigError(f"Control {name!r} has {len(labels)} labels; at most {MAX_LABELS} are served.")
    seen: dict[str, str] = {}
    for label in labels:
        looks = unicodedata.normalize("NFKC", label).strip()
        if not looks:
            raise LabelConfigError(f"Control {name!r} has a label without text. Give every <Choice> a value.")
        if looks in seen:
            raise LabelConfigError(
                f"Control {name!r} has the label {label!r} twice (the other is {seen[looks]!r}). Labels must differ."
            )
        seen[looks] = label
