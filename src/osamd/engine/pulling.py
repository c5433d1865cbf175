"""Models on their way here: who may have one pulled, one pull for all who wait, and how far it is."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Literal

from osamd.engine.lanes import Lane
from osamd.errors import AdminOnlyError, ModelPullingError, OsamdError, PullForbiddenError
from osamd.events import Event, ModelPulled, PullFailed, PullProgress, PullStarted
from osamd.library.catalog import Model
from osamd.library.store import Store
from osamd.timings import Timings

PULL_WORKERS = 2
PULL_CAPACITY = 16
LISTENER_CAPACITY = 64
PERCENT = 100


class _Arrival:
    """One pull under way, its last news, and everybody who listens."""

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self.task = task
        self.news: PullProgress | None = None
        self.listeners: set[asyncio.Queue[PullProgress | None]] = set()

    def tell(self, progress: PullProgress | None) -> None:
        """Give news to all listeners; None says that it is over. One that does not listen misses the oldest."""
        self.news = progress or self.news
        for listener in self.listeners:
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(progress)


class Pulling:
    """Pulls models into the store. Belongs to one event loop; a pull goes on when everybody who waited has left.

    Args:
        store: where models come to.
        policy: ``never`` forbids pulls.
        allowed: full names of the models that may be pulled; empty allows all.
        wait_s: seconds a request waits for a model before it is told to come back.
        emit: told about every event.
    """

    def __init__(
        self,
        store: Store,
        *,
        policy: Literal["auto", "never"],
        allowed: frozenset[str],
        wait_s: float,
        emit: Callable[[Event], None],
    ) -> None:
        self._store = store
        self._policy = policy
        self._allowed = allowed
        self._wait_s = wait_s
        self._emit = emit
        self._arrivals: dict[str, _Arrival] = {}
        self._lane = Lane("pull", workers=PULL_WORKERS, capacity=PULL_CAPACITY)
        self._stop = threading.Event()

    @property
    def pulling(self) -> tuple[str, ...]:
        """Full names of the models on their way here."""
        return tuple(self._arrivals)

    def may_pull(self, model: Model) -> bool:
        """Whether the operator lets callers have this model pulled."""
        return self._policy == "auto" and (not self._allowed or model.name in self._allowed)

    def check_may_pull(self, model: Model) -> None:
        """Raise ``PullForbiddenError`` where the operator forbids it."""
        if not self.may_pull(model):
            raise PullForbiddenError(
                f"{model.name} may not be pulled over HTTP: OSAMD_PULL or OSAMD_MODELS forbids it", field="model"
            )

    def check_may_use(self, model: Model) -> None:
        """Raise ``AdminOnlyError`` where somebody who may not pull would have to: it is not here, nor on its way."""
        if self.may_pull(model) and not (model.name in self._arrivals or self._store.is_present(model)):
            raise AdminOnlyError(f"{model.name} is not on this server, and only an admin's key may pull", field="model")

    async def bring(self, model: Model, *, is_patient: bool = False) -> None:
        """Return when the model's files are here; pull them where that is allowed.

        Args:
            model: the row.
            is_patient: whether to wait however long it takes.

        Raises:
            ModelUnavailableError: they are not here and may not be pulled.
            ModelPullingError: they are being pulled, and that takes longer than a request should wait.
            ModelError: pulling them failed.
        """
        if self._store.is_present(model):
            return
        if not self.may_pull(model):
            # Raises, naming the blob that is missing; on a thread, since it may verify others first.
            await asyncio.to_thread(self._store.paths, model)
            return
        arrival = self._start(model)
        try:
            async with asyncio.timeout(None if is_patient else self._wait_s):
                await asyncio.shield(arrival.task)
        except TimeoutError:
            raise ModelPullingError(f"{model.name} is being pulled{_how_far(arrival.news)}: come back") from None

    async def follow(self, model: Model) -> AsyncIterator[PullProgress]:
        """Pull a model and tell how it goes; ends when it is here. Joins a pull that is under way.

        Raises:
            PullForbiddenError: the operator forbids it.
            ModelError: pulling failed.
        """
        self.check_may_pull(model)
        listener: asyncio.Queue[PullProgress | None] = asyncio.Queue(LISTENER_CAPACITY)
        arrival = self._start(model)
        arrival.listeners.add(listener)
        try:
            while (progress := await listener.get()) is not None:
                yield progress
            await asyncio.shield(arrival.task)
        finally:
            arrival.listeners.discard(listener)

    def stop(self) -> None:
        """Have every pull end soon, those that begin later too; what has come is kept for the next time."""
        self._stop.set()

    async def close(self, *, patience_s: float | None = None) -> bool:
        """Stop, and wait until nothing is being pulled.

        Args:
            patience_s: seconds to wait, as for a source that sends nothing; None waits however long it takes.

        Returns:
            Whether every pull has ended.
        """
        self.stop()
        has_ended = await asyncio.to_thread(self._lane.close, patience_s=patience_s)
        tasks = [arrival.task for arrival in self._arrivals.values()]
        if not has_ended:
            for task in tasks:
                task.cancel()
        # Else each ends by itself now, so that whoever waits hears ShuttingDownError.
        await asyncio.gather(*tasks, return_exceptions=True)
        return has_ended

    def _start(self, model: Model) -> _Arrival:
        arrival = self._arrivals.get(model.name)
        if arrival is None:
            arrival = _Arrival(asyncio.ensure_future(self._pull(model)))
            self._arrivals[model.name] = arrival
            arrival.task.add_done_callback(lambda task: self._end(model, task))
        return arrival

    async def _pull(self, model: Model) -> None:
        loop = asyncio.get_running_loop()

        def on_progress(progress: PullProgress) -> None:
            loop.call_soon_threadsafe(self._tell, progress)

        self._emit(PullStarted(model.name, model.license, model.license_url))
        await self._lane.run(lambda: self._store.pull(model, on_progress, stop=self._stop), Timings())
        self._emit(ModelPulled(model.name))

    def _tell(self, progress: PullProgress) -> None:
        arrival = self._arrivals.get(progress.model)
        if arrival is not None:
            arrival.tell(progress)
        self._emit(progress)

    def _end(self, model: Model, task: "asyncio.Task[None]") -> None:
        arrival = self._arrivals.pop(model.name, None)
        if arrival is not None:
            arrival.tell(None)
        if not task.cancelled() and isinstance(task.exception(), OsamdError):
            # Seen here, so that a failure nobody waited for is no unretrieved exception.
            self._emit(PullFailed(model.name, str(task.exception())))


def _how_far(news: PullProgress | None) -> str:
    if news is None or not news.total:
        return ""
    return f" ({news.role}: {news.completed * PERCENT // news.total} % of {news.total:,} bytes)"
