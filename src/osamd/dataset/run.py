"""A run: from the photos of all shards that nobody else has, through journals, to the outputs."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from osamd.dataset.answers import Answers, row_maker
from osamd.dataset.exports import Background, Exports
from osamd.dataset.formats import Format
from osamd.dataset.manifest import NAME, Manifest, check_same, write_manifest
from osamd.dataset.pipeline import in_order
from osamd.dataset.plan import STATE, Item
from osamd.dataset.planning import Plan
from osamd.dataset.progress import Progress
from osamd.dataset.rows import Row
from osamd.dataset.shards import Journal, Shards
from osamd.dataset.whole_files import locked
from osamd.errors import InvalidRequestError
from osamd.pixels.careful_decoder import CarefulDecoder

# In the output folder.


@dataclass(frozen=True, slots=True)
class Part:
    """Which shards a process does: those whose number leaves ``index`` when divided by ``count``."""

    index: int = 0
    count: int = 1


@dataclass(slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        photos: of the whole data set.
        done: of the shards of this part, by this run or an earlier one.
        failed: of the whole data set, if ``is_finished``.
        is_finished: whether all shards are whole and all outputs written.
        busy: shards that other processes are working on.
    """

    photos: int
    done: int = 0
    failed: int = 0
    is_finished: bool = False
    busy: list[int] = field(default_factory=list)


def open_manifest(out: Path, plan: Plan | None) -> Manifest:
    """The manifest of an output folder, written first if there is none.

    Args:
        out: the output folder; created if missing.
        plan: what to do; None continues what the folder holds.

    Raises:
        InvalidRequestError: the folder holds another run, or none and there is no plan.
        OSError: it cannot be written.
    """
    path = out / STATE / NAME
    if plan is None:
        if not path.exists():
            raise InvalidRequestError(f"{out} holds no run to continue: give INPUT and what to find in it")
        return Manifest(path)
    with locked(out / STATE / "lock"):
        if path.exists():
            check_same(Manifest(path).header, plan.header, plan.items, out)
        else:
            write_manifest(path, plan.header, plan.items)
    return Manifest(path)


def run(
    manifest: Manifest,
    out: Path,
    *,
    formats: dict[str, Format],
    answers: Callable[[], AbstractContextManager[Answers]],
    at_once: int,
    stop: threading.Event,
    part: Part = Part(),
) -> Outcome:
    """Do what is left of a run.

    Args:
        manifest: of the output folder.
        out: the output folder.
        formats: the outputs to write.
        answers: who answers; called only if some photo is left.
        at_once: photos in hand.
        stop: once set, the photos in hand are finished, and no others.
        part: the shards to do.

    Raises:
        OsamdError: not of one photo; the run can be continued.
        OSError: an output cannot be written; the run can be continued.
    """
    shards = Shards(out / STATE / "shards")
    exports = Exports(out, out / STATE / "written", manifest=manifest, shards=shards, formats=formats)
    work = _Work(manifest, shards, part)
    background = Background(exports.write_shard)
    try:
        with Progress(work.total) as progress:
            work.go(background, answers, progress, at_once=at_once, stop=stop)
    finally:
        background.close()
    background.check()
    outcome = Outcome(manifest.header.count, done=work.done, busy=work.busy)
    if not stop.is_set() and work.is_all_whole:
        with locked(out / STATE / "lock"):
            # Those of other parts too: their processes may have had other formats.
            for shard in range(manifest.header.shard_count):
                exports.write_shard(shard)
            outcome.failed = exports.finish()
        outcome.is_finished = True
    return outcome


class _Work:
    """The shards of one part.

    Attributes:
        done: photos that are done.
        busy: shards that other processes have.
    """

    def __init__(self, manifest: Manifest, shards: Shards, part: Part) -> None:
        self._manifest = manifest
        self._shards = shards
        self._numbers = range(part.index, manifest.header.shard_count, part.count)
        self._open: list[Journal] = []
        self.done = 0
        self.busy: list[int] = []

    @property
    def total(self) -> int:
        """The photos of this part."""
        return sum(self._size(shard) for shard in self._numbers)

    @property
    def is_all_whole(self) -> bool:
        """Whether all shards are whole, those of other parts too."""
        return all(self._shards.is_whole(shard) for shard in range(self._manifest.header.shard_count))

    def go(
        self,
        background: Background,
        answers: Callable[[], AbstractContextManager[Answers]],
        progress: Progress,
        *,
        at_once: int,
        stop: threading.Event,
    ) -> None:
        """Do the photos that are left."""
        if all(self._shards.is_whole(shard) for shard in self._numbers):
            for shard in self._numbers:
                self._skip(shard, background, progress)
            return
        try:
            with answers() as answering, CarefulDecoder() as decode:
                row_of = row_maker(self._manifest.header, answering, decode)

                def work(task: tuple[Journal, Item]) -> Row:
                    return row_of(task[1])

                tasks = self._tasks(background, progress)
                with contextlib.closing(in_order(tasks, work, at_once=at_once, stop=stop)) as results:
                    for (journal, _), row in results:
                        background.check()
                        journal.append(row)
                        self.done += 1
                        progress.add(failed=bool(row.code))
                        if journal.is_complete:
                            self._finish(journal, background)
        finally:
            for journal in self._open:
                journal.close()

    def _tasks(self, background: Background, progress: Progress) -> Iterator[tuple[Journal, Item]]:
        """The photos that are not done, with the journals to write them to."""
        size = self._manifest.header.shard_size
        for shard in self._numbers:
            if self._shards.is_whole(shard):
                self._skip(shard, background, progress)
                continue
            journal = self._shards.open(shard, first=shard * size, count=self._size(shard))
            if journal is None:
                if self._shards.is_whole(shard):
                    self._skip(shard, background, progress)
                else:
                    self.busy.append(shard)
                continue
            self._open.append(journal)
            already = journal.done
            self.done += already
            progress.skip(already, failed=journal.failed)
            if journal.is_complete:
                self._finish(journal, background)
                continue
            for offset, item in enumerate(self._manifest.items(shard)):
                if offset >= already:
                    yield journal, item

    def _skip(self, shard: int, background: Background, progress: Progress) -> None:
        self.done += self._size(shard)
        progress.skip(self._size(shard), failed=0)
        background.add(shard)

    def _finish(self, journal: Journal, background: Background) -> None:
        journal.finish()
        self._open.remove(journal)
        background.add(journal.shard)

    def _size(self, shard: int) -> int:
        header = self._manifest.header
        return min(header.shard_size, header.count - shard * header.shard_size)
