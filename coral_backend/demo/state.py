"""Which project of Label Studio holds which corpus? A small file that survives whatever interrupts the demo."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coral_backend.exceptions import InputError

__all__ = ["DemoState", "Entry", "kept_port", "write_atomically"]


@dataclass(frozen=True)
class Entry:
    """A project that the demo has made.

    Attributes
    ----------
    tasks : tuple of int or None
        The ids of its tasks in the order of the corpus; None while the import has not ended.
    """

    project: int
    tasks: tuple[int, ...] | None = None


class DemoState:
    """The projects of a demo folder by the fingerprint of their corpus; each change is on the disk before it returns.

    Parameters
    ----------
    path : Path
        The file; it need not exist. A damaged one is put aside as ``<name>.damaged`` and counts as absent.
    tell : callable
        Told about that in one line.

    Raises
    ------
    InputError
        If the file is there and cannot be read at all.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._entries = self._load(tell)

    def get(self, key: str) -> Entry | None:
        """Return the project of a corpus."""
        return self._entries.get(key)

    def others(self, key: str) -> Iterator[tuple[str, Entry]]:
        """Yield the entries of all other corpora; the caller may drop them meanwhile."""
        yield from [item for item in self._entries.items() if item[0] != key]

    def put(self, key: str, entry: Entry) -> None:
        """Keep the project of a corpus."""
        self._entries[key] = entry
        self._save()

    def drop(self, key: str) -> None:
        """Forget the project of a corpus, if there is one."""
        if self._entries.pop(key, None) is not None:
            self._save()

    def _save(self) -> None:
        rows = {key: {"project": entry.project, "tasks": entry.tasks} for key, entry in self._entries.items()}
        write_atomically(self._path, json.dumps(rows))

    def _load(self, tell: Callable[[str], None]) -> dict[str, Entry]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be read ({error.strerror}). Make it readable, or take another --dir."
            ) from None
        try:
            return {str(key): _entry(value) for key, value in json.loads(content).items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            aside = self._path.with_name(f"{self._path.name}.damaged")
            self._path.replace(aside)
            tell(f"{self._path} is damaged; it is put aside as {aside.name}, and the corpus is imported anew.")
            return {}


def _entry(value: Any) -> Entry:
    tasks = value["tasks"]
    return Entry(int(value["project"]), None if tasks is None else tuple(int(task) for task in tasks))


def kept_port(path: Path, tell: Callable[[str], None]) -> int | None:
    """Return the TCP port in a file; None if there is no file, or none in it, which `tell` is told in one line."""
    try:
        port = int(path.read_text(encoding="ascii"))
        if not 0 < port < 2**16:
            raise ValueError(port)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        tell(f"{path} holds no port; another one is taken.")
        return None
    return port


def write_atomically(path: Path, text: str) -> None:
    """Write a file of ours that a reader, or a crash at any moment, finds complete or as it was before (mode 0600)."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
