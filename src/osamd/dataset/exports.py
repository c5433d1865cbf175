"""Writes the output formats of shards that are whole, on a thread of its own, and the files that need all shards."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from osamd.dataset.failures import write_failures
from osamd.dataset.formats import NAMES, Format
from osamd.dataset.manifest import Manifest
from osamd.dataset.plan import STATE
from osamd.dataset.rows import Photo
from osamd.dataset.shards import Shards
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import locked, sync_files, write_whole

# Shards that wait to be written; then the photos wait too, so that the outputs do not fall behind.
MOST_WAITING: Final = 4


def marker_of(out: Place, shards: Shards, shard: int, name: str) -> Place:
    """The file that says that a shard is written in a format."""
    return out / STATE / "written" / f"{shards.path(shard).stem}.{name}"


def unmark(out: Place, shards: Shards, shard: int) -> None:
    """Have a shard written again in all formats, once it is whole.

    Raises:
        OSError: a marker cannot be deleted.
    """
    for name in (*NAMES, "review"):
        marker_of(out, shards, shard, name).unlink(missing_ok=True)


class Exports:
    """The outputs of one run.

    A shard's files are written after the shard itself; an empty marker file says that they are all on disk, so a run
    that was killed, or lost power, writes those of one shard again, with the same bytes.

    Args:
        out: the output folder.
        manifest: of the run.
        shards: of the run.
        formats: by name.
    """

    def __init__(self, out: Place, *, manifest: Manifest, shards: Shards, formats: Mapping[str, Format]) -> None:
        self._out = out
        self._manifest = manifest
        self._shards = shards
        self._formats = formats

    def write_shard(self, shard: int) -> None:
        """Write a whole shard's files in all formats that have not been written.

        Raises:
            OSError: one cannot be written.
        """
        if not self._missing(shard):
            return
        # The shard is only read, but several processes may find it whole.
        with self._shards.held(shard) as is_whole:
            missing = self._missing(shard) if is_whole else []
            for name in missing:
                self._formats[name].write_shard(shard, self._photos(shard))
            if missing:
                sync_files(self._out)
            for name in missing:
                # One that a power cut takes away is made again with its files.
                write_whole(self._marker(shard, name), b"", is_durable=False)

    def finish(self) -> int | None:
        """Write what has not been written of all shards, and the files that need all of them.

        Returns:
            How many photos failed; None if a shard is not whole, or not any more, since another process tries its
            failed photos again.

        Raises:
            OSError: one cannot be written.
        """
        numbers = range(self._manifest.header.shard_count)
        with locked(self._out / STATE / "lock"):
            if not all(map(self._shards.is_whole, numbers)):
                return None
            # Those of other parts too: their processes may have had other formats.
            for shard in numbers:
                self.write_shard(shard)
            for made in self._formats.values():
                made.finish(self._all_photos)
            return write_failures(self._out, self._all_photos())

    def _missing(self, shard: int) -> list[str]:
        """The formats in which a shard has not been written."""
        return [name for name in self._formats if not self._marker(shard, name).exists()]

    def _marker(self, shard: int, name: str) -> Place:
        return marker_of(self._out, self._shards, shard, name)

    def _photos(self, shard: int) -> Iterator[Photo]:
        rows = self._shards.rows(shard)
        return (Photo(item, row) for item, row in zip(self._manifest.items(shard), rows, strict=True))

    def _all_photos(self) -> Iterator[Photo]:
        for shard in range(self._manifest.header.shard_count):
            yield from self._photos(shard)


class Background:
    """Calls a function for each of many values on a thread of its own.

    Args:
        work: the function.
    """

    def __init__(self, work: Callable[[int], None]) -> None:
        self._work = work
        self._waiting: queue.Queue[int | None] = queue.Queue(MOST_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="osamd-exports", daemon=True)
        self._thread.start()

    def add(self, value: int) -> None:
        """Add a value; waits if too many are waiting.

        Raises:
            BaseException: what the function raised for an earlier one.
        """
        self.check()
        self._waiting.put(value)

    def check(self) -> None:
        """Raise what the function raised, if it did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until all values are done."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        for value in self._values():
            try:
                self._work(value)
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                self._error = error
                # Nobody may wait for a place in the queue of a thread that has ended.
                for _ in self._values():
                    pass
                return

    def _values(self) -> Iterable[int]:
        return iter(self._waiting.get, None)
