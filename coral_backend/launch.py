"""How does a round begin, and with what of its own? Whatever would stop it for want of a price or a Batch API is said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coral_backend.annotate import make_team
from coral_backend.batches import check_batch
from coral_backend.llm.prices import PriceTable
from coral_backend.llm.spend import Meter
from coral_backend.rounds import settings_for, settings_of
from coral_backend.settings import Settings
from coral_backend.store import Store, option_versions
from coral_backend.types import Floats, Round, RoundStatus

__all__ = ["begin_round", "change_round", "check"]


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
    CoralError
        As ``check``.
    """
    own = settings_for(settings, store.project(project_id)).with_options(options or {})
    check(own.model_copy(update={"batch": own.batch and not retrain}))  # a retraining asks live
    return store.create_round(project_id, own.public(), retrain=retrain)


def change_round(store: Store, settings: Settings, current: Round, options: Mapping[str, Any]) -> None:
    """Give a round that is under way another budget or way of asking; raises as ``check``.

    One that is paused also takes what the project was given of these since it began: else nobody could raise its budget there.
    """
    if current.status is RoundStatus.PAUSED:
        options = {**_saved_since(store, settings, current), **options}
    if options:
        check(settings_of(settings, store.project(current.project_id), current).with_options(options))
        store.set_round_options(current.id, **options)


def _saved_since(store: Store, settings: Settings, current: Round) -> dict[str, Any]:
    """Return the project's ``budget`` and ``batch``, as far as somebody has changed them since the round began."""
    versions = option_versions.history(store, current.project_id)
    if not versions:
        return {}
    then = next((v for v in versions if v.created_at <= current.created_at), versions[-1])
    since = [version.options for version in versions if version.number > then.number]
    now = settings_for(settings, store.project(current.project_id))
    changed = {n for n in ("budget", "batch") for options in since if options.get(n) != then.options.get(n)}
    return {name: getattr(now, name) for name in changed}


def check(own: Settings) -> None:
    """Refuse what a round could not keep, before it begins.

    Raises
    ------
    BudgetError
        If there is a budget and the price of a model is not known.
    EndpointError
        If it is to ask in batches and the endpoint has no Batch API.
    SettingsError
        If the price file cannot be read, or the annotator cannot be asked in batches.
    """
    prices = PriceTable.load(own.prices)
    if own.budget is None and not own.batch:
        return
    team = make_team(own, _never_embed, meter=Meter(prices, own.budget))
    for annotator in team:
        if annotator.is_llm:
            annotator.till()  # type: ignore[attr-defined] # who asks an LLM pays
    if own.batch:
        check_batch(team)


def _never_embed(_: Sequence[str]) -> Floats:
    raise AssertionError("nothing is embedded to look at a price")
