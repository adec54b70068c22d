"""Which controls of a label config can CORAL serve? The registry of tags, and the way from XML to a label space."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from coral_backend.exceptions import LabelConfigError
from coral_backend.labelstudio.control_tags.base import ControlTag
from coral_backend.labelstudio.control_tags.choices import ChoicesTag
from coral_backend.labelstudio.control_tags.labels import LabelsTag
from coral_backend.labelstudio.control_tags.pairwise import PairwiseTag
from coral_backend.labelstudio.control_tags.rating import RatingTag
from coral_backend.labelstudio.control_tags.taxonomy import TaxonomyTag
from coral_backend.types import Detail, LabelSpace

__all__ = ["CONTROL_TAGS", "ControlTag", "config_hash", "from_result", "parse_config", "to_regions"]

logger = logging.getLogger(__name__)

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


def parse_config(xml: str) -> LabelSpace:
    """Return what a label config lets one say about a task.

    Of several controls the first (in the order of the config) that can be served counts; a warning names the others.

    Parameters
    ----------
    xml : str
        The label config as Label Studio has it. Untrusted: entities and DTDs are refused.

    Raises
    ------
    LabelConfigError
        If the config cannot be parsed or has no control that is served; the message names the tags found and served.
    """
    root = _parse(xml)
    objects = {e.get("name", ""): e for e in root.iter() if e.get("name") and not e.get("toName")}
    controls = [e for e in root.iter() if e.get("toName")]
    refused: list[str] = []
    chosen: LabelSpace | None = None
    for control in controls:
        tag = CONTROL_TAGS.get(control.tag)
        reason = "not served" if tag is None else tag.refusal(control)
        if chosen is not None:
            reason = reason or "CORAL serves one control a project"
        elif tag is not None and reason is None:
            chosen = tag.label_space(control, objects)
            continue
        refused.append(f"<{control.tag} name={control.get('name')!r}>: {reason}")
    if chosen is None:
        raise LabelConfigError(_nothing_served(root, refused))
    if refused:
        logger.warning(
            "label config: serving <%s name=%r>; not %s", chosen.tag, chosen.from_name, "; ".join(refused[:10])
        )
    return chosen


def config_hash(xml: str) -> str:
    """Return a digest (64 hex digits) of what a label depends on: control, object, key, labels in order, definitions.

    Spaces, the order of attributes, styles, headers and hints around the control do not change it, so that a look that is
    edited under way makes no round out of date.

    Raises
    ------
    LabelConfigError
        As ``parse_config``.
    """
    space = json.dumps(parse_config(xml).to_json(), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(space.encode()).hexdigest()


def to_regions(
    space: LabelSpace,
    label: str | None,
    score: float | None,
    *,
    marker: str | None = None,
    details: Sequence[Detail] = (),
) -> list[dict[str, Any]]:
    """Return the ``result`` of a prediction of `label`.

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

    A label that the config no longer has is returned all the same: the caller knows what to do with it.
    """
    return CONTROL_TAGS[space.tag].from_result(space, result) if isinstance(result, Sequence) else None


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


def _nothing_served(root: Element, refused: Sequence[str]) -> str:
    if not refused:
        tags = sorted({e.tag for e in root.iter()})[:20]
        return f"The label config has no control; found {', '.join(f'<{tag}>' for tag in tags)}. {_SERVED}"
    return f"The label config has no control that can be served; found {'; '.join(refused[:10])}. {_SERVED}"
