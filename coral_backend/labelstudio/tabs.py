"""How do people find what to look at first? Data Manager tabs: Noisy, Inconsistent, Clean; Second look and Gold check where there are any.

A tab is a filter. The flag that the first three filter on stands in the newest prediction of each task, as a token under a
key of our own (``to_regions(..., marker=flag_token(version, flag))``): so ten thousand flags come with the one bulk push, and
tokens of an older version match nothing. Tabs are shared and anybody may change them: they are asserted again at each push,
never read as our state.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.labelstudio.columns import ASKED, CHECK, CHECKED, COLUMNS, HINT, NUMBERS, RANK, SECOND_LOOK, SLICE
from coral_backend.labelstudio.control_columns import is_column
from coral_backend.types import Flag

__all__ = ["TITLES", "assert_tabs", "flag_token", "tab_counts"]

logger = logging.getLogger(__name__)

Kind: TypeAlias = Flag | str
"""A flag, `SECOND_LOOK`, or `CHECK`."""

TITLES: Mapping[Kind, str] = {
    Flag.NOISY: "Noisy",
    Flag.INCONSISTENT: "Inconsistent",
    Flag.CLEAN: "Clean",
    SECOND_LOOK: "Second look",
    CHECK: "Gold check",
}
"""In the order of the tabs: what needs a person comes first."""

MAX_TITLE = 17
"""The Data Manager cuts longer titles."""

_TOKEN = re.compile(r"coral:([A-Za-z0-9._~%-]*):(noisy|inconsistent|clean)\Z")
_SHORT: Mapping[Kind, str] = {**TITLES, Flag.INCONSISTENT: "Inconsist.", SECOND_LOOK: "2nd look"}
_FOUND_BY: Mapping[str, str] = {SECOND_LOOK: ASKED, CHECK: CHECKED}
"""What a tab looks for in the column it is called after."""
_TITLE = re.compile(r"(Noisy|Inconsist(?:ent|\.)|Clean|Second look|2nd look|Gold check)(?: ?\([0-9]+[kM]?\))\Z")
_SHOWN = frozenset({"predictions_score", "total_annotations"})
_SYSTEM_COLUMNS = (
    "id", "inner_id", "completed_at", "total_annotations", "cancelled_annotations", "total_predictions", "annotators",
    "annotations_results", "annotations_ids", "predictions_score", "predictions_model_versions", "predictions_results",
    "file_upload", "storage_filename", "created_at", "updated_at", "updated_by", "avg_lead_time", "draft_exists",
)  # fmt: skip
_WIDTHS: Mapping[str, int] = dict(zip(COLUMNS, (130, 130, 140, 155, 130, 125), strict=True))


def flag_token(version: str, flag: Flag) -> str:
    """Return the text that marks a prediction of `version` with `flag`, for example ``"coral:coral-r2:noisy"``.

    Plain ASCII, because Label Studio searches in stored JSON, where other characters are escaped; closed by colons, so that
    ``r1`` does not match in ``r11``.
    """
    return f"coral:{quote(version, safe='')}:{flag.value}"


def assert_tabs(
    client: LabelStudioClient,
    project_id: int,
    version: str,
    counts: Mapping[Flag, int] | None = None,
    *,
    text_key: str | None = None,
    more: Collection[str] = (),
    flags: bool = True,
) -> dict[str, int]:
    """Have our tabs show the flags of `version`, most doubtful first, and return ``{title: view id}``.

    Noisy and Inconsistent leave out tasks that somebody has annotated; Clean shows all; Second look those that a person is
    asked about again; Gold check those drawn at random that nobody has labelled, without what the machines say. A tab of ours is known by its filter, or else by a title with a count, as we write it; it keeps its id
    and the columns as people have arranged them. One that was closed is made again. Copies that people made of our tabs follow to `version` with
    everything else as it is; tabs of others are left alone.

    Parameters
    ----------
    version : str
        The version that was pushed and selected.
    counts : mapping of Flag to int, optional
        Numbers for the titles; None asks Label Studio what each tab shows.
    text_key : str, optional
        The key of the task data to show beside our columns, score and annotation count; None shows all of them.
    more : collection of str
        Make these tabs, too (`SECOND_LOOK`, `CHECK`); one that exists is kept true anyway.
    flags : bool
        Whether there are flags to show: not before the first round.
    """
    views = client.views(project_id)
    ours = _ours(views)
    data_keys = [str(c["id"]) for c in client.columns(project_id) if c.get("parent") == "data"]
    made: dict[str, int] = {}
    for kind in TITLES:
        view = ours.get(kind)
        if isinstance(kind, Flag):
            if not flags:
                continue
        elif kind not in data_keys or (view is None and kind not in more):
            continue
        known = counts.get(kind, 0) if counts is not None and isinstance(kind, Flag) else None
        wanted = _wanted(kind, version, data_keys, known)
        if view is None:
            data = _layout(kind, data_keys, text_key) | wanted
            view = {"id": client.create_view(project_id, data), "data": data}
        if known is None:
            _assert_data(client, project_id, view, wanted)
            wanted["title"] = _title(kind, client.view_count(project_id, int(view["id"])))
        _assert_data(client, project_id, view, wanted)
        made[str(wanted["title"])] = int(view["id"])
    for view in views:
        if int(view["id"]) not in made.values():
            _assert_data(client, project_id, view, _followed(view, version))
    logger.info("tabs of project %d: %s", project_id, ", ".join(made))
    return made


def tab_counts(client: LabelStudioClient, project_id: int) -> dict[str, int]:
    """Return ``{title: tasks}`` of our tabs, as Label Studio itself counts them."""
    ours = _ours(client.views(project_id))
    return {
        str(ours[kind]["data"].get("title")): client.view_count(project_id, int(ours[kind]["id"]))
        for kind in TITLES
        if kind in ours
    }


def _assert_data(client: LabelStudioClient, project_id: int, view: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Write what differs; the rest of a tab belongs to the people who use it."""
    there = view["data"]
    changed = {key: value for key, value in wanted.items() if there.get(key) != value}
    if "columnsDisplayType" in changed:
        shown = there.get("columnsDisplayType")
        changed["columnsDisplayType"] = {
            **(shown if isinstance(shown, Mapping) else {}),
            **wanted["columnsDisplayType"],
        }
    if any(there.get(key) != value for key, value in changed.items()):
        view["data"] = {**there, **changed}
        client.update_view(project_id, int(view["id"]), view["data"])


