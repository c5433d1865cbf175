"""Handles: embed an image now, click on it by ``image_id`` later, or have it forgotten."""

from fastapi import APIRouter, Request, Response

from osamd.engine.deadline import deadline
from osamd.errors import EmbeddingExpiredError, ShuttingDownError
from osamd.server.bodies import image_of, read_body
from osamd.server.client_watch import client_watched
from osamd.server.examples import body_documentation
from osamd.server.problems import IMAGE_ERRORS, documented
from osamd.server.services import caller_of, services_of, timings_of
from osamd.wire.replies import HandleSchema, handle_schema
from osamd.wire.schemas import EmbedBody

router = APIRouter(tags=["handles"])


@router.post(
    "/api/embed",
    summary="Embed",
    responses=documented(*IMAGE_ERRORS),
    openapi_extra=body_documentation(EmbedBody),
)
async def embed(request: Request) -> HandleSchema:
    """Encode an image ahead of the first click. The handle belongs to this key and this model."""
    services, timings = services_of(request), timings_of(request)
    settings, caller = services.settings, caller_of(request)
    async with deadline(settings.deadline_s):
        parsed = await read_body(request, EmbedBody, settings, timings)
        async with client_watched(request):
            handle = await services.engine.embed(
                await image_of(request, parsed, timings),
                model=parsed.fields.model,
                owner=caller.name,
                timings=timings,
                may_pull=caller.is_admin,
            )
    return handle_schema(handle)


@router.delete(
    "/api/images/{image_id}",
    summary="Forget",
    status_code=204,
    response_class=Response,
    responses=documented(EmbeddingExpiredError, ShuttingDownError),
)
async def forget(request: Request, image_id: str) -> None:
    """Forget an image of this key at once."""
    await services_of(request).engine.forget(image_id, owner=caller_of(request).name)
