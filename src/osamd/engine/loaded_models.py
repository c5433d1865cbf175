"""The loaded models: a memory budget with least-recently-used eviction."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from osamd.errors import ModelLoadError, OverloadedError
from osamd.keep_alive import PINNED, KeepAlive
from osamd.library.catalog import Model, read_digest
from osamd.models.base import Adapter
from osamd.runtime.container import memory_bytes
from osamd.status import Resident


@dataclass(slots=True, eq=False)
class _Place:
    model: Model
    digest: str
    keep_alive_s: KeepAlive
    nbytes: int = 0
    adapter: Adapter | None = None
    users: int = 0
    # Whether an operator, not a user, decided how long it stays.
    is_operators: bool = False
    used: float = field(default_factory=time.monotonic)
    timer: asyncio.TimerHandle | None = None
    has_room: bool = False
    # Whether it may wait for room without limit.
    is_patient: bool = False
    filling: "asyncio.Task[None] | None" = None


class LoadedModels:
    """The loaded models. Belongs to one event loop.

    A load that has started continues after all its callers have disconnected; otherwise callers with short timeouts
    could keep a large model from ever being loaded.

    Args:
        budget_bytes: maximum total size of the loaded models' files.
        keep_alive_s: how long a model stays loaded unless a request says otherwise.
        load: loads a model, off the event loop.
        measure: the size of a model's files in bytes.
        unloaded: called after a model was unloaded.
        wait_s: seconds for which a model that does not fit waits for the models in use.
        preloaded: whether the operator preloads this model.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        keep_alive_s: KeepAlive,
        load: Callable[[Model], Awaitable[Adapter]],
        measure: Callable[[Model], int],
        unloaded: Callable[[Model], None],
        wait_s: float,
        preloaded: Callable[[Model], bool] = lambda _: False,
    ) -> None:
        self._budget_bytes = budget_bytes
        self._keep_alive_s = keep_alive_s
        self._load = load
        self._measure = measure
        self._unloaded = unloaded
        self._wait_s = wait_s
        self._preloaded = preloaded
        self._places: dict[str, _Place] = {}
        self._is_loading = False
        # Those to be loaded, in the order they came.
        self._waiting: list[_Place] = []
        self._changed = asyncio.Event()

    def residents(self) -> list[Resident]:
        """The loaded models, the most recently used first."""
        places = [place for place in self._places.values() if place.adapter is not None]
        places.sort(key=lambda place: -place.used)
        return [self._resident(place) for place in places]

    async def is_loaded(self, model: Model) -> bool:
        """Whether the model is loaded from its current files."""
        place = self._places.get(model.name)
        return place is not None and place.adapter is not None and place.digest == await read_digest(model)

    def is_current(self, model: Model, adapter: Adapter, *, digest: str) -> bool:
        """Whether this is the model's current adapter, loaded from the files with this digest."""
        place = self._places.get(model.name)
        return place is not None and place.adapter is adapter and place.digest == digest

    def users(self, model: Model) -> int:
        """Number of callers using the model or waiting for it."""
        place = self._places.get(model.name)
        return 0 if place is None else place.users

    @contextlib.asynccontextmanager
    async def using(
        self,
        model: Model,
        *,
        keep_alive_s: KeepAlive = None,
        by_operator: bool = True,
        is_patient: bool = False,
    ) -> AsyncIterator[Adapter]:
        """The model's adapter, loaded if necessary; it stays loaded at least for the duration of the block.

        Args:
            model: the model's catalogue row.
            keep_alive_s: how long it stays loaded after the block; None leaves that unchanged.
            by_operator: whether the caller is an operator. A user's ``keep_alive_s`` is ignored for a model that is
                preloaded or whose ``keep_alive`` an operator set.
            is_patient: whether to wait for room without limit.

        Raises:
            ModelError: it could not be loaded.
            OverloadedError: pinned models leave no room for it, or those in use left none for too long.
        """
        place = self._claim(model, await read_digest(model))
        if is_patient and not place.is_patient:
            place.is_patient = True
            self._changed.set()
        try:
            if place.filling is None:
                raise RuntimeError("a place is filled as soon as it is made")
            await asyncio.shield(place.filling)
            if place.adapter is None:
                raise RuntimeError("a place that is filled has a model")
            yield place.adapter
        finally:
            self._leave(place, keep_alive_s, by_operator=by_operator)

    def unload(self, model: Model) -> bool:
        """Unload a model now, or once its last request is done; False if it is not loaded."""
        place = self._places.get(model.name)
        if place is None:
            return False
        place.keep_alive_s = 0.0
        self._schedule(place)
        return True

    def unload_idle(self) -> list[str]:
        """Unload every model that is neither in use nor pinned; returns their names."""
        idle = [
            place
            for place in self._places.values()
            if place.adapter is not None and not place.users and place.keep_alive_s != PINNED
        ]
        for place in idle:
            self._drop(place)
        return [place.model.name for place in idle]

    async def close(self) -> None:
        """Unload all models and cancel loads in progress."""
        places = list(self._places.values())
        filling = [place.filling for place in places if place.filling is not None and not place.filling.done()]
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
        for place in places:
            self._drop(place)

    def _claim(self, model: Model, digest: str) -> _Place:
        """The model's place, possibly still empty; counts the caller as a user, so that it is not evicted."""
        place = self._places.get(model.name)
        if place is not None and place.digest != digest:
            # Its file has changed. Current users keep the old model.
            self._drop(place)
            place = None
        if place is None:
            is_operators = self._keep_alive_s == PINNED or self._preloaded(model)
            place = _Place(model, digest, self._keep_alive_s, is_operators=is_operators)
            self._places[model.name] = place
            place.filling = asyncio.ensure_future(self._fill(place))
            place.filling.add_done_callback(_see_failure)
        place.users += 1
        _stop_timer(place)
        return place

    def _leave(self, place: _Place, keep_alive_s: KeepAlive, *, by_operator: bool) -> None:
        place.users -= 1
        place.used = time.monotonic()
        if keep_alive_s is not None and (by_operator or not place.is_operators):
            place.keep_alive_s = keep_alive_s
            place.is_operators = by_operator
        if not place.users and not place.has_room and place.filling is not None:
            # No callers are left, and the load has not started.
            self._forget(place)
            place.filling.cancel()
        self._schedule(place)
        self._changed.set()

    async def _fill(self, place: _Place) -> None:
        try:
            place.nbytes = self._measured(place.model)
            await self._take_turn(place)
            try:
                place.adapter = await self._load(place.model)
            finally:
                self._is_loading = False
                self._changed.set()
            if place.digest != await read_digest(place.model):
                # Its file changed during the load, so it is unknown which one was read: the next caller reloads it.
                place.digest = ""
        except BaseException:
            self._forget(place)
            raise
        self._schedule(place)

    def _measured(self, model: Model) -> int:
        nbytes = self._measure(model)
        if nbytes > self._budget_bytes:
            raise ModelLoadError(
                f"{model.name} needs {nbytes:,} bytes; OSAMD_MODEL_MEMORY_BYTES allows {self._budget_bytes:,}"
            )
        return nbytes

    async def _take_turn(self, place: _Place) -> None:
        """Wait until this model fits and no other is being loaded, and take the room; the load must follow.

        One load at a time: two at once would need room for both and compete for the cores. Of those waiting, the first
        that fits is next, so a large one does not hold up small ones while it waits for models in use.
        """
        self._waiting.append(place)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                while not self._is_next(place):
                    must_wait = self._must_wait_for_room(place)
                    if place.is_patient:
                        limit.reschedule(None)
                    elif must_wait and limit.when() is None:
                        limit.reschedule(loop.time() + self._wait_s)
                    self._changed.clear()
                    await self._changed.wait()
            # No await from here on, so that nobody else counts the same room.
            for idle in self._to_evict(place) or ():
                self._drop(idle)
            place.has_room = self._is_loading = True
        except TimeoutError:
            raise OverloadedError(
                f"no memory became free for {place.model.name} within {self._wait_s:g} s, because other models are in"
                " use or being loaded: try again later, or have OSAMD_MODEL_MEMORY_BYTES raised"
            ) from None
        finally:
            self._waiting.remove(place)
            self._changed.set()

    def _is_next(self, place: _Place) -> bool:
        if self._is_loading:
            return False
        return place is next((waiting for waiting in self._waiting if self._to_evict(waiting) is not None), None)

    def _must_wait_for_room(self, place: _Place) -> bool:
        """Whether only the end of other requests can make room for this model.

        Raises:
            OverloadedError: not even that can.
        """
        if self._is_loading or self._to_evict(place) is not None:
            return False
        if all(self._is_idle(held) for held in self._held()):
            raise OverloadedError(f"no memory left for {place.model.name}: pinned models (keep_alive -1) hold it")
        return True

    def _to_evict(self, place: _Place) -> list[_Place] | None:
        """The least recently used idle models whose room this one needs; None if they would not suffice."""
        held = self._held()
        missing = sum(other.nbytes for other in held) + place.nbytes - self._budget_bytes
        idle = [other for other in held if self._is_idle(other) and other.keep_alive_s != PINNED]
        idle.sort(key=lambda other: other.used)
        evicted = []
        while missing > 0 and idle:
            evicted.append(idle.pop(0))
            missing -= evicted[-1].nbytes
        return evicted if missing <= 0 else None

    def _held(self) -> list[_Place]:
        return [place for place in self._places.values() if place.has_room]

    def _is_idle(self, place: _Place) -> bool:
        return not place.users and place.adapter is not None

    def _schedule(self, place: _Place) -> None:
        """Schedule the unloading of an idle model."""
        if place.users or place.adapter is None or self._places.get(place.model.name) is not place:
            return
        _stop_timer(place)
        if place.keep_alive_s == 0.0:
            self._drop(place)
        elif place.keep_alive_s is not None and place.keep_alive_s != PINNED:
            loop = asyncio.get_running_loop()
            place.timer = loop.call_later(place.keep_alive_s, self._drop, place)

    def _drop(self, place: _Place) -> None:
        """Unload a model. Its memory is freed with the last reference to its adapter, which a user may hold."""
        if self._forget(place) and place.adapter is not None:
            self._unloaded(place.model)

    def _forget(self, place: _Place) -> bool:
        _stop_timer(place)
        self._changed.set()
        if self._places.get(place.model.name) is not place:
            return False
        del self._places[place.model.name]
        return True

    def _resident(self, place: _Place) -> Resident:
        left = place.keep_alive_s
        if place.timer is not None:
            left = max(0.0, place.timer.when() - asyncio.get_running_loop().time())
        return Resident(
            model=place.model,
            device=place.adapter.device if place.adapter is not None else "",
            nbytes=place.nbytes,
            expires_in_s=left,
        )


def _stop_timer(place: _Place) -> None:
    if place.timer is not None:
        place.timer.cancel()
        place.timer = None


def _see_failure(filling: "asyncio.Task[None]") -> None:
    """Mark a failure as retrieved, even if no caller is left to receive it."""
    if not filling.cancelled():
        filling.exception()


def half_of_memory() -> int:
    """Half of the memory available to this process, in bytes: the container's limit or the machine's memory."""
    return memory_bytes() // 2
