"""Which controls of a label config can CORAL serve? The registry of tags, and the way from XML to a label space."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from coral_backend.exceptions import LabelConfigError
from coral_backend.labels import SEVERAL, write_controls
from coral_backend.labelstudio.control_tags.base import ControlTag
from coral_backend.labelstudio.control_tags.choices import ChoicesTag
from coral_backend.labelstudio.control_tags.labels import LabelsTag
from coral_backend.labelstudio.control_tags.pairwise import PairwiseTag
from coral_backend.labelstudio.control_tags.rating import RatingTag
from coral_backend.labelstudio.control_tags.taxonomy import TaxonomyTag
from coral_backend.labelstudio.texts import EXACT
from coral_backend.types import Detail, LabelSpace

__all__ = [
    "ALL",
    "CONTROL_TAGS",
    "FIRST",
    "ControlTag",
    "config_hash",
    "from_result",
    "parse_config",
    "space_hash",
    "to_regions",
]

logger = logging.getLogger(__name__)

ALL, FIRST = "all", "first"
"""Which controls of a config are served, where they are not named."""

MAX_CONFIG_CHARS = 500_000
"""A label config longer than this is refused unread."""

CONTROL_TAGS: dict[str, ControlTag] = {
    tag.tag: tag
    for tag in (
        ChoicesTag(),
        LabelsTag(),
        PairwiseTag(),
        RatingTag(),
        TaxonomyTag(),
    )
}
"""The tags we serve, by name; a new tag is one file and one entry here."""


def parse_config(xml: str, controls: str = ALL) -> LabelSpace:
    """Return what a label config lets one say about a task.

    All controls that can be served and label the same text count, in the order of the config; where that is more than one, the
    label space is of several. A warning names the others, and why they do not count. One that the form shows only where another
    control has a certain value counts if it is named, or if there is no other.

    Parameters
    ----------
    xml : str
        The label config as Label Studio has it. Untrusted: entities and DTDs are refused.
    controls : str
        Which of them count: ``"all"``, ``"first"`` (of those that can be served), or their names with commas.

    Raises
    ------
    LabelConfigError
        If the config cannot be parsed, has no control that is served, or none of a name in `controls`; the message names those
        found and served.
    """
    root = _parse(xml)
    objects = {e.get("name", ""): e for e in root.iter() if e.get("name") and not e.get("toName")}
    candidates, refused = _chosen(root, controls)
    served: list[LabelSpace] = []
    for control in candidates:
        reason = _beside(served, control, objects)
        if reason is not None:
            refused.append(_refusal(control, reason))
    if not served:
        raise LabelConfigError(_nothing_served(root, refused))
    if refused:
        told = ", ".join(f"<{space.tag} name={space.from_name!r}>" for space in served)
        logger.warning("label config: serving %s; not %s", told, "; ".join(refused[:10]))
    if len(served) == 1:
        return served[0]
    # Spans need a text in which every character stays where it is; the other controls do not mind.
    forms = {key: form for space in served for key, form in space.forms.items()}
    return replace(served[0], kind=SEVERAL, controls=tuple(served), forms=forms)


def config_hash(xml: str, controls: str = ALL) -> str:
    """Return a digest (64 hex digits) of what a label depends on: control, object, key, labels in order, definitions.

    Spaces, the order of attributes, styles, headers and hints around the control do not change it, so that a look that is
    edited under way makes no round out of date.

    Raises
    ------
    LabelConfigError
        As ``parse_config``.
    """
    return space_hash(parse_config(xml, controls))


def space_hash(space: LabelSpace) -> str:
    """Return the ``config_hash`` of a config that gives this label space."""
    return hashlib.sha256(json.dumps(space.to_json(), sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def to_regions(
    space: LabelSpace,
    label: str | None,
    score: float | None,
    *,
    marker: str | None = None,
    details: Sequence[Detail] = (),
) -> list[dict[str, Any]]:
    """Return the ``result`` of a prediction of `label`, of one control.

    Parameters
    ----------
    label : str or None
        A label of `space`; None gives ``[]``, or with a `marker` a region that chooses nothing.
    score : float or None
        Confidence in `label`, in [0, 1].
    marker : str or None
        ``tabs.flag_token(version, flag)``: what the review tabs find the task by.
    details : sequence of Detail
        Of the verdict: spans have scores and words of their own.

    Raises
    ------
    ValueError
        If `label` is not in `space`.
    """
    return CONTROL_TAGS[space.tag].to_regions(space, label, score, marker=marker, details=details)


def from_result(space: LabelSpace, result: Any) -> str | None:
    """Return the label that a ``result`` gives, as it stands there, or None when it gives none.

    A label that the config no longer has is returned all the same: the caller knows what to do with it. Of several controls
    those count that say something.
    """
    if not isinstance(result, Sequence):
        return None
    if space.kind != SEVERAL:
        return CONTROL_TAGS[space.tag].from_result(space, result)
    said = {control.from_name: from_result(control, result) for control in space.controls}
    return write_controls(said, list(said)) if any(one is not None for one in said.values()) else None


def _chosen(root: Element, controls: str) -> tuple[list[Element], list[str]]:
    """Return the controls that `controls` asks for and whose tags can be served, and why the others are left out."""
    found = [e for e in root.iter() if e.get("toName")]
    names, hidden = _names(controls, found), _conditional(root)
    refused, servable = [], []
    for control in found:
        tag = CONTROL_TAGS.get(control.tag)
        reason = "not served" if tag is None else tag.refusal(control)
        if reason is None and names and control.get("name") not in names:
            reason = f"CORAL_CONTROLS is {controls!r}"
        if reason is None:
            servable.append(control)
        else:
            refused.append(_refusal(control, reason))
    if names:
        return servable, refused
    if controls == FIRST:
        return servable[:1], refused + [_refusal(one, f"CORAL_CONTROLS is {FIRST!r}") for one in servable[1:]]
    chosen = [one for one in servable if one not in hidden] or servable[:1]
    return chosen, refused + [_refusal(one, _HIDDEN) for one in servable if one not in chosen]


def _names(controls: str, found: Sequence[Element]) -> set[str]:
    """Return the names that `controls` lists; none for one of the words, unless a control has that name."""
    there = [control.get("name") or "" for control in found]
    if controls in (ALL, FIRST) and controls not in there:
        return set()
    names = {name.strip() for name in controls.split(",") if name.strip()}
    if not names or (unknown := sorted(names - set(there))):
        lacking = f"no control {unknown[0]!r}" if names else "no control of an empty name"
        raise LabelConfigError(
            f"CORAL_CONTROLS is {controls!r}, and the label config has {lacking}; it has {', '.join(map(repr, there)) or 'none'}. "
            f"Name some of them, or set it to {ALL!r} or {FIRST!r}."
        )
    return names


def _conditional(root: Element) -> set[Element]:
    """Return what the form shows only where something else is chosen."""
    return {
        inner
        for outer in root.iter()
        if outer.get("visibleWhen", "no-region-selected") != "no-region-selected"
        for inner in outer.iter()
    }


def _forms(space: LabelSpace) -> dict[str, tuple[str, ...]]:
    """Return how texts are read, but for ``EXACT``: that is read as any text."""
    return {key: form for key, form in space.forms.items() if form != (EXACT,)}


def _beside(served: list[LabelSpace], control: Element, objects: Mapping[str, Element]) -> str | None:
    """Add a control to those that are served, or return why it cannot be served beside them.

    Raises
    ------
    LabelConfigError
        If it is the first, and something is wrong with it: whoever wrote it means it.
    """
    if any(space.from_name == control.get("name") for space in served):
        return "another control has the same name"
    try:
        space = CONTROL_TAGS[control.tag].label_space(control, objects)
    except LabelConfigError as error:
        if not served:
            raise
        return str(error).rstrip(".")
    if served and (served[0].text_keys, served[0].parts, _forms(served[0])) != (
        space.text_keys,
        space.parts,
        _forms(space),
    ):
        own, theirs = (" and ".join(f"${key}" for key in one.text_keys) for one in (space, served[0]))
        return f"it labels {own}, and {served[0].from_name!r} labels {theirs}; CORAL serves controls of one text"
    served.append(space)
    return None


def _refusal(control: Element, reason: str) -> str:
    return f"<{control.tag} name={control.get('name')!r}>: {reason}"


def _parse(xml: str) -> Element:
    if not xml.strip():
        raise LabelConfigError(f"The label config is empty. {_SERVED}")
    if len(xml) > MAX_CONFIG_CHARS:
        raise LabelConfigError(f"The label config has {len(xml):,} characters; at most {MAX_CONFIG_CHARS:,} are read.")
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except DefusedXmlException:
        raise LabelConfigError(
            "The label config declares a DTD or an entity, which are refused. Remove <!DOCTYPE ...> and <!ENTITY ...>."
        ) from None
    except (ParseError, ValueError, RecursionError) as error:
        raise LabelConfigError(f"The label config is not well-formed XML ({error}). {_SERVED}") from None
    return root


_SERVED = (
    f"CORAL serves {', '.join(f'<{tag}>' for tag in sorted(CONTROL_TAGS))}, for example: "
    '<View><Text name="text" value="$text"/><Choices name="label" toName="text"><Choice value="yes"/>'
    '<Choice value="no"/></Choices></View>.'
)


_HIDDEN = (
    "the form shows it only where another has a certain value; name it in CORAL_CONTROLS to have it asked of every text"
)


def _nothing_served(root: Element, refused: Sequence[str]) -> str:
    if not refused:
        tags = sorted({e.tag for e in root.iter()})[:20]
        return f"The label config has no control; found {', '.join(f'<{tag}>' for tag in tags)}. {_SERVED}"
    return f"The label config has no control that can be served; found {'; '.join(refused[:10])}. {_SERVED}"
