"""How do people find what to look at first? Three Data Manager tabs: Noisy, Inconsistent, Clean.

A tab is a filter. The flag it filters on stands in the newest prediction of each task, as a token under a key of our own
(``to_regions(..., marker=flag_token(version, flag))``): so ten thousand flags come with the one bulk push, and tokens of an
older version match nothing. Tabs are shared and anybody may change them: they are asserted again at each push, never read
as our state.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from coral_backend.labelstudio.client import LabelStudioClient
from coral_backend.types import Flag

__all__ = ["TITLES", "assert_tabs", "flag_token", "tab_counts"]

logger = logging.getLogger(__name__)

TITLES: Mapping[Flag, str] = {Flag.NOISY: "Noisy", Flag.INCONSISTENT: "Inconsistent", Flag.CLEAN: "Clean"}
"""In the order of the tabs: what needs a person comes first."""

MAX_TITLE = 17
"""The Data Manager cuts longer titles."""

_TOKEN = re.compile(r"coral:([A-Za-z0-9._~%-]*):(noisy|inconsistent|clean)\Z")
_SHORT: Mapping[Flag, str] = {Flag.NOISY: "Noisy", Flag.INCONSISTENT: "Inconsist.", Flag.CLEAN: "Clean"}
_TITLE = re.compile(r"(Noisy|Inconsist(?:ent|\.)|Clean)(?: ?\([0-9]+[kM]?\))?\Z")
_SHOWN = frozenset({"predictions_score", "total_annotations"})
_SYSTEM_COLUMNS = (
    "id", "inner_id", "completed_at", "total_annotations", "cancelled_annotations", "total_predictions", "annotators",
    "annotations_results", "annotations_ids", "predictions_score", "predictions_model_versions", "predictions_results",
    "file_upload", "storage_filename", "created_at", "updated_at", "updated_by", "avg_lead_time", "draft_exists",
)  # fmt: skip


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
) -> dict[str, int]:
    """Have the three tabs show the flags of `version`, most doubtful first, and return ``{title: view id}``.

    Noisy and Inconsistent leave out tasks that somebody has annotated; Clean shows all. A tab of ours is known by its
    filter, or else by its title; it keeps its id and the columns as people have arranged them. One that was closed is
    made again. Copies that people made of our tabs follow to `version` with everything else as it is.

    Parameters
    ----------
    version : str
        The version that was pushed and selected.
    counts : mapping of Flag to int, optional
        Numbers for the titles; None asks Label Studio what each tab shows.
    text_key : str, optional
        The key of the task data to show beside score and annotation count; None shows all of them.
    """
    views = client.views(project_id)
    ours = _ours(views)
    data_keys = [str(c["id"]) for c in client.columns(project_id) if c.get("parent") == "data"]
    made: dict[str, int] = {}
    for flag in TITLES:
        view = ours.get(flag)
        wanted = _wanted(flag, version, None if counts is None else counts.get(flag, 0))
        if view is None:
            data = _layout(data_keys, text_key) | wanted
            view = {"id": client.create_view(project_id, data), "data": data}
        if counts is None:
            _assert_data(client, project_id, view, wanted)
            wanted["title"] = _title(flag, client.view_count(project_id, int(view["id"])))
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
        str(ours[flag]["data"].get("title")): client.view_count(project_id, int(ours[flag]["id"]))
        for flag in TITLES
        if flag in ours
    }


def _assert_data(client: LabelStudioClient, project_id: int, view: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Write what differs; the rest of a tab belongs to the people who use it."""
    there = view["data"]
    if any(there.get(key) != value for key, value in wanted.items()):
        view["data"] = {**there, **wanted}
        client.update_view(project_id, int(view["id"]), view["data"])


def _wanted(flag: Flag, version: str, count: int | None) -> dict[str, Any]:
    items: list[dict[str, Any]] = [
        {
            "filter": "filter:tasks:predictions_results",
            "operator": "contains",
            "type": "String",
            "value": flag_token(version, flag),
        }
    ]
    if flag is not Flag.CLEAN:
        items.append({"filter": "filter:tasks:total_annotations", "operator": "equal", "type": "Number", "value": 0})
    return {
        "title": _title(flag, count),
        "type": "list",
        "target": "tasks",
        "filters": {"conjunction": "and", "items": items},
        "ordering": ["tasks:predictions_score"],
    }


def _title(flag: Flag, count: int | None) -> str:
    if count is None:
        return TITLES[flag]
    for number in (str(count), f"{count // 1_000}k", f"{count // 1_000_000}M"):
        for name in (TITLES[flag], _SHORT[flag]):
            for title in (f"{name} ({number})", f"{name}({number})"):
                if len(title) <= MAX_TITLE:
                    return title
    return TITLES[flag]


def _layout(data_keys: list[str], text_key: str | None) -> dict[str, Any]:
    """Columns of a new tab. All hidden ones must be named, or fourteen system columns push the text off the screen."""
    shown = set(data_keys) if text_key is None or text_key not in data_keys else {text_key}
    hidden_data = [f"tasks:data.{key}" for key in data_keys if key not in shown]
    explore = [f"tasks:{column}" for column in _SYSTEM_COLUMNS if column not in _SHOWN] + hidden_data
    labeling = [f"tasks:{column}" for column in _SYSTEM_COLUMNS] + hidden_data
    widths = {f"tasks:data.{key}": 600 for key in shown if len(shown) == 1}
    return {
        "hiddenColumns": {"explore": explore, "labeling": labeling},
        "columnsWidth": widths | {"tasks:predictions_score": 150, "tasks:total_annotations": 70},
        "columnsDisplayType": {},
        "gridWidth": 4,
    }


def _ours(views: list[dict[str, Any]]) -> dict[Flag, dict[str, Any]]:
    """Return the tab of each flag: the oldest that filters on its token, else the oldest with its title."""
    found: dict[Flag, dict[str, Any]] = {}
    for view in views:
        if (flag := _flag_of(view)) is not None:
            found.setdefault(flag, view)
    for view in views:
        title = _TITLE.match(str((view.get("data") or {}).get("title", "")))
        flag = next((flag for flag in TITLES if title and title[1] in (TITLES[flag], _SHORT[flag])), None)
        if flag is not None and _flag_of(view) is None:
            found.setdefault(flag, view)
    return found


def _items(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    filters = (view.get("data") or {}).get("filters") or {}
    return [item for item in filters.get("items") or [] if isinstance(item, dict)]


def _flag_of(view: Mapping[str, Any]) -> Flag | None:
    tokens = [_TOKEN.match(str(item.get("value"))) for item in _items(view)]
    return next((Flag(token[2]) for token in tokens if token), None)


def _followed(view: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return the filters of a copy of one of our tabs with the token of `version`; nothing for other tabs."""
    if _flag_of(view) is None:
        return {}
    items = [
        item | {"value": flag_token(version, Flag(token[2]))}
        if (token := _TOKEN.match(str(item.get("value"))))
        else item
        for item in _items(view)
    ]
    return {"filters": {**view["data"]["filters"], "items": items}}
