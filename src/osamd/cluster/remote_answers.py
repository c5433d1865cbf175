"""``RemoteAnswers``: an edge's answers, which Segmenters give.

The edge names the image and asks the Segmenter that its name leads to. A large photo is first asked for by its handle
alone, and sent only if the Segmenter does not know it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, cast

from osamd.cluster.configuration import CONTENT_BYTES
from osamd.cluster.grants import given_back, settle, take_grant
from osamd.cluster.handle import Call, Handle, silence
from osamd.cluster.known_files import KnownFiles
from osamd.cluster.outcomes import Grant, Outcome, Part
from osamd.cluster.shared_question import SharedQuestion
from osamd.cluster.whole_status import whole_status
from osamd.cluster.wire_errors import WireError, from_wire
from osamd.engine.image_ids import MODEL_DIGITS, image_id, model_digits, routing_digits, unknown_image
from osamd.errors import (
    BodyTooLargeError,
    EmbeddingExpiredError,
    OsamdError,
    UnknownModelError,
)
from osamd.events import PullProgress, Sink
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model, read_digest
from osamd.library.library import open_library
from osamd.library.shelf import Shelf
from osamd.segment_requests import ImageHandle
from osamd.server.answers import Caller, Context
from osamd.server.asks import Ask, Content, Write, WriteLines
from osamd.server.deadline import deadline
from osamd.settings import Settings
from osamd.status import EngineStatus, State

How = TypeVar("How")
Value = TypeVar("Value")

# Sending a smaller photo costs less than asking twice.
KNOWN_FIRST_BYTES: Final = 64 * 1024
# What is told of all Segmenters may be this old.
PARTS_AGE_S: Final = 0.25
# And of whether they run: anyone may ask for /ready, as often as they like.
MISSING_AGE_S: Final = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Trip:
    """An image to send to a model's Segmenters.

    Attributes:
        model: full name of the model.
        image: the image, or its handle.
        grant: how many images may be encoded.
        is_guess: whether the handle is a guess of the edge: the Segmenter may not know it.
    """

    model: str
    image: ImageSource
    grant: Grant
    is_guess: bool = False

    def is_wrong(self, error: WireError | None) -> bool:
        """Whether it was a guess, and wrong."""
        kind = EmbeddingExpiredError.__name__
        return self.is_guess and error is not None and (error.kind, error.field) == (kind, "image_id")


class RemoteAnswers:
    """Answers by Segmenters elsewhere. Belongs to one event loop.

    Args:
        settings: catalogue and policies.
        handle: reaches the Segmenters.
        label: of this edge, in metrics.
        sinks: receive the events of the library.

    Attributes:
        library: the edge's own: its catalogue and which pulls are allowed. It must be the Segmenters' catalogue.
    """

    def __init__(self, settings: Settings, handle: Handle, *, label: str, sinks: tuple[Sink, ...] = ()) -> None:
        self.label = label
        self.library = open_library(settings, sinks)
        self._handle = handle
        self._deadline_s = settings.deadline_s
        self._is_draining = False
        self._parts = SharedQuestion(self._ask_parts, age_s=PARTS_AGE_S)
        self._missing = SharedQuestion(handle.missing, age_s=MISSING_AGE_S)
        self._models = {model_digits(model.name): model.name for model in self.library.catalog if not model.parts}

    @property
    def state(self) -> State:
        """``ready``: an edge loads nothing."""
        return "stopping" if self._is_draining else "ready"

    async def status(self) -> EngineStatus:
        """See ``Answers.status``."""
        parts = await self._parts.answer()
        return whole_status((part.status for part in parts.values()), await self._whole_state())

    async def readiness(self) -> EngineStatus:
        """See ``Answers.readiness``; asks no Segmenter, which would keep those running that nobody needs."""
        return whole_status((), await self._whole_state())

    async def shelf(self) -> Shelf:
        """What the Segmenters have; what this process has while none runs."""
        parts = await self._parts.answer()
        return KnownFiles([part.files for part in parts.values()]) if parts else self.library.store

    async def metrics(self) -> Mapping[str, bytes]:
        """See ``Answers.metrics``."""
        return (await self._handle.everywhere("metrics")).results

    def check_room(self, owner: str) -> None:
        """Refuses nothing: only the Segmenters know their queues."""

    async def check_may_use(self, model: Model, caller: Caller) -> None:
        """See ``Answers.check_may_use``."""
        if not caller.is_admin:
            call = self._handle.call(_deployment(model), model.name, "check_may_use", model.name, caller)
            _check(await self._result(call))

    async def segment(self, ask: Ask[How], image: ImageSource, context: Context, write: Write[How]) -> Content:
        """See ``Answers.segment``."""
        sent = _without_image(ask)
        # A cut-out is made from the image itself.
        outcome: Outcome[Content] = await self._ask(
            image,
            ask.model,
            context,
            lambda trip, key: self._handle.call(
                trip.model, key, "segment", sent, trip.image, context.caller, trip.grant, write
            ),
            may_guess=not ask.with_pixels,
        )
        content = _value(outcome)
        await context.holding.reserve(sum(map(len, content.pieces)))
        return content

    async def stream(
        self, ask: Ask[How], image: ImageSource, context: Context, write_lines: WriteLines[How]
    ) -> AsyncGenerator[Mapping[str, str] | bytes, None]:
        """See ``Answers.stream``."""
        sent, key = _without_image(ask), routing_digits(image)
        async with contextlib.aclosing(self._trips(image, ask.model, context)) as trips:
            async for trip in trips:
                begun = time.perf_counter()
                outcome: Outcome[None] | None = None
                stream = self._handle.stream(
                    trip.model, key, "stream", sent, trip.image, context.caller, trip.grant, write_lines
                )
                with given_back(context, trip.grant):
                    async with contextlib.aclosing(self._items(stream)) as items:
                        async for item in items:
                            if isinstance(item, Outcome):
                                outcome = item
                                continue
                            if isinstance(item, bytes):
                                await context.holding.reserve(len(item))
                            yield item
                            context.holding.shrink(0)
                if outcome is None:
                    raise RuntimeError("a Segmenter's stream ended without an outcome")
                settle(context, trip.grant, outcome, begun)
                if not trip.is_wrong(outcome.error):
                    _check(outcome)
                    return

    async def embed(self, image: ImageSource, model: str | None, context: Context) -> ImageHandle:
        """See ``Answers.embed``."""
        outcome: Outcome[ImageHandle] = await self._ask(
            image,
            model,
            context,
            lambda trip, key: self._handle.call(
                trip.model, key, "embed", trip.image, model, context.caller, trip.grant
            ),
        )
        return _value(outcome)

    async def forget(self, image_id: str, owner: str) -> None:
        """See ``Answers.forget``.

        Besides the Segmenter that has the image, all others of its model: one may have had it before others came.
        """
        source, caller = ImageSource(image_id=image_id), Caller(owner, is_admin=False)
        model = self._model_of(image_id)
        first = await self._result(self._handle.call(model, routing_digits(source), "forget", image_id, caller))
        await self._everywhere(first, EmbeddingExpiredError, "forget", image_id, caller, model=model)

    async def remove(self, model: Model) -> None:
        """See ``Answers.remove``."""
        caller = Caller("", is_admin=True)
        # One is started if none runs, since the files may be on a shared volume.
        call = self._handle.call(_deployment(model), model.name, "remove", model.name, caller)
        first = await self._result(call)
        try:
            await self._everywhere(first, UnknownModelError, "remove", model.name, caller)
        finally:
            self._parts.forget()

    async def pull(self, model: Model) -> AsyncIterator[PullProgress]:
        """See ``Answers.pull``; of the Segmenters, one pulls."""
        stream = self._handle.stream(_deployment(model), model.name, "pull", model.name)
        async with contextlib.aclosing(self._items(stream)) as items:
            async for item in items:
                if isinstance(item, Outcome):
                    _check(item)
                else:
                    yield item
        self._parts.forget()

    async def start(self) -> None:
        """Nothing: Segmenters start by themselves."""

    async def preload(self) -> None:
        """Nothing: Segmenters load their own models."""

    def drain(self) -> None:
        """See ``Answers.drain``."""
        self._is_draining = True

    async def close(self, *, patience_s: float | None = None) -> bool:
        """Nothing runs here."""
        del patience_s
        self.drain()
        return True

    async def _ask(
        self,
        image: ImageSource,
        model: str | None,
        context: Context,
        ask: Callable[[_Trip, str], Call],
        *,
        may_guess: bool = True,
    ) -> Outcome[Any]:
        """The outcome of the last trip."""
        key = routing_digits(image)
        async with contextlib.aclosing(self._trips(image, model, context, may_guess=may_guess)) as trips:
            async for trip in trips:
                begun = time.perf_counter()
                with given_back(context, trip.grant):
                    outcome: Outcome[Any] = await self._result(ask(trip, key))
                settle(context, trip.grant, outcome, begun)
                if not trip.is_wrong(outcome.error):
                    return outcome
        raise RuntimeError("an image itself is never unknown")

    async def _everywhere(
        self,
        first: Outcome[None],
        absent: type[OsamdError],
        method: str,
        *args: Any,
        model: str | None = None,
    ) -> None:
        """Call all Segmenters that run, after one of them; it is enough if one had what is to be deleted.

        Raises:
            OsamdError: none had it, one failed, or one did not answer.
        """
        others = await self._handle.everywhere(method, *args, model=model)
        outcomes: list[Outcome[None]] = [first, *others.results.values()]
        failed = [outcome for outcome in outcomes if outcome.error is not None or outcome.is_bug]
        for outcome in failed:
            if outcome.error is None or outcome.error.kind != absent.__name__:
                _check(outcome)
        if others.silent:
            raise silence(others.silent)
        if len(failed) == len(outcomes):
            _check(first)

    async def _trips(
        self, image: ImageSource, name: str | None, context: Context, *, may_guess: bool = True
    ) -> AsyncGenerator[_Trip, None]:
        """The trips of an image, until one succeeds."""
        if image.image_id is not None:
            yield _Trip(self._model_of(image.image_id), image, Grant(context.request_id))
            return
        model = self.library.resolve(name)
        deployment = _deployment(model)
        if _nbytes(image) > CONTENT_BYTES:
            limit = f"a cluster takes images of at most {CONTENT_BYTES / 1e6:.0f} MB"
            raise BodyTooLargeError(limit, field="image")
        if may_guess and _nbytes(image) > KNOWN_FIRST_BYTES:
            # A chain's handles are its segmenter's.
            owning = model.members[-1]
            digest = await read_digest(owning)
            guess = image_id(image, model=owning.name, digest=digest, owner=context.caller.name)
            yield _Trip(deployment, ImageSource(image_id=guess), Grant(context.request_id), is_guess=True)
        yield _Trip(deployment, image, take_grant(context, 0 if image.exchanged is not None else len(model.members)))

    def _model_of(self, image_id: str) -> str:
        """The model a handle belongs to; the Segmenter checks whether it is known."""
        name = self._models.get(image_id[-MODEL_DIGITS:])
        if name is None:
            raise unknown_image()
        return name

    async def _result(self, call: Call) -> Outcome[Any]:
        """A call's outcome; it is cancelled where it runs if this is cancelled here."""
        # Also for what no request's own deadline limits; a Segmenter may never start.
        async with deadline(self._deadline_s):
            try:
                outcome: Outcome[Any] = await call
            except asyncio.CancelledError:
                call.cancel()
                raise
            except Exception as error:
                known = self._handle.failure(error)
                if known is None:
                    raise
                raise known from error
        return outcome

    async def _items(self, stream: Any) -> AsyncGenerator[Any, None]:
        """A stream's items; it is cancelled where it runs if it is closed here before its end."""
        is_over = False
        try:
            async for item in stream:
                is_over = isinstance(item, Outcome)
                yield item
            is_over = True
        except Exception as error:
            is_over = True
            known = self._handle.failure(error)
            if known is None:
                raise
            raise known from error
        finally:
            if not is_over:
                stream.cancel()

    async def _ask_parts(self) -> Mapping[str, Part]:
        return (await self._handle.everywhere("part")).results

    async def _whole_state(self) -> State:
        """``loading`` while a model that should have a Segmenter has none; Ray replaces those that are stuck."""
        if self.state != "ready":
            return self.state
        return "loading" if await self._missing.answer() else "ready"


def _deployment(model: Model) -> str:
    """The model whose Segmenters answer; a chain's segmenter, where the chain's handles are."""
    return model.members[-1].name


def _without_image(ask: Ask[How]) -> Ask[How]:
    """What to send: the image travels by itself, or only as a handle."""
    return replace(ask, image=None, image_url=None)


def _nbytes(image: ImageSource) -> int:
    arrays = (image.pixels,) if image.pixels is not None else image.exchanged.arrays if image.exchanged else ()
    return len(image.data or b"") + sum(array.nbytes for array in arrays)


def _check(outcome: Outcome[Any]) -> None:
    if outcome.error is not None:
        raise from_wire(outcome.error)
    if outcome.is_bug:
        raise RuntimeError("a Segmenter failed unexpectedly; its log has the traceback")


def _value(outcome: Outcome[Value]) -> Value:
    _check(outcome)
    return cast("Value", outcome.value)