def _wanted(kind: Kind, version: str, data_keys: Sequence[str], count: int | None) -> dict[str, Any]:
    if isinstance(kind, Flag):
        items = [_item("predictions_results", "contains", "String", flag_token(version, kind))]
    else:
        # Not "is not empty": Label Studio takes an emptied text for something where the first task has none at all.
        items = [_item(f"data.{kind}", "contains", "Unknown", _FOUND_BY[kind])]
    if kind in (Flag.NOISY, Flag.INCONSISTENT, CHECK):
        items.append(_item("total_annotations", "equal", "Number", 0))
    order = CHECK if kind == CHECK else RANK
    wanted: dict[str, Any] = {
        "title": _title(kind, count),
        "type": "list",
        "target": "tasks",
        "filters": {"conjunction": "and", "items": items},
        "ordering": [f"tasks:data.{order}" if order in data_keys else "tasks:predictions_score"],
    }
    numbers = {f"tasks:data.{key}": "Number" for key in NUMBERS if key in data_keys}
    return wanted | ({"columnsDisplayType": numbers} if numbers else {})


def _item(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _title(kind: Kind, count: int | None) -> str:
    if count is None:
        return TITLES[kind]
    for number in (str(count), f"{count // 1_000}k", f"{count // 1_000_000}M"):
        for name in (TITLES[kind], _SHORT[kind]):
            for title in (f"{name} ({number})", f"{name}({number})"):
                if len(title) <= MAX_TITLE:
                    return title
    return TITLES[kind]


def _layout(kind: Kind, data_keys: Sequence[str], text_key: str | None) -> dict[str, Any]:
    """Columns of a new tab. All hidden ones must be named, or fourteen system columns push the text off the screen."""
    ours = (HINT, SECOND_LOOK, CHECK)
    shown = set(data_keys) - {*ours} if text_key is None or text_key not in data_keys else {text_key}
    sliced = {SLICE} & set(data_keys)
    facts = {SECOND_LOOK} if kind == SECOND_LOOK else sliced | {key for key in data_keys if is_column(key)}
    if kind == CHECK:  # whoever sees what machines say is no independent check of them
        shown, facts = {key for key in shown if not is_column(key)}, sliced
    # The score is the SLM's probability of the LLM's label; beside the columns of both it would be read as a third opinion.
    system = _SHOWN - {"predictions_score"} if facts or kind == CHECK else _SHOWN
    hidden_data = [f"tasks:data.{key}" for key in (*data_keys, *ours) if key not in shown | facts]
    explore = [f"tasks:{column}" for column in _SYSTEM_COLUMNS if column not in system]
    beside = [f"tasks:{column}" for column in _SYSTEM_COLUMNS] + [f"tasks:data.{key}" for key in facts]
    widths = {f"tasks:data.{key}": 380 if facts else 600 for key in shown if len(shown) == 1}
    widths |= {f"tasks:data.{key}": _width(key) for key in facts}
    return {
        "hiddenColumns": {
            "explore": list(dict.fromkeys(explore + hidden_data)),
            "labeling": list(dict.fromkeys(beside + hidden_data)),
        },
        "columnsWidth": widths | {"tasks:predictions_score": 150, "tasks:total_annotations": 70},
        "columnsDisplayType": {},
        "gridWidth": 4,
    }


def _width(key: str) -> int:
    """Return the width of one of our columns in pixels: its name in the header must be readable, also where it holds a control's."""
    return _WIDTHS.get(key, 500 if key == SECOND_LOOK else min(260, max(130, 30 + 8 * len(key))))


def _ours(views: list[dict[str, Any]]) -> dict[Kind, dict[str, Any]]:
    """Return the tab of each kind: the oldest that filters as it does, else the oldest with its title."""
    found: dict[Kind, dict[str, Any]] = {}
    for view in views:
        if (kind := _kind_of(view)) is not None:
            found.setdefault(kind, view)
    for view in views:
        title = _TITLE.match(str((view.get("data") or {}).get("title", "")))
        kind = next((kind for kind in TITLES if title and title[1] in (TITLES[kind], _SHORT[kind])), None)
        if kind is not None and _kind_of(view) is None:
            found.setdefault(kind, view)
    return found


def _items(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    filters = (view.get("data") or {}).get("filters") or {}
    return [item for item in filters.get("items") or [] if isinstance(item, dict)]


def _kind_of(view: Mapping[str, Any]) -> Kind | None:
    for item in _items(view):
        if token := _TOKEN.match(str(item.get("value"))):
            return Flag(token[2])
        for key in _FOUND_BY:
            if str(item.get("filter")) == f"filter:tasks:data.{key}":
                return key
    return None


def _followed(view: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the filters of a copy of one of our tabs with the token of `version`; nothing for other tabs."""
    if not isinstance(_kind_of(view), Flag):
        return {}
    items = [
        item | {"value": flag_token(version, Flag(token[2]))}
        if (token := _TOKEN.match(str(item.get("value"))))
        else item
        for item in _items(view)
    ]
    return {"filters": {**view["data"]["filters"], "items": items}}
