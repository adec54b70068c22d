"""What do the buttons of a project do? Each tells the database; the queue is only woken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from coral_backend.exceptions import ConflictError, InputError, QueueUnavailableError
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Round, RoundStatus

__all__ = ["ACTIONS", "act"]


def act(settings: Settings, store: Store, project_id: int, action: str) -> bool:
    """Do what a button says; return False when it is done but no worker could be told, so that it begins later.

    Raises
    ------
    InputError
        If there is no such button.
    ConflictError
        If the round is not in a state for it: somebody else was quicker.
    EndpointError, SettingsError
        If the round could not keep its budget, or cannot ask in batches; see ``launch.check``.
    """
    do = ACTIONS.get(action)
    if do is None:
        raise InputError(f"There is no action {action[:40]!r}. There are: {', '.join(ACTIONS)}.")
    current = do(settings, store, project_id)
    return current is None or _woken(settings, current)


def _next(settings: Settings, store: Store, project_id: int) -> Round:
    return _create(settings, store, project_id, retrain=False)


def _retrain(settings: Settings, store: Store, project_id: int) -> Round:
    if not any(done.status is RoundStatus.DONE for done in store.rounds(project_id)):
        raise ConflictError(
            "There is nothing to retrain yet: no round is finished. Start the first one with 'Next round'."
        )
    return _create(settings, store, project_id, retrain=True)


def _create(settings: Settings, store: Store, project_id: int, *, retrain: bool) -> Round:
    from coral_backend.launch import begin_round  # as in _woken

    return begin_round(store, settings, project_id, retrain=retrain)


def _pause(_: Settings, store: Store, project_id: int) -> None:
    store.set_round_status(_active(store, project_id, "pause").id, RoundStatus.PAUSED, "Paused from the dashboard.")


def _resume(settings: Settings, store: Store, project_id: int) -> Round:
    from coral_backend.launch import change_round  # as in _woken

    active = _active(store, project_id, "resume")
    if active.status is not RoundStatus.PAUSED:
        raise ConflictError(f"Round {active.name} is {active.status} already; there is nothing to resume.")
    change_round(store, settings, active, {})
    return store.set_round_status(active.id, RoundStatus.PENDING)


def _cancel(_: Settings, store: Store, project_id: int) -> None:
    store.set_round_status(
        _active(store, project_id, "cancel").id, RoundStatus.CANCELLED, "Cancelled from the dashboard."
    )


def _active(store: Store, project_id: int, action: str) -> Round:
    active = store.active_round(project_id)
    if active is None:
        raise ConflictError(
            f"No round is under way, so there is nothing to {action}: it ended, or somebody was quicker."
        )
    return active


def _woken(settings: Settings, current: Round) -> bool:
    from coral_backend import jobs  # scikit-learn comes with it, and only buttons need it

    try:
        jobs.request_advance(settings, current.id, stage=current.stage)
    except QueueUnavailableError:
        return False
    return True


ACTIONS: Final[dict[str, Callable[[Settings, Store, int], Round | None]]] = {
    "next": _next,
    "retrain": _retrain,
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
}
"""Name of the button -> what it does; a returned round waits for a worker."""
