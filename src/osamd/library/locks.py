"""Turns between threads and processes: who holds the lock of a file has the turn, and the kernel ends it with them."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.1
VERDICT_BYTES = 65536


class Turn:
    """The right to do something alone.

    Attributes:
        waited: whether somebody else had it when it was asked for.
        verdict: what one of those before left behind while this one waited, or nothing.
    """

    def __init__(self, descriptor: int, *, waited: bool, verdict: str) -> None:
        self._descriptor = descriptor
        self.waited = waited
        self.verdict = verdict

    def leave(self, verdict: str) -> None:
        """Tell those who wait how it ended, so that they need not find out one after the other."""
        # The time makes two equal verdicts different ones. On a full disk they find out for themselves.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{time.time_ns()} {verdict}".encode()[:VERDICT_BYTES], 0)


@contextlib.contextmanager
def exclusive(path: Path, *, while_waiting: Callable[[], None]) -> Iterator[Turn]:
    """Take turns.

    Two threads are kept apart like two processes, because each call opens the file anew. The file stays: to delete it
    would let somebody lock a new one beside a holder of the old.

    Args:
        path: the file to lock; made if it is not there.
        while_waiting: called a few times a second; what it raises ends the wait.

    Raises:
        OSError: the file cannot be made or locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        before, waited = "", False
        while not _try_lock(descriptor):
            if not waited:
                before, waited = _read(descriptor), True
            while_waiting()
            time.sleep(POLL_S)
        after = _read(descriptor) if waited else ""
        yield Turn(descriptor, waited=waited, verdict=after.partition(" ")[2] if after != before else "")
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> str:
    return os.pread(descriptor, VERDICT_BYTES, 0).decode(errors="replace")
