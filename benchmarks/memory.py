"""How much memory did a part of this process need at most? Read from the kernel; no package is needed."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

RESET = "5"
"""Written to ``clear_refs`` it sets the peak back to what is resident now (proc(5), Linux 4.0)."""


@dataclass
class Peak:
    """The largest resident size in MB (10^6 bytes); set when the block ends.

    Where the kernel cannot set its peak back, it is the peak of the process so far, and ``since_start`` says so.
    """

    mb: float = 0.0
    since_start: bool = False


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the block's largest resident size, with what was resident before it."""
    _give_back()
    peak = Peak()
    try:
        CLEAR_REFS.write_text(RESET)
    except OSError:
        peak.since_start = True
    try:
        yield peak
    finally:
        peak.mb = _peak_bytes(since_start=peak.since_start) / 1e6


def _give_back() -> None:
    """Free what nobody uses and return it to the system, so that one block does not pay for the one before."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _peak_bytes(*, since_start: bool) -> int:
    if not since_start:
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
