"""Everything a process has started, directly or not: Linux's /proc. So that what is started here also ends here."""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PR_SET_CHILD_SUBREAPER: Final = 36
POLL_S: Final = 0.05


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none of them escapes. Only on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Ids of the living processes below ``root``; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # After the name, which is in brackets and may hold anything: state, parent, ...
            state, parent = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(folder.name))
    found = list(children.get(root, ()))
    # It grows while it is walked.
    for process in found:
        found.extend(children.get(process, ()))
    return found


def end_descendants(root: int, *, patience_s: float) -> list[int]:
    """Wait for the processes below ``root`` to end, then kill those that have not; returns the killed ones."""
    until = time.monotonic() + patience_s
    while (left := descendants(root)) and time.monotonic() < until:
        _reap()
        time.sleep(POLL_S)
    _signal(left, signal.SIGKILL)
    for _ in range(int(patience_s / POLL_S)):
        _reap()
        if not descendants(root):
            break
        time.sleep(POLL_S)
    return left


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
