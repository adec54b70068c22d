"""How does a name become a strategy? A small registry, one instance for each strategies folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class UnknownStrategyError(LookupError):
    """A strategy name that nobody registered; the message lists the names that exist."""


class Registry(Generic[T]):
    """Map names to strategies of one kind.

    Parameters
    ----------
    kind : str
        What the entries are, as it reads in an error message, for example ``"demonstration strategy"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters its target under `name`.

        Raises
        ------
        ValueError
            If `name` is taken: two strategies under one name would depend on the order of imports.
        """

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"The {self.kind} {name!r} is registered twice; choose another name.")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """Return the strategy called `name`.

        Raises
        ------
        UnknownStrategyError
            If there is none; the message lists those that exist.
        """
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(sorted(self._entries)) or "none"
            raise UnknownStrategyError(f"There is no {self.kind} {name!r}. There are: {known}.") from None

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return iter(sorted(self._entries.items()))
