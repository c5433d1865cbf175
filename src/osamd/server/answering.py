"""Answers requests with an image and prompts, for every protocol: osamd's own routes and the doors for other tools.

A protocol provides two pure functions: ``parse`` turns a body into an ``Ask``, ``write`` turns a result into the
reply's content. Both run on threads, but osamd's own small bodies are parsed on the event loop. The deadline, client
disconnects, the caller and their permissions, images by URL and the headers are handled here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from osamd.errors import OsamdError
from osamd.image_sources import ImageSource
from osamd.segment_requests import ImageHandle
from osamd.server.answers import Context
from osamd.server.asks import Ask, Write
from osamd.server.bodies import RawBody, receive_body
from osamd.server.client_watch import client_watched
from osamd.server.deadline import deadline
from osamd.server.sending import PiecewiseResponse
from osamd.server.services import Services, caller_of, holding_of, services_of, timings_of
from osamd.settings import Settings
from osamd.timings import Timings

How = TypeVar("How")

# Of body, query and Content-Type together. Clicks on known images are shorter, and anything this short is parsed within
# a millisecond.
PARSED_AT_ONCE_BYTES: Final = 1024

Parse = Callable[[RawBody, Settings], Ask[How]]
Find = Callable[[Request, Ask[How], Context], Awaitable[ImageSource]]


async def answer(request: Request, parse: Parse[How], write: Write[How]) -> Response:
    """Segment what a request asks for.

    Args:
        request: with its body unread.
        parse: body to ask; raises ``RequestError``.
        write: result to content, without the headers that all protocols share.

    Raises:
        OsamdError: as ``Engine.segment``; it exceeded its deadline, or the client disconnected.
    """
    async with asked(request, parse) as (ask, image, context):
        return await answered(request, ask, image, context, write)


async def answered(
    request: Request, ask: Ask[How], image: ImageSource, context: Context, write: Write[How]
) -> Response:
    """The reply to what was asked; call it within ``asked``. Arguments and errors as for ``answer``."""
    content = await services_of(request).answers.segment(ask, image, context, write)
    return PiecewiseResponse(content.pieces, media_type=content.media_type, headers=content.headers)


async def embed(request: Request, parse: Parse[How]) -> ImageHandle:
    """Encode the image of a request, ahead of the first click.

    Args:
        request: with its body unread.
        parse: body to ask; only its image and model are used.

    Raises:
        OsamdError: as ``Engine.embed``; it exceeded its deadline, or the client disconnected.
    """
    async with asked(request, parse) as (ask, image, context):
        return await services_of(request).answers.embed(image, ask.model, context)


@asynccontextmanager
async def asked(
    request: Request, parse: Parse[How], find: Find[How] | None = None
) -> AsyncIterator[tuple[Ask[How], ImageSource, Context]]:
    """Yield a request's ask, image and context; cancel the block on deadline or disconnect.

    Args:
        request: with its body unread.
        parse: body to ask; raises ``RequestError``.
        find: finds the image if the ask has none; None fetches it by URL.
    """
    services = services_of(request)
    context = Context(
        caller_of(request),
        timings_of(request),
        holding_of(request),
        services.encodes,
        getattr(request.state, "request_id", ""),
    )
    async with deadline(services.settings.deadline_s):
        ask = await _read(request, parse, services, context.timings)
        async with client_watched(request):
            with _fields_named(ask.fields):
                if find is not None:
                    image = ask.image or await find(request, ask, context)
                else:
                    image = ask.image or await _fetch(ask.image_url or "", ask.model, services, context)
                yield ask, image, context


@contextmanager
def _fields_named(names: Mapping[str, str]) -> Iterator[None]:
    """Have errors name fields as the protocol does."""
    try:
        yield
    except OsamdError as error:
        if error.field is not None:
            error.field = names.get(error.field, error.field)
        raise


async def _read(request: Request, parse: Parse[How], services: Services, timings: Timings) -> Ask[How]:
    # A separate function, so that the body is not kept alive while its request is answered.
    body = await receive_body(request, services.settings, timings)
    small = parse if _is_small(request, body) else None

    def parse_timed() -> Ask[How]:
        with timings.stage("parse"):
            if small is not None:
                # Prompts need it. The first body is parsed on a thread; a later one would import it on the loop.
                import_module("numpy")
            return parse(body, services.settings)

    return await services.pools.parse(parse_timed, timings, owner=caller_of(request).name, small=small)


def _is_small(request: Request, body: RawBody) -> bool:
    """Whether a body is parsed in no time; other tools' may be compressed, and one may name a file to be read."""
    is_own = "door" not in request.scope["state"]
    size = len(body.query) + len(body.content_type) + sum(map(len, body.chunks))
    return is_own and body.image_root is None and size <= PARSED_AT_ONCE_BYTES


async def _fetch(url: str, model: str | None, services: Services, context: Context) -> ImageSource:
    """Fetch an image by URL, unless this caller cannot use the model."""
    caller, timings = context.caller, context.timings
    await services.answers.check_may_use(services.library.resolve(model), caller)
    with timings.stage("receive"):
        data = await services.remote_images.fetch(url, owner=caller.name)
    return await services.pools.parse(lambda: ImageSource.of_bytes(data), timings, owner=caller.name)
