"""Which machine labels should people look at, in which order, and which label would be exported now?"""

from __future__ import annotations

from strategies.review.flags import CLEAN, INCONSISTENT, NOISY, flag_samples
from strategies.review.ranking import review_order
from strategies.review.routing import Routing, Slice, route
from strategies.review.verdict import Decision, decide

__all__ = [
    "CLEAN",
    "INCONSISTENT",
    "NOISY",
    "Decision",
    "Routing",
    "Slice",
    "decide",
    "flag_samples",
    "review_order",
    "route",
]
