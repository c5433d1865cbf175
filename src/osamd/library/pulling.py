"""Pulls in progress: which are allowed, one pull shared by all callers, and its progress."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

from osamd.daemon_thread import on_daemon_thread
from osamd.errors import (
    AdminOnlyError,
    ModelPullingError,
    OsamdError,
    OverloadedError,
    PullForbiddenError,
    ShuttingDownError,
)
from osamd.events import Event, ModelPulled, PullFailed, PullProgress, PullStarted
from osamd.library.catalog import Model
from osamd.library.store import Store

# Concurrent downloads, and pulls that are running or queued.
PULLS_AT_ONCE: Final = 2
MOST_PULLS: Final = 16
LISTENER_CAPACITY: Final = 64
PERCENT: Final = 100


class _Pull:
    """A pull in progress, its latest progress, and its listeners."""

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self.task = task
        self.progress: PullProgress | None = None
        self.listeners: set[asyncio.Queue[PullProgress | None]] = set()

    async def ended(self) -> None:
        """Wait until it has finished and raise its exception; cancelling the wait does not cancel the pull."""
        try:
            await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self.task.cancelled():
                raise ShuttingDownError("the server stopped before the pull was complete") from None
            raise

    def tell(self, progress: PullProgress | None) -> None:
        """Send progress to all listeners; None marks the end. A slow listener loses the oldest updates."""
        self.progress = progress or self.progress
        for listener in self.listeners:
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(progress)


class Pulling:
    """Pulls models into the store. Bound to one event loop; a pull continues even if all callers have gone.

    Args:
        store: receives the files.
        policy: ``never`` forbids pulls.
        allowed: full names of the models that may be pulled; empty allows all.
        wait_s: seconds a request waits for a model before it fails with "try again later".
        emit: receives every event.
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
        self._pulls: dict[str, _Pull] = {}
        self._turns = asyncio.Semaphore(PULLS_AT_ONCE)
        self._stop = threading.Event()

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of the models that are being pulled or queued."""
        return tuple(self._pulls)

    def may_pull(self, model: Model) -> bool:
        """Whether the operator allows this model to be pulled over HTTP."""
        is_allowed = not self._allowed or all(member.name in self._allowed for member in model.members)
        return self._policy == "auto" and is_allowed

    def check_may_pull(self, model: Model) -> None:
        """Raise ``PullForbiddenError`` if the operator forbids pulling this model."""
        if not self.may_pull(model):
            raise PullForbiddenError(
                f"{model.name} may not be pulled over HTTP: OSAMD_PULL or OSAMD_MODELS forbids it", field="model"
            )

    async def check_may_use(self, model: Model) -> None:
        """Raise ``AdminOnlyError`` if the model is neither on disk nor being pulled, and so would need a pull."""
        if not self.may_pull(model) or model.name in self._pulls:
            return
        if not await asyncio.to_thread(self._store.is_present, model):
            raise AdminOnlyError(f"{model.name} is not on this server, and only an admin key may pull", field="model")

    async def bring(self, model: Model, *, is_patient: bool = False) -> None:
        """Return once the model's files are on disk; pull them if allowed.

        Args:
            model: the row.
            is_patient: whether to wait without a time limit.

        Raises:
            ModelUnavailableError: they are missing and may not be pulled.
            ModelPullingError: the pull takes longer than a request may wait.
            OverloadedError: too many models are being pulled.
            ModelError: the pull failed.
        """
        if await asyncio.to_thread(self._store.is_present, model):
            return
        if not self.may_pull(model):
            # Raises, naming the missing blob; on a thread, because it may verify other files.
            await asyncio.to_thread(self._store.paths, model)
            return
        pull = self._join(model)
        try:
            async with asyncio.timeout(None if is_patient else self._wait_s):
                await pull.ended()
        except TimeoutError:
            raise ModelPullingError(f"{model.name} is being pulled{_how_far(pull.progress)}: try again later") from None

    async def follow(self, model: Model) -> AsyncIterator[PullProgress]:
        """Pull a model and yield progress until it has finished. Joins a pull that is already in progress.

        Raises:
            PullForbiddenError: the operator forbids it.
            OverloadedError: too many models are being pulled.
            ModelError: the pull failed.
        """
        self.check_may_pull(model)
        listener: asyncio.Queue[PullProgress | None] = asyncio.Queue(LISTENER_CAPACITY)
        pull = self._join(model)
        pull.listeners.add(listener)
        try:
            while (progress := await listener.get()) is not None:
                yield progress
            await pull.ended()
        finally:
            pull.listeners.discard(listener)

    def stop(self) -> None:
        """Stop all pulls, including later ones; partial downloads are kept."""
        self._stop.set()

    async def close(self, *, patience_s: float | None = None) -> bool:
        """Stop, and wait until all pulls have ended.

        Args:
            patience_s: seconds to wait, e.g. for a source that sends nothing; None waits without limit.

        Returns:
            Whether every pull has ended.
        """
        self.stop()
        tasks = [pull.task for pull in self._pulls.values()]
        if not tasks:
            return True
        # Each pull now ends by itself, and its waiters get ShuttingDownError.
        _, hanging = await asyncio.wait(tasks, timeout=patience_s)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return not hanging

    def _join(self, model: Model) -> _Pull:
        pull = self._pulls.get(model.name)
        if pull is None:
            if self._stop.is_set():
                raise ShuttingDownError("the server is stopping; no models can be pulled")
            if len(self._pulls) >= MOST_PULLS:
                raise OverloadedError(f"limit of {MOST_PULLS} concurrent pulls reached: try again later", field="model")
            pull = _Pull(asyncio.ensure_future(self._pull(model)))
            self._pulls[model.name] = pull
            pull.task.add_done_callback(lambda task: self._end(model, task))
        return pull

    async def _pull(self, model: Model) -> None:
        loop = asyncio.get_running_loop()

        def on_progress(progress: PullProgress) -> None:
            loop.call_soon_threadsafe(self._tell, progress)

        def pull() -> None:
            self._store.pull(model, on_progress, stop=self._stop)

        self._emit(PullStarted(model.name, model.license, model.license_url))
        async with self._turns:
            if self._stop.is_set():
                raise ShuttingDownError("the server stopped before the pull began")
            await asyncio.wrap_future(on_daemon_thread(pull, "osamd-pull"))
        self._emit(ModelPulled(model.name))

    def _tell(self, progress: PullProgress) -> None:
        pull = self._pulls.get(progress.model)
        if pull is not None:
            pull.tell(progress)
        self._emit(progress)

    def _end(self, model: Model, task: "asyncio.Task[None]") -> None:
        pull = self._pulls.pop(model.name, None)
        if pull is not None:
            pull.tell(None)
        if not task.cancelled() and isinstance(task.exception(), OsamdError):
            # Retrieved here, so that asyncio does not report an exception that was never retrieved.
            self._emit(PullFailed(model.name, str(task.exception())))


def _how_far(progress: PullProgress | None) -> str:
    if progress is None or not progress.total:
        return ""
    percent = progress.completed * PERCENT // progress.total
    return f" ({progress.role}: {percent} % of {progress.total:,} bytes)"
