"""Which labelled samples does the LLM see in its prompt? One signature for all, see ``base.py``."""

from __future__ import annotations

from strategies.demonstration.base import DEMONSTRATIONS, Demonstration
from strategies.demonstration.distilled_selection import distilled_selection
from strategies.demonstration.retrieval import nearest
from strategies.demonstration.self_labeling import self_labeling

__all__ = ["DEMONSTRATIONS", "Demonstration", "distilled_selection", "nearest", "self_labeling"]
