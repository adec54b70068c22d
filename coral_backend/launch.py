"""How does a round begin, and with what of its own? Whatever would stop it for want of a price or a Batch API is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coral_backend.batches import check_batch
from coral_backend.costs import check_price
from coral_backend.rounds import settings_for, settings_of
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Round

__all__ = ["begin_round", "change_round"]


def begin_round(
    store: Store,
    settings: Settings,
    project_id: int,
    options: Mapping[str, Any] | None = None,
    *,
    retrain: bool = False,
) -> Round:
    """Create a round.

    Parameters
    ----------
    options : mapping, optional
        ``budget`` and ``batch`` of this round only.

    Raises
    ------
    ConflictError
        If the project has an active round.
    BudgetError
        If it has a budget and the price of its model is not known.
    EndpointError
        If it is to ask in batches and the endpoint has no Batch API.
    """
    own = settings_for(settings, store.project(project_id)).with_options(options or {})
    _check(own)
    return store.create_round(project_id, own.public(), retrain=retrain)


def change_round(store: Store, settings: Settings, current: Round, options: Mapping[str, Any]) -> None:
    """Give a round that is under way another budget or way of asking; raises as ``begin_round``."""
    if options:
        _check(settings_of(settings, store.project(current.project_id), current).with_options(options))
        store.set_round_options(current.id, **options)


def _check(own: Settings) -> None:
    check_price(own)
    if own.batch:
        check_batch(own)
