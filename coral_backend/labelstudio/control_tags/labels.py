"""What can be said with ``<Labels>`` on a ``<Text>``, and how does Label Studio write it down? Spans, one region each.

Offsets are Unicode code points of the text as it stands in the task, which are those of a Python string; so the text is kept as it
stands (``texts.EXACT``), blanks at its beginning too. ``value.text`` is what the sender says the words are, and is never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from coral_backend.exceptions import LabelConfigError
from coral_backend.labels import SPANS, Span, read_spans, write_spans
from coral_backend.labelstudio.control_tags.base import MARKER_KEY, cannot_vouch, check_labels, vouched
from coral_backend.labelstudio.control_tags.objects import text_key
from coral_backend.labelstudio.texts import EXACT
from coral_backend.types import Detail, LabelSpace

__all__ = ["LabelsTag"]

KEY = "labels"
"""Of a region's ``value``: its labels."""


class LabelsTag:
    """Any number of labelled spans of a text; they may overlap, and one may have several labels.

    Label Studio stores a label's ``alias`` where it has one, and its ``value`` otherwise; as for ``<Choices>`` the other one
    becomes a part of its definition.
    """

    tag = "Labels"

    def refusal(self, control: Element) -> str | None:
        """Return why this control cannot be served, or None."""
        if (control.get("value") or "").startswith("$"):
            return f'its labels come from the tasks (value="{control.get("value")}"); write <Label> elements instead'
        return cannot_vouch(control, KEY)

    def label_space(self, control: Element, objects: Mapping[str, Element]) -> LabelSpace:
        """Return the label space of a control that was not refused.

        Raises
        ------
        LabelConfigError
            If the control has no name or no labels, or marks something else than a plain ``<Text>``.
        """
        name, to_name = control.get("name") or "", control.get("toName") or ""
        if not name:
            raise LabelConfigError('A <Labels> has no name. Give it one, for example name="label".')
        key = text_key(self.tag, name, to_name, objects)
        target = objects[to_name]
        if target.tag != "Text":
            raise LabelConfigError(
                f"<Labels name={name!r}> marks spans of a <{target.tag}>; CORAL serves spans of a <Text>, whose offsets are "
                'characters of the text itself: use <Text name="text" value="$text"/>.'
            )
        labels, definitions = _labels(control)
        check_labels(name, labels, fewest=1)
        forms = {key: (EXACT,)}
        return LabelSpace(self.tag, name, to_name, key, labels, definitions, forms=forms, kind=SPANS)

    def to_regions(
        self,
        space: LabelSpace,
        label: str | None,
        score: float | None,  # noqa: ARG002 - the task's; each region has its own
        *,
        marker: str | None = None,
        details: Sequence[Detail] = (),
    ) -> list[dict[str, Any]]:
        """Return the ``result`` of a prediction: a region for each span, the marker in the first of them.

        Without a span the marker has a region of its own, which labels nothing and is not drawn.

        Raises
        ------
        ValueError
            If `label` are no spans with labels of `space`: Label Studio would drop the prediction without a word.
        """
        if label is not None and not space.allows(label):
            raise ValueError(f"{label[:80]!r} are no spans of {space.from_name!r} with labels of {list(space.labels)}.")
        about = {detail.name: detail for detail in details}
        regions = [_region(space, span, about.get(f"{span.start}:{span.end}")) for span in read_spans(label) or ()]
        if marker is None:
            return regions
        if not regions:
            # A value with one key, and the control's name for it, passes the check of imports (``vouched``) and is no region to
            # the editor: it is neither drawn nor listed. An empty span would be listed, and submitted.
            regions = [_base(space, "coral") | {"value": vouched(space, {}, {"start": 0, "end": 0, KEY: []})}]
        regions[0][MARKER_KEY] = marker
        return regions

    def from_result(self, space: LabelSpace, result: Sequence[Any]) -> str | None:
        """Return the spans in a ``result``; none are an answer, too.

        A region of a span that is empty or no place at all is passed over, and so are relations, other controls and notes.
        A region with several labels is as many spans.
        """
        return write_spans(list(_spans(space, result)))


def _labels(control: Element) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the labels of a control, and what the config says that they mean."""
    labels, definitions = [], {}
    for element in control.iter("Label"):
        value = element.get("value") or ""
        label = element.get("alias") or value
        meaning = ": ".join(part for part in (value if value != label else "", element.get("hint") or "") if part)
        labels.append(label)
        if meaning:
            definitions[label] = meaning
    return tuple(labels), definitions


def _base(space: LabelSpace, name: str) -> dict[str, Any]:
    return {"id": name, "from_name": space.from_name, "to_name": space.to_name, "type": "labels"}


def _region(space: LabelSpace, span: Span, detail: Detail | None) -> dict[str, Any]:
    value: dict[str, Any] = {"start": span.start, "end": span.end, KEY: [span.label]}
    region = _base(space, f"coral-{span.start}-{span.end}-{space.index(span.label)}") | {"value": value}
    if detail is None:
        return region
    value["text"] = detail.words
    score = _score(span.label, detail)
    return region if score is None else region | {"score": score}


def _score(label: str, detail: Detail) -> float | None:
    """Return how sure it is that the span has this label, in [0, 1]."""
    if label == detail.label:
        return detail.score
    return detail.slm_score if label == detail.slm_label else _other(detail)


def _other(detail: Detail) -> float | None:
    """Return the chance of what the LLM said and the verdict did not take: at most what the verdict leaves."""
    return None if detail.score is None else 1.0 - detail.score


def _spans(space: LabelSpace, result: Sequence[Any]) -> Iterator[Span]:
    for region in result:
        if not isinstance(region, Mapping) or region.get("from_name") != space.from_name:
            continue
        value = region.get("value")
        if not isinstance(value, Mapping):
            continue
        start, end, labels = _place(value.get("start")), _place(value.get("end")), value.get(KEY)
        if start is None or end is None or start >= end or not isinstance(labels, list):
            continue
        yield from (Span(start, end, label) for label in labels if isinstance(label, str))


def _place(value: object) -> int | None:
    """Return an offset; some exports have it as a text or as a float."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if 0 <= value < 10**9 else None
