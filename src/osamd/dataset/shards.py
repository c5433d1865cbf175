"""Shards: the unit of work and of resuming. A shard's rows are appended to a journal that is renamed when whole."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
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

    @contextlib.contextmanager
    def held(self, shard: int) -> Iterator[bool]:
        """Hold a whole shard, so that no other process writes its outputs or takes photos out of it.

        Yields:
            Whether it is whole; if not, nothing is held.

        Raises:
            OSError: it cannot be opened or locked.
        """
        path = self.path(shard)
        if isinstance(path, UrlPath):
            yield path.exists()
            return
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            take_lock(file, wait=True)
            # Another process may have renamed it while this one waited.
            yield _is_at(file, path)
        finally:
            os.close(file)

    def drop_failed(self, shard: int, *, unmark: Callable[[], None]) -> int:
        """Make a shard with failed photos one that is not finished, and ends before the first of them.

        Args:
            shard: its number.
            unmark: has the shard written again in all formats; called before a whole shard is changed.

        Returns:
            How many of its photos had failed; 0 if another process is working on them, and the shard is as it was.

        Raises:
            OSError: it cannot be read or written.
        """
        path = self.path(shard)
        with self.held(shard) as is_whole:
            if is_whole:
                with path.open("rb") as lines:
                    failed, kept = _before_failed(lines)
                if failed and isinstance(path, UrlPath):
                    unmark()
                    path.unlink(missing_ok=True)
                elif failed and isinstance(path, Path):
                    failed = failed if Journal.reopen(path, kept, unmark) else 0
                return failed
        return 0 if isinstance(path, UrlPath) else Journal.drop_failed(path.with_name(path.name + PART))


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _before_failed(lines: Iterable[bytes]) -> tuple[int, int]:
    """How many rows are of failed photos, and the bytes before the first of these."""
    failed = kept = 0
    for line in lines:
        row = _whole_row(line)
        failed += row is not None and bool(row.code)
        kept += 0 if failed else len(line)
    return failed, kept


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
            # Another process may have put a shard there whose failed photos it tries again.
            if not (take_lock(file, wait=False) and _is_at(file, part)):
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

    @staticmethod
    def reopen(path: Path, kept: int, unmark: Callable[[], None]) -> bool:
        """Make a journal of a whole shard, of which this many bytes are kept.

        Args:
            path: of the shard, which is held.
            kept: bytes.
            unmark: called before anything is changed.

        Returns:
            False if another process just found the shard unfinished, and is about to see that it is not.

        Raises:
            OSError: it cannot be written.
        """
        part = path.with_name(path.name + PART)
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not (take_lock(file, wait=False) and _is_at(file, part)):
                return False
            unmark()
            path.replace(part)
            os.truncate(part, kept)
        finally:
            os.close(file)
        return True

    @staticmethod
    def drop_failed(part: Path) -> int:
        """Cut off the first failed photo of a journal and all behind it.

        Returns:
            How many photos had failed; 0 if there is no journal, or another process has it.

        Raises:
            OSError: it cannot be read or written.
        """
        try:
            file = os.open(part, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            if not (take_lock(file, wait=False) and _is_at(file, part)):
                return 0
            with open(file, "rb", closefd=False) as lines:
                failed, kept = _before_failed(lines)
            if failed:
                os.truncate(file, kept)
            return failed
        finally:
            os.close(file)

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
