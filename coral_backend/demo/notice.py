"""Will the demo send somebody's texts to an LLM? Said in one line before anything can be sent.

A key that is exported for other work must not make a look at the demo cost money, or give data away, without a word.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from coral_backend.llm.base import make_annotator
from coral_backend.rounds import lazy_embed
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Project, RoundStatus, Stage

__all__ = ["endpoint_of", "texts_to_send", "warn"]

PATIENCE_SECONDS = 5.0
ASKING = (Stage.SYNC, Stage.ANNOTATE)


def warn(
    settings: Settings,
    console: Console,
    *,
    project_id: int | None,
    rows: int,
    options: Mapping[str, Any],
    wait: bool,
) -> None:
    """Name the endpoint, the model and the number of texts, and give time for Ctrl-C; silent without an LLM.

    Call it before a worker starts: one that finds an interrupted round goes on with it at once.

    Parameters
    ----------
    project_id : int or None
        The project of the corpus; None when it is not imported yet.
    rows : int
        Texts of the corpus.
    options : mapping
        Settings that the demo will give to the project.
    """
    store = Store(settings.store_url)
    try:
        asked = texts_to_send(settings, store, project_id, rows, options)
    finally:
        store.close()
    if not asked:
        return
    what = " and ".join(f"up to {texts:,} texts to {endpoint}" for endpoint, texts in asked.items())
    stop = f" Ctrl-C within {PATIENCE_SECONDS:.0f} seconds stops that." if wait else ""
    cure = " CORAL_ANNOTATOR=embedded sends nothing."
    console.print(
        f"An LLM is set: the demo sends {what}, which may cost money.{stop}{cure}", markup=False, highlight=False
    )
    if wait:
        time.sleep(PATIENCE_SECONDS)


def texts_to_send(
    settings: Settings, store: Store, project_id: int | None, rows: int, options: Mapping[str, Any]
) -> dict[str, int]:
    """Return how many texts a start may send at most, by endpoint (as ``endpoint_of`` names it); empty without an LLM.

    Counts the corpus unless it is annotated already, and other projects whose round was interrupted.
    """
    known = {project.id: project for project in store.projects()}
    ours = known.pop(project_id, None) if project_id is not None else None
    waiting: list[tuple[Mapping[str, Any], int]] = []
    if ours is None or _is_to_annotate(store, ours):
        waiting.append(({**(ours.options if ours else {}), **options}, rows))
    for other in known.values():
        active = store.active_round(other.id)
        if active is not None and active.status is not RoundStatus.PAUSED and active.stage in ASKING:
            waiting.append((other.options, len(store.samples(other.id))))
    asked: Counter[str] = Counter()
    for own, texts in waiting:
        endpoint = endpoint_of(settings.with_options(own))
        if endpoint is not None:
            asked[endpoint] += texts
    return dict(asked)


def _is_to_annotate(store: Store, project: Project) -> bool:
    """Whether the demo will run, or go on with, a round that still asks the annotator; a paused one is resumed."""
    active = store.active_round(project.id)
    return project.active_round is None if active is None else active.stage in ASKING


def endpoint_of(settings: Settings) -> str | None:
    """Return the host and the model that these settings send texts to; None when the annotator is no LLM.

    Raises
    ------
    SettingsError
        If the annotator does not exist, or lacks what it needs.
    """
    if not make_annotator(settings, lazy_embed(settings)).is_llm:
        return None
    from coral_backend.llm.openai import OPENAI_URL  # the SDK takes a second to import

    return f"{urlsplit(settings.openai_base_url or OPENAI_URL).netloc} (model {settings.llm_model})"
