"""Segmenters in this process, reached by a handle that pickles everything both ways, as Ray does."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from osamd.cluster.gathering import Gathered, gathered, together
from osamd.cluster.handle import Call, Stream, busy, lost
from osamd.cluster.segmenter import SegmenterService
from osamd.errors import OsamdError


class DeadError(Exception):
    """The Segmenter died during a call."""


class FullError(Exception):
    """The queue of a model's Segmenters is full."""


@dataclass
class FakeHandle:
    """A handle to Segmenters here; images are spread over them by their key.

    Attributes:
        segmenters: the Segmenters, by label.
        is_starting: whether calls wait for a Segmenter that never starts.
        hung: labels of Segmenters that do not answer when all are asked.
        absent: models that have no Segmenter and should have one.
        sent: what travelled to Segmenters, as the method's name and the bytes of its arguments.
        asked: labels of the Segmenters that were asked, in order.
        fails: raised by the next calls, the first first.
        cancelled: how many calls were cancelled by their caller.
        dies_after: items after which a stream's Segmenter dies; None for never.
    """

    segmenters: Mapping[str, SegmenterService]
    is_starting: bool = False
    hung: Collection[str] = ()
    absent: Collection[str] = ()
    sent: list[tuple[str, int]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)
    cancelled: int = 0
    dies_after: int | None = None

    def call(self, model: str, key: str, method: str, *args: Any) -> Call:
        """Call a Segmenter in a task of its own, which goes on if only its waiter is cancelled."""
        del model
        return _FakeCall(self, self._chosen(key), method, self._travelled(method, args))

    def stream(self, model: str, key: str, method: str, *args: Any) -> Stream:
        """The same for items."""
        del model
        return _FakeStream(self, self._chosen(key), method, self._travelled(method, args))

    async def everywhere(self, method: str, *args: Any, model: str | None = None) -> Gathered:
        """Call all of them, which here are of one model."""
        del model
        arguments = self._travelled(method, args)

        async def ask(label: str) -> tuple[str, Any]:
            if label in self.hung:
                await asyncio.Event().wait()
            return label, again(await getattr(self.segmenters[label], method)(*arguments))

        # All that are not hung are waited for.
        answering = [label for label in self.segmenters if label not in self.hung]
        found = await gathered(map(ask, answering), within_s=60.0)
        return together([found, await gathered(map(ask, self.hung), within_s=0.01)])

    async def missing(self) -> Collection[str]:
        """As the test says."""
        return self.absent

    def failure(self, error: Exception) -> OsamdError | None:
        """The test's exceptions as Ray's."""
        if isinstance(error, FullError):
            return busy(3.0)
        return lost() if isinstance(error, DeadError) else None

    def bytes_sent(self, *methods: str) -> list[int]:
        """Bytes of the calls of some methods so far."""
        return [nbytes for method, nbytes in self.sent if method in methods]

    def fail(self) -> None:
        """Raise what the test wants to happen next."""
        if self.fails:
            raise self.fails.pop(0)

    def survive(self, items: int) -> None:
        """Die, if the test wants that after so many items."""
        if items == self.dies_after:
            raise DeadError

    def _chosen(self, key: str) -> SegmenterService:
        labels = sorted(self.segmenters)
        label = labels[sum(key.encode()) % len(labels)]
        self.asked.append(label)
        return self.segmenters[label]

    def _travelled(self, method: str, args: Sequence[Any]) -> tuple[Any, ...]:
        pickled = pickle.dumps(args)
        self.sent.append((method, len(pickled)))
        arrived: tuple[Any, ...] = pickle.loads(pickled)  # noqa: S301 - our own
        return arrived


class _FakeCall:
    def __init__(self, handle: FakeHandle, segmenter: SegmenterService, method: str, args: tuple[Any, ...]) -> None:
        self._handle = handle

        async def run() -> Any:
            handle.fail()
            if handle.is_starting:
                await asyncio.Event().wait()
            return again(await getattr(segmenter, method)(*args))

        self._task = asyncio.ensure_future(run())

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.shield(self._task).__await__()

    def cancel(self) -> None:
        self._handle.cancelled += 1
        self._task.cancel()


class _FakeStream:
    def __init__(self, handle: FakeHandle, segmenter: SegmenterService, method: str, args: tuple[Any, ...]) -> None:
        self._handle = handle
        self._items: asyncio.Queue[Any] = asyncio.Queue()

        async def run() -> None:
            try:
                handle.fail()
                count = 0
                async for item in getattr(segmenter, method)(*args):
                    handle.survive(count)
                    self._items.put_nowait(again(item))
                    count += 1
                self._items.put_nowait(StopAsyncIteration())
            except Exception as error:  # noqa: BLE001 - for whoever iterates
                self._items.put_nowait(error)

        self._task = asyncio.ensure_future(run())

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self) -> None:
        self._handle.cancelled += 1
        self._task.cancel()


def again(value: Any) -> Any:
    """A value after it has travelled."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own
