"""What did the requests cost, and may a round go on? Between the store, which keeps what was spent, and the meter, which watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coral_backend.llm.prices import PriceTable
from coral_backend.llm.spend import Meter, total
from coral_backend.settings import Settings
from coral_backend.store import Store
from coral_backend.types import Project, Round, Spend

__all__ = ["CostLine", "cost_lines", "cost_of", "meter_for", "past_spend"]

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
        for round_id, spent in store.ledger.spending(project_id).items()
        for one in spent
    ]


def cost_of(spent: Sequence[Spend], *, tokens: int) -> float | None:
    """Return the USD of a round; None where a price is not known, or where only its `tokens` were kept, in an older version."""
    return total(spent).known_cost if spent else None if tokens else 0.0


def meter_for(store: Store, settings: Settings, project: Project, current: Round | None) -> Meter:
    """Return the meter of a round's requests; it begins with what the round has spent, and what its open batches may cost.

    None stands for the time between rounds, which has no budget.
    """
    prices, round_id = PriceTable.load(settings.prices), current.id if current is not None else 0

    def record(spent: list[Spend]) -> None:
        store.ledger.add(project.id, round_id, spent)

    if current is None:
        return Meter(prices, record=record)
    spent = sum(one.cost for one in store.ledger.spending(project.id).get(round_id, ()))
    reserved = sum(batch.reserved for batch in store.ledger.batches(round_id) if batch.open)
    resume = f"Raise it and go on: coral round --project {project.id} --resume --budget USD"
    return Meter(prices, settings.budget, spent + reserved, record=record, resume=resume)


def past_spend(store: Store, project_id: int, annotator: str) -> Spend:
    """Return what this annotator took in this project before; in any project, where it was never asked in this one."""
    for where in (project_id, None):
        spent = [one for many in store.ledger.spending(where).values() for one in many if one.annotator == annotator]
        if (found := total(spent)).prompt_tokens:
            return found
    return Spend(annotator)
