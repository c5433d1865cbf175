"""Answers requests with an image and prompts, for every protocol: osamd's own routes and the doors for other tools.

A protocol provides two pure functions, both run on threads: ``parse`` turns a body into an ``Ask``, ``write`` turns a
result into the reply's content. The deadline, client disconnects, the caller and their permissions, images by URL and
the headers are handled here.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from osamd.engine.admit import Admit
from osamd.engine.everything import collect
from osamd.errors import AdminOnlyError
from osamd.image_sources import ImageSource
from osamd.keep_alive import PINNED, KeepAlive, at_most
from osamd.library.catalog import Model
from osamd.pixels.everything import Everything
from osamd.segment_requests import ImageHandle, SegmentRequest, SegmentResult
from osamd.server.bodies import RawBody, receive_body
from osamd.server.client_watch import client_watched
from osamd.server.deadline import deadline
from osamd.server.sending import PiecewiseResponse
from osamd.server.services import Caller, Services, caller_of, holding_of, services_of, timings_of
from osamd.settings import Settings
from osamd.timings import Timings
from osamd.types import Prompt
from osamd.wire.json_pieces import Room
from osamd.wire.replies import license_header, notes_header

How = TypeVar("How")
Written = TypeVar("Written")

# A reply with a few objects needs no more memory than this beside its masks.
SMALL_REPLY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Ask(Generic[How]):
    """What a body asks for; the caller is not part of it.

    Attributes:
        image: the image; None if it is to be fetched from ``image_url``.
        how: what the protocol's ``write`` needs to know.
        image_url: where to fetch the image.
        model: a name or alias; None for the handle's model, or the built-in one.
        prompts: what to segment; None for the model's default.
        multimask: whether to return up to three candidates for each prompt.
        keep_alive: how long the model stays loaded afterwards; a user's longer values are capped.
        with_embedding: whether the result includes its embedding.
        needs_masks: whether a model that only finds boxes is refused.
        with_pixels: whether the result includes the image at full size.
        refinable: whether masks get a ``mask_id`` if the model can refine them; otherwise they keep their logits.
        clip: whether prompts that reach slightly beyond the image are clipped, for tools that do not do so themselves.
        everything: parameters of everything mode, instead of prompts; or None.
    """

    image: ImageSource | None
    how: How
    image_url: str | None = None
    model: str | None = None
    prompts: tuple[Prompt, ...] | None = None
    multimask: bool = False
    keep_alive: KeepAlive = None
    with_embedding: bool = False
    needs_masks: bool = False
    with_pixels: bool = False
    refinable: bool = True
    clip: bool = False
    everything: Everything | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The body of a reply in pieces, and protocol-specific headers."""

    pieces: Sequence[bytes]
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Parse = Callable[[RawBody, Settings], Ask[How]]
Find = Callable[[Request, Ask[How], Admit], Awaitable[ImageSource]]
# Takes the result, the ask, the settings, and a callback for the reply's size; yields where other jobs may run.
Write = Callable[[SegmentResult, Ask[How], Settings, Room], Generator[None, None, Content]]


async def answer(request: Request, parse: Parse[How], write: Write[How]) -> Response:
    """Segment what a request asks for.

    Args:
        request: with its body unread.
        parse: body to ask; raises ``RequestError``.
        write: result to content, without the headers that all protocols share.

    Raises:
        OsamdError: as ``Engine.segment``; it exceeded its deadline, or the client disconnected.
    """
    async with asked(request, parse) as (ask, image, admit):
        return await answered(request, ask, image, admit, write)


async def answered(request: Request, ask: Ask[How], image: ImageSource, admit: Admit, write: Write[How]) -> Response:
    """The reply to what was asked; call it within ``asked``. Arguments and errors as for ``answer``."""
    services, timings, caller = services_of(request), timings_of(request), caller_of(request)
    holding = holding_of(request)
    wanted = segment_request(ask, image, caller, services.settings)
    if ask.everything is None:
        result = await services.engine.segment(wanted, timings, admit=admit)
    else:
        updates = services.engine.everything(wanted, ask.everything, timings, are_kept=True, admit=admit)
        result = await collect(updates, with_embedding=ask.with_embedding)

    held = sum(item.mask.inside.nbytes for item in result.annotations if item.mask is not None)
    # Masks are reserved at image size. Most are far smaller, and written as PNG or RLE they take no more again.
    held += 0 if result.pixels is None else result.pixels.nbytes
    holding.shrink(SMALL_REPLY_BYTES + 2 * held)
    content = await services.pools.write(
        lambda: timed(write(result, ask, services.settings, lambda nbytes: holding.grow(held + nbytes)), timings),
        timings,
        owner=caller.name,
    )
    holding.shrink(sum(map(len, content.pieces)))
    headers = {
        "X-Osamd-Cache": "hit" if result.cache_hit else "miss",
        "X-Osamd-Device": result.device,
        **license_header(result.license),
        **notes_header(result.image),
        **content.headers,
    }
    return PiecewiseResponse(content.pieces, media_type=content.media_type, headers=headers)


