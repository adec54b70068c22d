"""What do the buttons of a project do? Each tells the database, and the queue is only woken; going back is done at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from coral_backend.exceptions import ConflictError, InputError, QueueUnavailableError
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Round, RoundStatus

__all__ = ["ACTIONS", "NOTICES", "act", "go_back"]


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


def go_back(settings: Settings, store: Store, project_id: int, name: str) -> bool:
    """Make an older round serve again, in this very request; return False if tasks that came after it wait for the next round.

    No job: who pressed it is told what came of it, and the rollback's lease keeps everybody else away meanwhile. Whoever
    closes the page does not stop it; what a crash left undone, a second press does.

    Raises
    ------
    NotFoundError
        If there is no such round.
    ConflictError
        If it cannot serve, a round is under way, or somebody else is going back just now.
    LabelStudioError
        If Label Studio is away; the round that served before still does.
    """
    from coral_backend import jobs, rollback  # as in _woken

    done = rollback.roll_back(store, settings, lambda: jobs.client_for(settings), project_id, name)
    return done.model_kept or not done.new_tasks


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

NOTICES: Final[Mapping[str, str]] = {
    "next": "The round is in the queue.",
    "retrain": "The retraining is in the queue.",
    "resume": "The round goes on.",
    "pause": "The round is paused; what is done is kept.",
    "cancel": "The round is cancelled. The labels it had got stay, and the round before it serves on.",
    "back": "The project is back at the round that serves below, and the next round builds on it. Labels of people stay.",
    "back-waits": "The project is back at the round that serves below. Its model is no longer kept, so tasks that came after "
    "it wait for the next round. Labels of people stay.",
    "later": "Saved, but the queue does not answer: a worker takes it up when Redis is back.",
}
"""What the project's page says after a button."""
