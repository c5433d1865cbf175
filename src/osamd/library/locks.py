"""Turns between threads and processes: whoever holds the lock of a file has the turn."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

POLL_S: Final = 0.1
VERDICT_BYTES: Final = 65536


class Turn:
    """The right to do something alone.

    Attributes:
        verdict: what an earlier holder left behind while this one waited, or nothing.
    """

    def __init__(self, path: Path, *, verdict: str) -> None:
        self._path = path
        self.verdict = verdict

    def leave(self, verdict: str) -> None:
        """Tell those who wait how it ended, so that they need not find out one after the other."""
        # The time makes two equal verdicts different ones. On a full disk they find out for themselves.
        with contextlib.suppress(OSError), self._path.open("r+b") as file:
            file.truncate()
            file.write(f"{time.time_ns()} {verdict}".encode()[:VERDICT_BYTES])


@contextlib.contextmanager
def exclusive(path: Path, *, while_waiting: Callable[[], None]) -> Iterator[Turn]:
    """Take turns.

    Two threads are kept apart like two processes, because each call opens the file anew. The file stays: to delete it
    would let somebody lock a new one beside a holder of the old.

    Args:
        path: the file to lock; made if it is not there, in a folder that is.
        while_waiting: called a few times a second; what it raises ends the wait.

    Raises:
        OSError: the file cannot be made or locked.
    """
    # Slow to import, and only pulls and deletions need it.
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)
    before: str | None = None
    while not lock.is_locked:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            before = _read(path) if before is None else before
            while_waiting()
            time.sleep(POLL_S)
    try:
        after = "" if before is None else _read(path)
        yield Turn(path, verdict=after.partition(" ")[2] if after != before else "")
    finally:
        lock.release()


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(VERDICT_BYTES).decode(errors="replace")
