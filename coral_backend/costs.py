"""What did the requests cost, and may a round go on? Between the store, which keeps what was spent, and the meter, which watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coral_backend.llm.base import make_annotator
from coral_backend.llm.prices import PriceTable
from coral_backend.llm.spend import Meter, total
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Floats, Project, Round, Spend

__all__ = ["CostLine", "check_price", "cost_lines", "cost_of", "meter_for", "past_spend"]

BETWEEN_ROUNDS = "between"


@dataclass(frozen=True)
class CostLine:
    """What one annotator took in one round.

    Attributes
    ----------
    round : str
        ``"1"``, ``"1.2"``, or ``"between"`` for tasks that came between rounds.
    annotator : str
        Who was asked: in a strategy of several annotators, its link.
    unsettled : int
        Requests whose usage never came; they count with the most they can have cost.
    cost : float or None
        USD; None where a price is not known.
    """

    round: str
    annotator: str
    batch: bool
    requests: int
    unsettled: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: float | None


def cost_lines(store: Store, project_id: int, rounds: Sequence[Round]) -> list[CostLine]:
    """Return what each annotator took in each round, by round."""
    names = {one.id: one.name for one in rounds} | {0: BETWEEN_ROUNDS}
    return [
        CostLine(
            names.get(round_id, BETWEEN_ROUNDS),
            one.annotator,
            one.batch,
            one.requests,
            one.unsettled,
            one.prompt_tokens,
            one.cached_tokens,
            one.completion_tokens,
            one.known_cost,
        )
        for round_id, spent in store.spending(project_id).items()
        for one in spent
    ]


def cost_of(spent: Sequence[Spend], *, tokens: int) -> float | None:
    """Return the USD of a round; None where a price is not known, or where only its `tokens` were kept, in an older version."""
    return total(spent).known_cost if spent else None if tokens else 0.0


def meter_for(store: Store, settings: Settings, project: Project, current: Round) -> Meter:
    """Return the meter of a round's requests; it begins with what the round has spent, and what its open batches may cost."""
    spent = sum(one.cost for one in store.spending(project.id).get(current.id, ()))
    reserved = sum(batch.reserved for batch in store.batches(current.id) if batch.open)
    resume = f"Raise it and go on: coral round --project {project.id} --resume --budget USD"
    return Meter(PriceTable.load(settings.prices), settings.budget, spent + reserved, resume=resume)


def check_price(settings: Settings) -> None:
    """Refuse a budget that could not be kept, before a round begins.

    Raises
    ------
    BudgetError
        If there is a budget and the price of the model is not known.
    SettingsError
        If the price file cannot be read.
    """
    prices = PriceTable.load(settings.prices)
    if settings.budget is None:
        return
    meter = Meter(prices, settings.budget)
    annotator = make_annotator(settings, _never_embed, meter)
    endpoint = getattr(annotator, "endpoint", None)
    if endpoint is not None:
        meter.till(annotator.name, endpoint.base_url, endpoint.model)


def past_spend(store: Store, project_id: int, annotator: str) -> Spend:
    """Return what this annotator took in this project before; in any project, where it was never asked in this one."""
    for where in (project_id, None):
        spent = [one for many in store.spending(where).values() for one in many if one.annotator == annotator]
        if (found := total(spent)).prompt_tokens:
            return found
    return Spend(annotator)


def _never_embed(_: Sequence[str]) -> Floats:
    raise AssertionError("nothing is embedded to look at a price")
