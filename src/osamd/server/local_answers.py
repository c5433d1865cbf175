"""``LocalAnswers``: answers with an engine in this process."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Final, TypeVar

from osamd.engine import Engine
from osamd.engine.admit import Admit
from osamd.engine.everything import Begun, collect
from osamd.errors import AdminOnlyError
from osamd.events import PullProgress
from osamd.image_sources import ImageSource
from osamd.keep_alive import PINNED, KeepAlive, at_most
from osamd.library.catalog import Model
from osamd.library.shelf import Shelf
from osamd.pixels.decoder import Decoder
from osamd.segment_requests import ImageHandle, SegmentRequest, SegmentResult
from osamd.server.answers import Caller, Context
from osamd.server.asks import Ask, Content, Write, WriteLines
from osamd.server.pools import Pools
from osamd.settings import Settings
from osamd.status import EngineStatus, State
from osamd.timings import Timings
from osamd.wire.json_pieces import Room
from osamd.wire.replies import license_header, notes_header

logger = logging.getLogger("osamd")

How = TypeVar("How")
Written = TypeVar("Written")

# A reply with a few objects needs no more memory than this beside its masks.
SMALL_REPLY_BYTES: Final = 64 * 1024
NEEDED_LATER: Final = ("osamd.pixels.masks", "PIL.Image")


class LocalAnswers:
    """An engine, the threads that write its replies, and the processes that decode its images.

    Args:
        settings: limits and policies.
        engine: segments images.
        decoder: the processes that decode the engine's images; None if it decodes them itself.
        pools: threads that write replies; closed by their owner.

    Attributes:
        library: the engine's.
        label: empty: there are no other processes.
    """

    label = ""

    def __init__(self, settings: Settings, *, engine: Engine, decoder: Decoder | None, pools: Pools) -> None:
        self._settings = settings
        self._engine = engine
        self._decoder = decoder
        self._pools = pools
        self.library = engine.library

    @property
    def state(self) -> State:
        """The engine's state; ``loading`` while no image can be decoded."""
        state = self._engine.state
        is_decoding = self._decoder is None or self._decoder.problem is None
        return state if is_decoding or state != "ready" else "loading"

    async def status(self) -> EngineStatus:
        """The engine's status, with this state."""
        return replace(self._engine.status(), state=self.state)

    async def readiness(self) -> EngineStatus:
        """The status: there are no other processes.

        While no image can be decoded, this tries again: a server that is not ready gets no request that would do so.
        """
        if self._decoder is not None and self._decoder.problem is not None:
            await asyncio.to_thread(self._decoder.start)
        return await self.status()

    async def shelf(self) -> Shelf:
        """The library's store."""
        return self.library.store

    async def metrics(self) -> Mapping[str, bytes]:
        """None: there are no other processes."""
        return {}

    def check_room(self, owner: str) -> None:
        """See ``Answers.check_room``."""
        self._engine.check_room(owner)

    async def check_may_use(self, model: Model, caller: Caller) -> None:
        """See ``Answers.check_may_use``."""
        # A loaded model needs no pull, so clicks do not access the disk, which may be a network volume.
        loaded = {resident.model.name for resident in self._engine.residents}
        if not caller.is_admin and any(member.name not in loaded for member in model.members):
            await self.library.pulls.check_may_use(model)

    async def segment(self, ask: Ask[How], image: ImageSource, context: Context, write: Write[How]) -> Content:
        """See ``Answers.segment``."""
        timings, holding = context.timings, context.holding
        wanted = _segment_request(ask, image, context.caller, self._settings)
        admit = self._admit(context)
        if ask.everything is None:
            result = await self._engine.segment(wanted, timings, admit=admit)
        else:
            updates = self._engine.everything(wanted, ask.everything, timings, are_kept=True, admit=admit)
            result = await collect(updates, with_embedding=ask.with_embedding)

        held = sum(item.mask.inside.nbytes for item in result.annotations if item.mask is not None)
        # Masks are reserved at image size. Most are far smaller, and written as PNG or RLE they take no more again.
        held += 0 if result.pixels is None else result.pixels.nbytes
        holding.shrink(SMALL_REPLY_BYTES + 2 * held)
        content = await self._write(functools.partial(write, result, ask, self._settings), held, context)
        holding.shrink(sum(map(len, content.pieces)))
        return replace(content, headers={**_headers(result), **content.headers})

    async def stream(
        self, ask: Ask[How], image: ImageSource, context: Context, write_lines: WriteLines[How]
    ) -> AsyncGenerator[Mapping[str, str] | bytes, None]:
        """See ``Answers.stream``."""
        timings, holding = context.timings, context.holding
        if ask.everything is None:
            raise TypeError("expected everything mode")
        wanted = _segment_request(ask, image, context.caller, self._settings)
        updates = self._engine.everything(wanted, ask.everything, timings, are_kept=False, admit=self._admit(context))
        async with contextlib.aclosing(updates):
            async for update in updates:
                if isinstance(update, Begun):
                    yield _headers(update)
                held = holding.nbytes
                lines = await self._write(functools.partial(write_lines, update, ask, self._settings), held, context)
                yield b"".join(lines)
                # The client has taken them.
                holding.shrink(held)

    async def _write(
        self, begin: Callable[[Room], Generator[None, None, Written]], held: int, context: Context
    ) -> Written:
        """Write a reply on a thread; what it needs is added to the bytes that are held already."""
        timings, holding = context.timings, context.holding
        return await self._pools.write(
            lambda: _timed(begin(lambda nbytes: holding.grow(held + nbytes)), timings),
            timings,
            owner=context.caller.name,
        )

    async def embed(self, image: ImageSource, model: str | None, context: Context) -> ImageHandle:
        """See ``Answers.embed``."""
        return await self._engine.embed(
            image,
            model=model,
            owner=context.caller.name,
            timings=context.timings,
            admit=self._admit(context),
        )

    async def forget(self, image_id: str, owner: str) -> None:
        """See ``Answers.forget``."""
        await self._engine.forget(image_id, owner=owner)

    async def remove(self, model: Model) -> None:
        """See ``Answers.remove``."""
        await self._engine.remove(model)

    def pull(self, model: Model) -> AsyncIterator[PullProgress]:
        """See ``Answers.pull``."""
        return self.library.pulls.follow(model)

    async def start(self) -> None:
        """Start the processes that decode images."""
        if self._decoder is not None:
            # Concurrently with the models: a request that woke the server needs both.
            await asyncio.to_thread(self._decoder.start)
            if self._decoder.problem is not None:
                logger.error("not ready: %s", self._decoder.problem)

    async def preload(self) -> None:
        """See ``Answers.preload``."""
        problem = await asyncio.to_thread(self.library.store.problem)
        if problem is not None:
            logger.warning(
                "models cannot be pulled, and graphs and embeddings are not stored: %s."
                " Set OSAMD_CACHE to a writable folder",
                problem,
            )
        await self._engine.preload()
        # Read now: a later request might find no file descriptor left to read them.
        for name in NEEDED_LATER:
            await asyncio.to_thread(import_module, name)

    def drain(self) -> None:
        """See ``Answers.drain``."""
        self._engine.drain()

    async def close(self, *, patience_s: float | None = None) -> bool:
        """See ``Answers.close``."""
        if self._decoder is not None:
            await asyncio.to_thread(self._decoder.close)
        return await self._engine.close(patience_s=patience_s)

    def _admit(self, context: Context) -> Admit:
        return Admit(
            model=functools.partial(self.check_may_use, caller=context.caller),
            encode=functools.partial(context.encodes.take, context.caller.name),
            masks=context.holding.reserve,
        )


