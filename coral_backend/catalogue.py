"""Which strategies are there to choose from, where does each come from, and is a task strategy of the user's right?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coral_backend.labelstudio.control_tags import CONTROL_TAGS
from coral_backend.settings import Settings
from strategies import tasks
from strategies.annotation import ANNOTATION
from strategies.demonstration import DEMONSTRATIONS
from strategies.distillation import SPLITTERS
from strategies.tasks import Mistake, TaskStrategy

__all__ = ["BUILT_IN", "KINDS", "Entry", "check", "entries"]

BUILT_IN = "built in"

KINDS = {
    "task": "CORAL_TASK",
    "annotation": "CORAL_ANNOTATION",
    "demonstration": "CORAL_FIRST_DEMONSTRATION, CORAL_DEMONSTRATION",
    "distillation": "always gmm",
}
"""Each kind of strategy, and the setting that chooses one."""


@dataclass(frozen=True)
class Entry:
    """A strategy that can be named.

    Attributes
    ----------
    about : str
        One line on what it does.
    origin : str
        ``BUILT_IN``, or the path of the user's file.
    mistakes : tuple of str
        What is wrong with the user's file; such a strategy cannot be used.
    """

    kind: str
    name: str
    about: str
    origin: str = BUILT_IN
    mistakes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def entries(settings: Settings) -> Iterator[Entry]:
    """Yield every strategy, kind by kind; those of the user's that are wrong too, with their mistakes.

    Raises
    ------
    TaskStrategyError
        If the folder of the user's strategies cannot be read, or a name in it is taken.
    """
    for name, path in sorted(tasks.files(settings.strategies).items()):
        own = path.parent != tasks.FOLDER
        wrong = check(path) if own else []
        about = "" if wrong else _about(tasks.load(name, settings.strategies))
        yield Entry("task", name, about, str(path) if own else BUILT_IN, tuple(map(str, wrong)))
    registries: Iterable[tuple[str, Iterable[tuple[str, object]]]] = (
        ("annotation", ANNOTATION), ("demonstration", DEMONSTRATIONS), ("distillation", SPLITTERS),
    )  # fmt: skip
    for kind, registry in registries:
        for name, strategy in registry:
            yield Entry(
                kind, name, (strategy.__doc__ or "").strip().partition("\n")[0].partition("; see ")[0].rstrip(".")
            )


def check(path: Path) -> list[Mistake]:
    """Return what is wrong with a task strategy's file, in the order of its lines; nothing when it is right."""
    found = tasks.mistakes(path, CONTROL_TAGS)
    taken = None if path.resolve().parent == tasks.FOLDER else tasks.reserved(path.stem)
    return [Mistake(path.name, None, f"{taken}; give the file another name."), *found] if taken else found


def _about(strategy: TaskStrategy) -> str:
    tags = ", ".join(f"<{tag}>" for tag in strategy.tags)
    labels = f", for {', '.join(strategy.aliases)}" if strategy.aliases else ""
    return f"{strategy.title} ({tags}{labels})"