def segment_request(ask: Ask[How], image: ImageSource, caller: Caller, settings: Settings) -> SegmentRequest:
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


async def embed(request: Request, parse: Parse[How]) -> ImageHandle:
    """Encode the image of a request, ahead of the first click.

    Args:
        request: with its body unread.
        parse: body to ask; only its image and model are used.

    Raises:
        OsamdError: as ``Engine.embed``; it exceeded its deadline, or the client disconnected.
    """
    async with asked(request, parse) as (ask, image, admit):
        return await services_of(request).engine.embed(
            image, model=ask.model, owner=caller_of(request).name, timings=timings_of(request), admit=admit
        )


@asynccontextmanager
async def asked(
    request: Request, parse: Parse[How], find: Find[How] | None = None
) -> AsyncIterator[tuple[Ask[How], ImageSource, Admit]]:
    """Yield a request's ask, image and admission callbacks; cancel the block on deadline or disconnect.

    Args:
        request: with its body unread.
        parse: body to ask; raises ``RequestError``.
        find: finds the image if the ask has none; None fetches it by URL.
    """
    services, timings, caller = services_of(request), timings_of(request), caller_of(request)
    admit = Admit(
        model=functools.partial(_check_may_use, services, caller),
        encode=functools.partial(services.encodes.take, caller.name),
        masks=holding_of(request).reserve,
    )
    async with deadline(services.settings.deadline_s):
        ask = await _read(request, parse, services, timings)
        async with client_watched(request):
            if find is not None:
                image = ask.image or await find(request, ask, admit)
            else:
                image = ask.image or await _fetch(ask.image_url or "", ask.model, services, caller, timings, admit)
            yield ask, image, admit


async def _check_may_use(services: Services, caller: Caller, model: Model) -> None:
    # A loaded model needs no pull, so clicks do not access the disk, which may be a network volume.
    loaded = {resident.model.name for resident in services.engine.residents}
    if not caller.is_admin and any(member.name not in loaded for member in model.members):
        await services.library.pulls.check_may_use(model)


async def _read(request: Request, parse: Parse[How], services: Services, timings: Timings) -> Ask[How]:
    # A separate function, so that the body is not kept alive while its request is answered.
    body = await receive_body(request, services.settings, timings)

    def parse_timed() -> Ask[How]:
        with timings.stage("parse"):
            return parse(body, services.settings)

    return await services.pools.parse(parse_timed, timings, owner=caller_of(request).name)


async def _fetch(
    url: str, model: str | None, services: Services, caller: Caller, timings: Timings, admit: Admit
) -> ImageSource:
    """Fetch an image by URL, unless this caller cannot use the model."""
    await admit.model(services.library.resolve(model))
    with timings.stage("receive"):
        data = await services.remote_images.fetch(url, owner=caller.name)
    return await services.pools.parse(lambda: ImageSource.of_bytes(data), timings, owner=caller.name)


def _allowed_keep_alive(keep_alive: KeepAlive, caller: Caller, settings: Settings) -> KeepAlive:
    if caller.is_admin:
        return keep_alive
    if keep_alive == PINNED:
        raise AdminOnlyError("only an admin key may keep a model loaded forever", field="keep_alive")
    return at_most(keep_alive, settings.keep_alive)


def timed(writing: Generator[None, None, Written], timings: Timings) -> Generator[None, None, Written]:
    """Add the time spent writing a reply, without that of other jobs in between, to the stage ``reply``."""
    while True:
        with timings.stage("reply"):
            try:
                next(writing)
            except StopIteration as end:
                written: Written = end.value
                return written
        yield
