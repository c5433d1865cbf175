"""The shards of ``osamd batch`` on Ray: each actor holds the model and does one shard at a time.

Actors and this process share the output folder and nothing else, so what is done is found again whoever is killed.
"""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from osamd.cluster.batch_ray import check_room, connected, is_this_machine, placement_for
from osamd.dataset.answers import RowMaker
from osamd.dataset.local import Machine, local_answers
from osamd.dataset.manifest import NAME, Manifest
from osamd.dataset.plan import STATE, Header, Item
from osamd.dataset.rows import Row
from osamd.dataset.shards import Shards
from osamd.dataset.urls import Place
from osamd.dataset.work import Work
from osamd.errors import InvalidRequestError, OsamdError, UnreachableError
from osamd.pixels.careful_decoder import CarefulDecoder

# How often this process checks whether it has been asked to stop.
POLL_S: Final = 0.2
# A shard whose actors die this often is not tried again.
MOST_DEATHS: Final = 3
# A dead actor's lock on a shard may outlive it on a network file system.
LOCK_PATIENCE_S: Final = 120.0
LOCK_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Done:
    """What an actor has done of a shard.

    Attributes:
        before: photos that were done already.
        now: photos that it did.
        failed: those of them that failed.
        is_busy: whether another process has the shard.
        error: what stops the run, or None.
    """

    before: int = 0
    now: int = 0
    failed: int = 0
    is_busy: bool = False
    error: OsamdError | OSError | None = None


class ShardActor:
    """Runs on Ray. Two calls at a time: ``work``, and ``stop`` beside it.

    Args:
        out: the output folder, absolute.
        header: of the run.
        machine: where the model runs.
        at_once: photos in hand.
    """

    def __init__(self, out: Place, header: Header, *, machine: Machine, at_once: int) -> None:
        self._out = out
        self._header = header
        self._machine = machine
        self._at_once = at_once
        self._stop = threading.Event()
        self._opened = contextlib.ExitStack()
        self._manifest: Manifest | None = None
        self._row_of: Any = None

    def open(self) -> Done:
        """Load the model."""
        try:
            path = self._out / STATE / NAME
            if not path.exists():
                raise InvalidRequestError(
                    f"{self._out} is not shared with a worker's machine: all must have it, and the photos, at one path"
                )
            self._manifest = Manifest(path)
            if self._manifest.header != self._header:
                raise InvalidRequestError(f"a worker sees another run in {self._out}: all machines must share it")
            answers = self._opened.enter_context(local_answers(self._header, self._machine))
            decode = self._opened.enter_context(CarefulDecoder())
            self._row_of = RowMaker(self._header, answers, decode)
        except (OsamdError, OSError) as error:
            return Done(error=error)
        return Done()

    def work(self, shard: int) -> Done:
        """Do what is left of a shard."""
        if self._manifest is None:
            raise RuntimeError("open was not called")
        counted = _Counted()
        shards = Shards(self._out / STATE / "shards")
        work = Work(self._manifest, shards, [shard], progress=counted, outputs=_NoOutputs())
        error: OsamdError | OSError | None = None
        try:
            work.go(self._row, at_once=self._at_once, stop=self._stop)
        except (OsamdError, OSError) as raised:
            error = raised
        return Done(counted.before, counted.now, counted.failed, is_busy=bool(work.busy), error=error)

    def stop(self) -> None:
        """Finish the photos in hand, and begin no others."""
        self._stop.set()

    def _row(self, item: Item) -> Row:
        row: Row = self._row_of(item)
        return row


@dataclass(slots=True)
class _Counted:
    """Counts for the process that asked."""

    before: int = 0
    now: int = 0
    failed: int = 0

    def add(self, count: int = 1, *, failed: int) -> None:
        """Photos that have been done now."""
        self.now += count
        self.failed += failed

    def skip(self, count: int, *, failed: int) -> None:  # noqa: ARG002 - those have been told before
        """Photos that were done before."""
        self.before += count


class _NoOutputs:
    """The outputs are written by the process that asked."""

    def add(self, value: int) -> None:
        """A shard is whole."""

    def check(self) -> None:
        """Nothing stops an actor."""


