"""Image handles: embed an image now, click on it by ``image_id`` later, or delete it."""

from fastapi import APIRouter, Request, Response

from osamd.errors import EmbeddingExpiredError, ShuttingDownError
from osamd.server import answering
from osamd.server.asks import Ask
from osamd.server.bodies import RawBody, parse_fields
from osamd.server.examples import body_documentation
from osamd.server.problems import IMAGE_ERRORS, documented
from osamd.server.services import caller_of, services_of
from osamd.settings import Settings
from osamd.wire.replies import HandleSchema, handle_schema, notes_header
from osamd.wire.schemas import EmbedBody

router = APIRouter(tags=["handles"])


@router.post(
    "/api/embed",
    summary="Embed",
    responses=documented(*IMAGE_ERRORS),
    openapi_extra=body_documentation(EmbedBody),
)
async def embed(request: Request, response: Response) -> HandleSchema:
    """Encode an image ahead of the first click. The handle belongs to this key and this model."""
    handle = await answering.embed(request, _ask)
    response.headers.update(notes_header(handle))
    return handle_schema(handle)


def _ask(body: RawBody, settings: Settings) -> Ask[None]:
    parsed = parse_fields(body, EmbedBody, settings)
    return Ask(image=parsed.image, how=None, image_url=parsed.fields.image_url, model=parsed.fields.model)


@router.delete(
    "/api/images/{image_id}",
    summary="Forget",
    status_code=204,
    response_class=Response,
    responses=documented(EmbeddingExpiredError, ShuttingDownError),
)
async def forget(request: Request, image_id: str) -> None:
    """Delete an image of this key immediately."""
    await services_of(request).answers.forget(image_id, caller_of(request).name)
