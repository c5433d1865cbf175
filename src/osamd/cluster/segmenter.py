"""``SegmenterService``: an engine and all that writes its replies, behind plain methods. No HTTP, no keys, no Ray."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from importlib import import_module
from typing import Any, Final, TypeVar

from osamd.cluster.configuration import CONTENT_BYTES
from osamd.cluster.outcomes import Files, Grant, Outcome, Part
from osamd.cluster.wire_errors import from_wire, to_wire
from osamd.engine import Engine
from osamd.errors import InvalidPromptError, ModelError, OsamdError
from osamd.events import Sink, log_event, tell
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model
from osamd.runtime.nvidia import device_memory
from osamd.segment_requests import ImageHandle
from osamd.server.answers import Caller, Context
from osamd.server.app import local_answers
from osamd.server.asks import Ask, Content, Write, WriteLines
from osamd.server.deadline import deadline
from osamd.server.guard.memory_budget import MemoryBudget
from osamd.server.pools import Pools
from osamd.server.telemetry.metrics import Metrics
from osamd.settings import Settings
from osamd.status import EngineStatus, State
from osamd.timings import Timings

logger = logging.getLogger("osamd")

How = TypeVar("How")
Value = TypeVar("Value")

# Imported before the first request, which would wait for them.
FIRST_NEEDED: Final = ("numpy", "osamd.server.routes.generate")
LEFTOVERS_S: Final = 1.0
INTERNAL: Final = 500


class SegmenterService:
    """Answers edges. Belongs to one event loop.

    Methods that edges call return an ``Outcome`` and raise only when they are cancelled. Each gives the name of a key,
    which owns embeddings; the edge has checked the key.

    Args:
        settings: limits and policies; those of HTTP and of keys are the edge's.
        engine: built from the settings when None.
        sinks: receive every event; the log when empty.
    """

    def __init__(self, settings: Settings, *, engine: Engine | None = None, sinks: Sequence[Sink] = ()) -> None:
        self._settings = settings
        self._metrics = Metrics()
        sinks = (*(sinks or (log_event,)), self._metrics)
        self._pools = Pools(settings, emit=functools.partial(tell, sinks))
        self._memory = MemoryBudget(settings.mask_memory_bytes, wait_s=settings.queue_wait_s)
        self._answers = local_answers(settings, engine, sinks, self._pools)

    @property
    def state(self) -> State:
        """The engine's state; ``stuck`` if only a restart helps."""
        state = self._answers.state
        return "stuck" if self._pools.is_stuck and state != "stopping" else state

    async def start(self) -> None:
        """Load the configured models; it is ready when this returns.

        Raises:
            OsamdError: a model could not be loaded; the others have been.
        """
        await self._answers.start()
        for name in FIRST_NEEDED:
            await asyncio.to_thread(import_module, name)
        await asyncio.to_thread(self._metrics.load)
        await self._answers.preload()

    async def check_health(self) -> None:
        """Raise if only a restart helps."""
        if self.state == "stuck":
            raise RuntimeError("too many computations hang")

    async def segment(
        self, ask: Ask[How], image: ImageSource, caller: Caller, grant: Grant, write: Write[How]
    ) -> Outcome[Content]:
        """Segment and write the reply; arguments as for ``Answers.segment``."""

        async def work(context: Context) -> Content:
            content = await self._answers.segment(ask, image, context, write)
            _check_size(sum(map(len, content.pieces)))
            return content

        return await self._call(caller, grant, work)

    async def stream(
        self, ask: Ask[How], image: ImageSource, caller: Caller, grant: Grant, write_lines: WriteLines[How]
    ) -> AsyncIterator[Mapping[str, str] | bytes | Outcome[None]]:
        """The items of ``Answers.stream``, and last an outcome."""
        context, allowance = self._context(caller, grant)
        error: Exception | None = None
        try:
            async with (
                deadline(self._settings.deadline_s),
                aclosing(self._answers.stream(ask, image, context, write_lines)) as items,
            ):
                async for item in items:
                    if isinstance(item, bytes):
                        _check_size(len(item))
                    yield item
        except Exception as raised:  # noqa: BLE001 - becomes the outcome
            error = raised
        finally:
            context.holding.close()
        yield _outcome(None, error, context.timings, allowance)

    async def embed(self, image: ImageSource, model: str | None, caller: Caller, grant: Grant) -> Outcome[ImageHandle]:
        """Encode an image; arguments as for ``Answers.embed``."""
        return await self._call(caller, grant, lambda context: self._answers.embed(image, model, context))

    async def forget(self, image_id: str, caller: Caller) -> Outcome[None]:
        """Delete an image of this caller."""
        return await self._call(caller, Grant(), lambda _: self._answers.forget(image_id, caller.name))

    async def check_may_use(self, model: str, caller: Caller) -> Outcome[None]:
        """See ``Answers.check_may_use``."""
        return await self._call(caller, Grant(), lambda _: self._answers.check_may_use(self._named(model), caller))

    async def remove(self, model: str, caller: Caller) -> Outcome[None]:
        """Delete a model's files and unload it."""
        return await self._call(caller, Grant(), lambda _: self._answers.remove(self._named(model)))

    async def pull(self, model: str) -> AsyncIterator[Any]:
        """Progress of a pull, and last an outcome."""
        error: Exception | None = None
        timings = Timings()
        try:
            async for progress in self._answers.pull(self._named(model)):
                yield progress
        except Exception as raised:  # noqa: BLE001 - becomes the outcome
            error = raised
        yield _outcome(None, error, timings, _Allowance(Grant()))

    async def part(self) -> Part:
        """Its state and the models it has, for the lists of models."""
        return Part(await self._status(), await asyncio.to_thread(self._files))

    async def metrics(self) -> bytes:
        """Its metrics in Prometheus' text format."""
        status = await self._status()
        return await asyncio.to_thread(lambda: self._metrics.render(status, device_memory()))

    async def close(self) -> bool:
        """Finish running jobs and stop; whether everything has ended."""
        have_ended = await asyncio.gather(
            self._answers.close(patience_s=LEFTOVERS_S), self._pools.close(patience_s=LEFTOVERS_S)
        )
        return all(have_ended)

    async def _status(self) -> EngineStatus:
        status = await self._answers.status()
        return replace(
            status,
            state=self.state,
            lanes=(*status.lanes, *self._pools.status()),
            masks=self._memory.status(),
        )

    async def _call(self, caller: Caller, grant: Grant, work: Callable[[Context], Awaitable[Value]]) -> Outcome[Value]:
        context, allowance = self._context(caller, grant)
        value, error = None, None
        try:
            # An edge that died does not cancel what it asked for.
            async with deadline(self._settings.deadline_s):
                value = await work(context)
        except Exception as raised:  # noqa: BLE001 - becomes the outcome
            error = raised
        finally:
            context.holding.close()
        return _outcome(value, error, context.timings, allowance)

    def _context(self, caller: Caller, grant: Grant) -> "tuple[Context, _Allowance]":
        allowance = _Allowance(grant)
        return Context(caller, Timings(), self._memory.open(caller.name), allowance), allowance

    def _named(self, name: str) -> Model:
        return self._answers.library.resolve(name)

    def _files(self) -> Mapping[str, Files]:
        library, found = self._answers.library, {}
        for model in library.catalog:
            if library.store.is_present(model):
                found[model.name] = Files(library.store.size(model), library.store.modified(model))
        return found