class OnRay:
    """Actors on Ray do the work; see ``osamd.dataset.work.Workers``.

    Args:
        address: ``ray`` for this machine, or the cluster in ``RAY_ADDRESS``; or ``ray://HOST:PORT``.
        out: the output folder.
        count: of actors; None means one for each GPU, or as many as the cores allow.
        machine: where an actor's model runs.
        at_once: photos that an actor has in hand.
        tell: told what takes long.
        prepare: called before actors start on this machine, such as to pull the model and say so; on others, each
            pulls it.
    """

    def __init__(
        self,
        address: str,
        out: Place,
        *,
        count: int | None,
        machine: Machine,
        at_once: int,
        tell: Callable[[str], None],
        prepare: Callable[[], None],
    ) -> None:
        self._address = address
        self._out = out.absolute()
        self._count = count
        self._machine = machine
        self._at_once = at_once
        self._tell = tell
        self._prepare = prepare

    def __call__(self, work: Work, *, stop: threading.Event) -> None:
        """See ``Workers``."""
        with self.started(work.header) as crew:
            crew.do(work, stop=stop)

    @contextlib.contextmanager
    def started(self, header: Header) -> "Iterator[Crew]":
        """Actors that load the model, and end with the block.

        Raises:
            UnreachableError: Ray did not start, or the connection to it was lost.
            InvalidRequestError: workers need a GPU, and this machine has none.
        """
        is_here = is_this_machine(self._address)
        if is_here:
            self._prepare()
        with connected(self._address, count=self._count, threads=self._machine.threads, tell=self._tell) as ray:
            place = placement_for(ray, count=self._count, machine=self._machine)
            check_room(ray, place, is_here=is_here, tell=self._tell)
            # At least two calls at a time, so that ``stop`` is heard during ``work``.
            actor = ray.remote(ShardActor).options(
                num_cpus=place.threads, num_gpus=place.gpus, max_concurrency=2, max_restarts=0
            )
            machine = replace(self._machine, threads=place.threads)

            def start() -> Any:
                return actor.remote(self._out, header, machine=machine, at_once=self._at_once)

            crew = Crew(ray, start, self._tell)
            try:
                for _ in range(min(place.count, header.shard_count)):
                    crew.add()
                yield crew
            finally:
                crew.end()


class Crew:
    """Running actors, and what each is doing.

    Args:
        ray: the module.
        start: starts an actor.
        tell: told what takes long.
    """

    def __init__(self, ray: Any, start: Callable[[], Any], tell: Callable[[str], None]) -> None:
        self._ray = ray
        self._start = start
        self._tell = tell
        self._idle: deque[Any] = deque()
        # By the reference of its answer: the actor, and its shard; None while it loads the model.
        self._asked: dict[Any, tuple[Any, int | None]] = {}
        self._deaths: Counter[int | None] = Counter()

    def add(self) -> None:
        """Start an actor."""
        actor = self._start()
        self._asked[actor.open.remote()] = actor, None

    def do(self, work: Work, *, stop: threading.Event) -> None:
        """See ``Workers``."""
        waiting = deque(work.left())
        is_told, until = False, 0.0
        while not stop.is_set() or self._is_working:
            while waiting and self._idle and not stop.is_set():
                self._give(self._idle.popleft(), waiting.popleft())
            if not waiting and not self._is_working:
                until = until or time.monotonic() + LOCK_PATIENCE_S
                if not work.busy or time.monotonic() > until:
                    break
                stop.wait(LOCK_POLL_S)
                waiting.extend(work.busy)
                work.busy.clear()
                continue
            for actor, shard, done in self._answers():
                if done is None:
                    waiting.extendleft([] if shard is None else [shard])
                    continue
                self._idle.append(actor)
                # Three in a row mean that it cannot be loaded; some in a long run, that machines come and go.
                if shard is None:
                    self._deaths.pop(None, None)
                self._count(work, shard, done)
            if stop.is_set() and not is_told:
                is_told = True
                for actor, _ in self._asked.values():
                    actor.stop.remote()
            work.check()

    @staticmethod
    def _count(work: Work, shard: int | None, done: Done) -> None:
        if shard is not None and done.is_busy and not work.is_whole(shard):
            work.busy.append(shard)
        elif shard is not None and done.is_busy:
            work.add_whole(shard)
        elif shard is not None:
            work.add_done(shard, before=done.before, now=done.now, failed=done.failed)
        if done.error is not None:
            raise done.error

    def end(self) -> None:
        """End all actors."""
        for actor in [*self._idle, *(actor for actor, _ in self._asked.values())]:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)

    @property
    def _is_working(self) -> bool:
        return any(shard is not None for _, shard in self._asked.values())

    def _give(self, actor: Any, shard: int) -> None:
        self._asked[actor.work.remote(shard)] = actor, shard

    def _answers(self) -> Iterator[tuple[Any, int | None, Done | None]]:
        """The actors that have answered, with their shards; those that died with None, and others in their place."""
        ready, _ = self._ray.wait(list(self._asked), timeout=POLL_S)
        for reference in ready:
            actor, shard = self._asked.pop(reference)
            try:
                done = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                self._replace(actor, shard, error)
                done = None
            yield actor, shard, done

    def _replace(self, actor: Any, shard: int | None, error: Exception) -> None:
        with contextlib.suppress(Exception):
            # It may only have been out of reach.
            self._ray.kill(actor)
        self._deaths[shard] += 1
        if self._deaths[shard] == MOST_DEATHS:
            when = "loading the model" if shard is None else f"in shard {shard}"
            raise UnreachableError(f"{MOST_DEATHS} workers died {when}, possibly for lack of memory: {error}")
        self._tell("a worker died; another one continues where it stopped")
        self.add()
