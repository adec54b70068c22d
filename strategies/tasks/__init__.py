"""What is a task type? Prompt parts, label meanings and the family of the small model, as one YAML file each.

The paper's "flexible strategy schema" (section 4, step 1): a new task type with known shapes is a new file in a folder of the
user's (docs/ADD_A_TASK_TYPE.md). A file is checked in full when it is loaded, before the first paid request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from strategies.tasks.base import TaskStrategy, TaskStrategyError
from strategies.tasks.files import MAX_FILE_BYTES, Mistake, mistakes, read

__all__ = [
    "FOLDER",
    "MAX_FILE_BYTES",
    "Mistake",
    "TaskStrategy",
    "TaskStrategyError",
    "choose",
    "files",
    "load",
    "mistakes",
    "names",
    "reserved",
]

FOLDER = Path(__file__).parent
_ENDINGS = frozenset({".yaml", ".yml"})


def files(folder: Path | None = None) -> dict[str, Path]:
    """Return the file of every strategy by its name: those that come with CORAL, and those in the user's `folder`.

    Raises
    ------
    TaskStrategyError
        If `folder` is no folder, or a name in it is taken: of two files under one name nobody could say which one counts.
    """
    found = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if folder is None:
        return found
    try:
        own = sorted(path for path in folder.expanduser().iterdir() if path.suffix in _ENDINGS and path.name[0] != ".")
    except OSError as error:
        raise TaskStrategyError(
            f"The folder of your task strategies, {str(folder)!r}, cannot be read ({error.strerror}). "
            "Make it, or set CORAL_STRATEGIES to the one you mean."
        ) from None
    for path in own:
        if why := reserved(path.stem) or (path.stem in found and f"{found[path.stem].name} has the same name"):
            raise TaskStrategyError(f"{path}: {why}; give the file another name, for example my_{path.stem}.yaml.")
        found[path.stem] = path
    return found


def reserved(name: str) -> str | None:
    """Return why no file of the user's may have this name (without its ending), or None."""
    if (FOLDER / f"{name}.yaml").exists():
        return f"{name!r} is a task strategy that comes with CORAL"
    return "'auto' stands for the choice by the labels" if name == "auto" else None


def names(folder: Path | None = None) -> list[str]:
    """Return the names of the strategies that come with CORAL and of those in `folder`, sorted."""
    return sorted(files(folder))


def load(name: str, folder: Path | None = None) -> TaskStrategy:
    """Return the strategy called `name`, here or in `folder`, or the one in the YAML file at the path `name`.

    Raises
    ------
    TaskStrategyError
        If there is none, or the file is wrong in any part.
    """
    known = files(folder)
    if name in known:
        return read(known[name])
    path = Path(name).expanduser()
    if path.suffix in _ENDINGS and path.is_file():
        return read(path)
    raise TaskStrategyError(
        f"There is no task strategy {name!r}. There are: {', '.join(sorted(known))}; or give the path of a .yaml file."
    )


def choose(
    tag: str, labels: Sequence[str], *, kind: str = "single", slm: str = "text", folder: Path | None = None
) -> TaskStrategy:
    """Return the strategy for a label config, for the task setting ``auto``.

    Among those of the family `slm` and of this `kind`: the one whose aliases know all of `labels` (sentiment for positive and negative), else
    one that takes any labels (topic). Of several that know the labels one in `folder` comes first; of several that take any
    labels, one that comes with CORAL.

    Raises
    ------
    TaskStrategyError
        If no strategy serves `tag`, or a file in `folder` is wrong: it might be the one that is meant.
    """
    known = files(folder)
    shipped = [read(path) for path in known.values() if path.parent == FOLDER]
    own = [read(path) for path in known.values() if path.parent != FOLDER]
    meant = [one for one in own + shipped if one.is_meant_for(labels)]
    general = [one for one in shipped + own if not one.aliases]
    chosen = next((one for one in meant + general if tag in one.tags and one.slm == slm and one.kind == kind), None)
    if chosen is None:
        raise TaskStrategyError(
            f"No task strategy serves {tag} with the labels {', '.join(labels)}; write one (docs/ADD_A_TASK_TYPE.md)."
        )
    return chosen
