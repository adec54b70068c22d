"""Who holds a lease, and is that process surely dead? Known on its own host only (Linux), from ``/proc``."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["is_dead", "this_process"]


def this_process() -> str:
    """Return a name for this process that no later process of this host will have: host, id and time of birth."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_born(pid)}"


def is_dead(holder: str) -> bool:
    """Say whether the process that `holder` names is surely gone; False for one of another host."""
    host, _, rest = holder.rpartition(":")
    host, _, pid = host.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit() or not rest:
        return False
    return _born(int(pid)) != rest


def _born(pid: int) -> str:
    """Return when a process was started, in clock ticks since boot; empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
