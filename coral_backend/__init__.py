"""CORAL for Label Studio: an LLM labels, a small model finds the wrong labels, people correct the doubtful ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coral_backend.library import Coral

__all__ = ["Coral", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import ``Coral`` when it is first asked for: the package itself stays quick to import."""
    if name == "Coral":
        from coral_backend.library import Coral

        return Coral
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
