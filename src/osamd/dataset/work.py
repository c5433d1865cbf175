"""The shards of one part of a run, and the photos in them that are not done."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from osamd.dataset.answers import Answers, RowMaker
from osamd.dataset.manifest import Manifest
from osamd.dataset.pipeline import in_order
from osamd.dataset.plan import Header, Item
from osamd.dataset.rows import Row
from osamd.dataset.shards import AnyJournal, Shards
from osamd.pixels.careful_decoder import CarefulDecoder


@dataclass(frozen=True, slots=True)
class Part:
    """Which shards a process does: those whose number leaves ``index`` when divided by ``count``."""

    index: int = 0
    count: int = 1

    def shards(self, header: Header) -> range:
        """The numbers of its shards."""
        return range(self.index, header.shard_count, self.count)


WHOLE: Final = Part()


class Counts(Protocol):
    """Counts photos, such as a progress bar."""

    def add(self, count: int = 1, *, failed: int) -> None:
        """Photos that have been done now."""

    def skip(self, count: int, *, failed: int) -> None:
        """Photos that were done before."""


class Outputs(Protocol):
    """Told of whole shards."""

    def add(self, value: int) -> None:
        """A shard is whole."""

    def check(self) -> None:
        """Raise what stops the run."""


class Work:
    """What is left of some shards.

    Args:
        manifest: of the run.
        shards: of the run.
        numbers: the shards to do.
        progress: counts the photos.
        outputs: told of each shard that is whole, by whomever.

    Attributes:
        header: of the run.
        done: photos that are done.
        busy: shards that other processes have.
    """

    def __init__(
        self, manifest: Manifest, shards: Shards, numbers: Sequence[int], *, progress: Counts, outputs: Outputs
    ) -> None:
        self._manifest = manifest
        self._shards = shards
        self._numbers = numbers
        self._progress = progress
        self._outputs = outputs
        self._open: list[AnyJournal] = []
        self.header = manifest.header
        self.done = 0
        self.busy: list[int] = []

    def left(self) -> Iterator[int]:
        """The shards that are not whole; those that are count as done."""
        for shard in self._numbers:
            if self._shards.is_whole(shard):
                self.add_whole(shard)
            else:
                yield shard

    def is_whole(self, shard: int) -> bool:
        """Whether all photos of a shard are done."""
        return self._shards.is_whole(shard)

    def add_whole(self, shard: int) -> None:
        """Count a shard that somebody else has done."""
        count = self.header.size_of(shard)
        self.done += count
        self._progress.skip(count, failed=0)
        self._outputs.add(shard)

    def add_done(self, shard: int, *, before: int, now: int, failed: int) -> None:
        """Count what a worker in another process has done of a shard, before and now."""
        self.done += before + now
        self._progress.skip(before, failed=0)
        self._progress.add(now, failed=failed)
        if before + now == self.header.size_of(shard):
            self._outputs.add(shard)

    def check(self) -> None:
        """Raise what has stopped the outputs."""
        self._outputs.check()

    def go(self, row_of: Callable[[Item], Row], *, at_once: int, stop: threading.Event) -> None:
        """Do the photos that are left in this process.

        Args:
            row_of: what to do with each, on several threads.
            at_once: photos in hand.
            stop: once set, the photos in hand are finished, and no others.
        """

        def work(task: tuple[AnyJournal, Item]) -> Row:
            return row_of(task[1])

        try:
            with contextlib.closing(in_order(self._tasks(), work, at_once=at_once, stop=stop)) as results:
                for (journal, _), row in results:
                    self._outputs.check()
                    journal.append(row)
                    self.done += 1
                    self._progress.add(failed=int(bool(row.code)))
                    if journal.is_complete:
                        self._finish(journal)
        finally:
            for journal in self._open:
                journal.close()

    def _tasks(self) -> Iterator[tuple[AnyJournal, Item]]:
        """The photos that are not done, with the journals to write them to."""
        for shard in self.left():
            journal = self._shards.open(shard, first=self.header.first_of(shard), count=self.header.size_of(shard))
            if journal is None:
                if self._shards.is_whole(shard):
                    self.add_whole(shard)
                else:
                    self.busy.append(shard)
                continue
            self._open.append(journal)
            already = journal.done
            self.done += already
            self._progress.skip(already, failed=journal.failed)
            if journal.is_complete:
                self._finish(journal)
                continue
            for offset, item in enumerate(self._manifest.items(shard)):
                if offset >= already:
                    yield journal, item

    def _finish(self, journal: AnyJournal) -> None:
        journal.finish()
        self._open.remove(journal)
        self._outputs.add(journal.shard)


class Workers(Protocol):
    """Who does the work of a run; asked only if some photo is left."""

    def __call__(self, work: Work, *, stop: threading.Event) -> None:
        """Do what is left.

        Args:
            work: what to do.
            stop: once set, the photos in hand are finished, and no others.

        Raises:
            OsamdError: not of one photo; the run can be continued.
            OSError: something cannot be written; the run can be continued.
        """


class InProcess:
    """This process does the work.

    Args:
        answers: who answers the prompts.
        at_once: photos in hand.
    """

    def __init__(self, answers: Callable[[], AbstractContextManager[Answers]], *, at_once: int) -> None:
        self._answers = answers
        self._at_once = at_once

    def __call__(self, work: Work, *, stop: threading.Event) -> None:
        """See ``Workers``."""
        with self._answers() as answers, CarefulDecoder() as decode:
            work.go(RowMaker(work.header, answers, decode), at_once=self._at_once, stop=stop)
