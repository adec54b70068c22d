"""How does a process make sure that it does not outlive its parent? Imported by jobs, and run as an exec wrapper.

``python pdeathsig.py PARENT_PID COMMAND ...`` asks the kernel to kill this process when its parent ends, however it ends,
and then becomes COMMAND. A wrapper and not ``subprocess``'s ``preexec_fn``, because Python code between fork and exec can
deadlock in a process with threads. It imports the standard library only, so that it starts in milliseconds.

Linux only (``PR_SET_PDEATHSIG``); elsewhere both do nothing, and an orderly stop is what ends the children.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when the thread that made it ends.

    Parameters
    ----------
    parent_pid : int
        The parent that the caller expects. If it is gone already, the signal would never come: exits at once.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(os.EX_TEMPFAIL)


def main(argv: list[str]) -> None:
    """Become ``argv[1:]``, tied to the parent ``argv[0]``."""
    die_with_parent(int(argv[0]))
    try:
        os.execvp(argv[1], argv[1:])  # noqa: S606 - the point of this file
    except OSError as error:
        sys.exit(f"{argv[1]} cannot be started: {error.strerror}.")


if __name__ == "__main__":
    main(sys.argv[1:])
