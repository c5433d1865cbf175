"""File locks between threads and processes."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

POLL_S: Final = 0.1
VERDICT_BYTES: Final = 65536


class Turn:
    """An exclusive lock that is held.

    Attributes:
        verdict: the result that an earlier holder left while this one waited, or an empty string.
    """

    def __init__(self, path: Path, *, verdict: str) -> None:
        self._path = path
        self.verdict = verdict

    def leave(self, verdict: str) -> None:
        """Leave a result for those that wait, so that they need not repeat a failed attempt one after the other."""
        # The time distinguishes two equal results. If the disk is full, each waiter finds out by itself.
        with contextlib.suppress(OSError), self._path.open("r+b") as file:
            file.truncate()
            file.write(f"{time.time_ns()} {verdict}".encode()[:VERDICT_BYTES])


@contextlib.contextmanager
def exclusive(path: Path, *, while_waiting: Callable[[], None]) -> Iterator[Turn]:
    """Hold the lock of a file.

    This also excludes other threads, because each call opens the file anew. The file is kept: if it were deleted,
    someone could lock a new file while the old one is still held.

    Args:
        path: the file to lock; created if missing, in an existing folder.
        while_waiting: called a few times a second; an exception from it ends the wait.

    Raises:
        OSError: the file cannot be created or locked.
    """
    # Slow to import, and only needed for pulls and deletions.
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
