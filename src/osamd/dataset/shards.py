"""Shards: the unit of work and of resuming. A shard's rows are appended to a journal that is renamed when whole."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from osamd.dataset.rows import Row, row_of_line, row_to_line
from osamd.dataset.urls import Place, UrlPath
from osamd.dataset.whole_files import PART, take_lock, write_whole

DIGITS: Final = 5


class Shards:
    """The shards of a run.

    Args:
        folder: where they are; created when the first is opened.
    """

    def __init__(self, folder: Place) -> None:
        self._folder = folder

    def path(self, shard: int) -> Place:
        """Where a shard is once it is whole."""
        return self._folder / f"{shard:0{DIGITS}d}.jsonl"

    def is_whole(self, shard: int) -> bool:
        """Whether all its photos are done."""
        return self.path(shard).exists()

    def rows(self, shard: int) -> Iterator[Row]:
        """The rows of a whole shard.

        Raises:
            OSError: it cannot be read.
        """
        with self.path(shard).open("rb") as file:
            for line in file:
                yield row_of_line(line)

    def open(self, shard: int, *, first: int, count: int) -> "AnyJournal | None":
        """Open a shard for this process alone.

        Args:
            shard: its number.
            first: index of its first photo.
            count: its number of photos.

        Returns:
            Its journal, at the first photo that is not done; None if another process has it, or finished it.

        Raises:
            OSError: it cannot be opened or locked.
        """
        path = self.path(shard)
        if isinstance(path, UrlPath):
            return None if path.exists() else UrlJournal(path, shard, count=count)
        path.parent.mkdir(parents=True, exist_ok=True)
        return Journal.open(path, shard, first=first, count=count)

    def has_failed(self, shard: int) -> bool:
        """Whether one of its photos that are done failed; a shard that has not begun has none.

        Raises:
            OSError: it cannot be read.
        """
        path = self.path(shard)
        if not path.exists():
            if isinstance(path, UrlPath) or not path.with_name(path.name + PART).exists():
                return False
            path = path.with_name(path.name + PART)
        with path.open("rb") as file:
            rows = map(_whole_row, file)
            return any(row is not None and row.code for row in rows)

    def drop_failed(self, shard: int, *, first: int, count: int) -> int:
        """Make a shard with failed photos one that is not finished, and ends before the first of them.

        Args:
            shard: its number.
            first: index of its first photo.
            count: its number of photos.

        Returns:
            How many of its photos had failed; 0 if another process has the shard, which is then as it was.

        Raises:
            OSError: it cannot be read or written.
        """
        path = self.path(shard)
        if isinstance(path, UrlPath):
            failed = sum(bool(row.code) for row in self.rows(shard))
            path.unlink(missing_ok=True)
            return failed
        if path.exists():
            path.replace(path.with_name(path.name + PART))
        journal = Journal.open(path, shard, first=first, count=count)
        if journal is None:
            return 0
        try:
            return journal.drop_failed()
        finally:
            journal.close()


class Journal:
    """The rows of an unfinished shard, locked for this process. Made by ``open``.

    Attributes:
        shard: the shard's number.
        done: its photos that are done.
        failed: those of them that failed.
    """

    def __init__(self, file: int, path: Path, shard: int, *, count: int) -> None:
        self._file = file
        self._path = path
        self._count = count
        self.shard = shard
        self.done = 0
        self.failed = 0

    @classmethod
    def open(cls, path: Path, shard: int, *, first: int, count: int) -> Self | None:
        """See ``Shards.open``."""
        part = path.with_name(path.name + PART)
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        journal = cls(file, path, shard, count=count)
        try:
            if not take_lock(file, wait=False):
                journal.close()
                return None
            if path.exists():
                # Another process renamed it between our look and our lock, so this one is new and empty.
                part.unlink(missing_ok=True)
                journal.close()
                return None
            journal._skip_done(first)
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def is_complete(self) -> bool:
        """Whether all photos are done, so that it can be renamed."""
        return self.done == self._count

    def append(self, row: Row) -> None:
        """Add the next photo's row.

        Raises:
            OSError: it cannot be written; a row that was cut off is dropped when the journal is opened again.
        """
        data = memoryview(row_to_line(row))
        while data:
            data = data[os.write(self._file, data) :]
        self._count_in(row)

    def drop_failed(self) -> int:
        """Cut off the first failed photo and all behind it; the journal can only be closed then.

        Returns:
            How many photos had failed.

        Raises:
            OSError: it cannot be read or written.
        """
        kept = 0
        os.lseek(self._file, 0, os.SEEK_SET)
        with open(self._file, "rb", closefd=False) as lines:
            for line in lines:
                if row_of_line(line).code:
                    break
                kept += len(line)
        os.truncate(self._file, kept)
        return self.failed

    def finish(self) -> None:
        """Give the complete shard its name, so that it counts as whole.

        Raises:
            OSError: it cannot be written.
        """
        os.fsync(self._file)
        self._path.with_name(self._path.name + PART).replace(self._path)
        self.close()

    def close(self) -> None:
        """Release it to other processes. Safe to call more than once."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _skip_done(self, first: int) -> None:
        """Read the rows that are there, and cut off what a killed process left behind them."""
        kept = 0
        with open(self._file, "rb", closefd=False) as lines:
            for line in lines:
                row = _whole_row(line)
                if row is None or row.index != first + self.done or self.is_complete:
                    break
                self._count_in(row)
                kept += len(line)
        os.truncate(self._file, kept)
        os.lseek(self._file, kept, os.SEEK_SET)

    def _count_in(self, row: Row) -> None:
        self.done += 1
        self.failed += bool(row.code)


class UrlJournal:
    """The rows of an unfinished shard, in memory, and written in one piece.

    Nothing can be appended to a file by URL, so whoever is killed has done none of its photos; and nothing is locked,
    so two processes may do them, and write the same.

    Attributes:
        shard: the shard's number.
        done: its photos that are done.
        failed: those of them that failed.
    """

    def __init__(self, path: UrlPath, shard: int, *, count: int) -> None:
        self._path = path
        self._count = count
        self._lines: list[bytes] = []
        self.shard = shard
        self.done = 0
        self.failed = 0

    @property
    def is_complete(self) -> bool:
        """Whether all photos are done, so that it can be written."""
        return self.done == self._count

    def append(self, row: Row) -> None:
        """Add the next photo's row."""
        self._lines.append(row_to_line(row))
        self.done += 1
        self.failed += bool(row.code)

    def finish(self) -> None:
        """Write the complete shard.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(self._path, b"".join(self._lines))

    def close(self) -> None:
        """Nothing is open."""


AnyJournal = Journal | UrlJournal


def _whole_row(line: bytes) -> Row | None:
    if line.endswith(b"\n"):
        with contextlib.suppress(ValueError):
            return row_of_line(line)
    return None
