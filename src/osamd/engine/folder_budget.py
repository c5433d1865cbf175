"""Keep a folder of files below a size, without listing it at each write. Several processes may write to it."""

import contextlib
import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Files remembered as the next to delete. A folder of a million files is listed once for so many deletions.
REMEMBERED: Final = 10_000
# The folder is listed again when this process alone has written this share of the capacity, since others write, too.
SHARE_BETWEEN_LISTINGS: Final = 1 / 16


@dataclass(frozen=True, slots=True)
class _File:
    """When it was last used, in seconds since the epoch, its size in bytes, and where it is."""

    used: float
    nbytes: int
    path: Path


class FolderBudget:
    """Deletes expired files, then the least recently used. Thread-safe.

    One process alone never exceeds the capacity. N processes may exceed it by ``(N - 1) / 16`` until one of them lists
    the folder again.

    Args:
        listed: iterates over the files that may be deleted.
        capacity_bytes: limit on their total size.
        ttl_s: seconds after which an unused file expires; ``st_mtime`` is the time of use.
        clock: seconds since the epoch, as the file system counts them.
    """

    def __init__(
        self, listed: Callable[[], Iterator[Path]], *, capacity_bytes: int, ttl_s: float, clock: Callable[[], float]
    ) -> None:
        self._listed = listed
        self._capacity_bytes = capacity_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        # Oldest first.
        self._files: deque[_File] = deque()
        self._is_listed = False
        self._has_all = True
        self._held_bytes = 0
        self._written_bytes = 0

    def add(self, path: Path, nbytes: int) -> None:
        """Make room for a file that is about to be written or replaced, and count it.

        Raises:
            OSError: the folder cannot be listed.
        """
        with self._lock:
            if not self._is_listed or self._written_bytes > self._capacity_bytes * SHARE_BETWEEN_LISTINGS:
                self._list()
            with contextlib.suppress(OSError):
                self._held_bytes -= path.stat().st_size
                # Otherwise making room might delete it and count its size once more.
                self._files = deque(file for file in self._files if file.path != path)
            self._delete_until(self._capacity_bytes - nbytes)
            self._held_bytes += nbytes
            self._written_bytes += nbytes
            if len(self._files) < REMEMBERED:
                self._files.append(_File(self._clock(), nbytes, path))
            else:
                self._has_all = False

    def delete_expired(self) -> None:
        """Delete what has expired.

        Raises:
            OSError: the folder cannot be listed.
        """
        with self._lock:
            self._list()
            self._delete_until(self._capacity_bytes)

    def _list(self) -> None:
        found = []
        for path in self._listed():
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append(_File(status.st_mtime, status.st_size, path))
        self._held_bytes = sum(file.nbytes for file in found)
        self._files = deque(heapq.nsmallest(REMEMBERED, found, key=lambda file: file.used))
        self._has_all = len(found) <= REMEMBERED
        self._is_listed, self._written_bytes = True, 0

    def _delete_until(self, limit_bytes: int) -> None:
        # Once at most: files that cannot be deleted would be listed for ever.
        may_list = not self._has_all
        while self._files or may_list:
            if not self._files:
                may_list = False
                self._list()
                continue
            oldest = self._files[0]
            if self._held_bytes <= limit_bytes and self._clock() - oldest.used <= self._ttl_s:
                return
            self._delete(self._files.popleft())

    def _delete(self, file: _File) -> None:
        # What another process has deleted was room for its own files, so it is not counted as freed here.
        with contextlib.suppress(OSError):
            status = file.path.stat()
            if status.st_mtime > file.used:
                # It was used after it was listed, or replaced.
                self._files.append(_File(status.st_mtime, status.st_size, file.path))
                return
            file.path.unlink()
            self._held_bytes -= file.nbytes