class _Allowance:
    """The tokens of a grant, and how many were used."""

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.used = 0

    def take(self, name: str) -> None:
        """Use a token; raises the edge's refusal if none is left."""
        del name
        if self.used >= self.grant.encodes and self.grant.refusal is not None:
            raise from_wire(self.grant.refusal)
        self.used += 1

    def give_back(self, name: str) -> None:
        """Return a token."""
        del name
        self.used -= 1


def _check_size(nbytes: int) -> None:
    """Raise if a reply, or a line of one, is too large for a message to the edge."""
    if nbytes > CONTENT_BYTES:
        raise InvalidPromptError(
            f"the reply is {nbytes / 1e6:.0f} MB, but a cluster sends at most {CONTENT_BYTES / 1e6:.0f} MB:"
            " ask for fewer masks, or for masks as png or rle"
        )


def _outcome(value: Value | None, error: Exception | None, timings: Timings, allowance: _Allowance) -> Outcome[Value]:
    request_id = allowance.grant.request_id
    is_bug = error is not None and not isinstance(error, OsamdError)
    # Tracebacks do not travel; the edge logs the rest.
    if is_bug or (isinstance(error, ModelError) and error.status == INTERNAL):
        message = "unexpected error" if is_bug else "the model failed"
        logger.error(message, exc_info=error, extra={"request_id": request_id})
    begun = timings.begun()
    return Outcome(
        value=value,
        error=to_wire(error) if isinstance(error, OsamdError) else None,
        is_bug=is_bug,
        model=timings.model,
        stages={stage: (seconds, begun[stage]) for stage, seconds in timings.seconds().items()},
        total_s=timings.total(),
        encodes=allowance.used,
    )