def _segment_request(ask: Ask[How], image: ImageSource, caller: Caller, settings: Settings) -> SegmentRequest:
    """The engine's request.

    Raises:
        AdminOnlyError: this caller may not keep a model loaded forever.
    """
    return SegmentRequest(
        image=image,
        model=ask.model,
        prompts=ask.prompts,
        multimask=ask.multimask,
        keep_alive=_allowed_keep_alive(ask.keep_alive, caller, settings),
        by_operator=caller.is_admin,
        owner=caller.name,
        with_embedding=ask.with_embedding,
        needs_masks=ask.needs_masks,
        with_pixels=ask.with_pixels,
        refinable=ask.refinable,
        clip=ask.clip,
    )


def _allowed_keep_alive(keep_alive: KeepAlive, caller: Caller, settings: Settings) -> KeepAlive:
    if caller.is_admin:
        return keep_alive
    if keep_alive == PINNED:
        raise AdminOnlyError("only an admin key may keep a model loaded forever", field="keep_alive")
    return at_most(keep_alive, settings.keep_alive)


def _headers(answered: SegmentResult | Begun) -> Mapping[str, str]:
    """The headers that the replies of all protocols share."""
    return {
        "X-Osamd-Cache": "hit" if answered.cache_hit else "miss",
        "X-Osamd-Device": answered.device,
        **license_header(answered.license),
        **notes_header(answered.image),
    }


def _timed(writing: Generator[None, None, Written], timings: Timings) -> Generator[None, None, Written]:
    """Add the time spent writing a reply, without that of other jobs in between, to the stage ``reply``."""
    while True:
        with timings.stage("reply"):
            try:
                next(writing)
            except StopIteration as end:
                written: Written = end.value
                return written
        yield
