"""Image handles: embed an image now, click on it by ``image_id`` later, or delete it."""

from starlette.requests import Request
from starlette.responses import Response

from osamd.errors import EmbeddingExpiredError, ShuttingDownError
from osamd.server import answering
from osamd.server.asks import Ask
from osamd.server.bodies import RawBody, parse_fields
from osamd.server.operations import JSON, Operation, Operations
from osamd.server.problems import IMAGE_ERRORS
from osamd.server.services import caller_of, services_of
from osamd.settings import Settings
from osamd.wire.replies import HandleSchema, handle_schema, notes_header
from osamd.wire.schemas import EmbedBody

operations = Operations(tag="handles")


@operations.post("/api/embed", Operation("Embed", body=EmbedBody, errors=IMAGE_ERRORS, replies={JSON: HandleSchema}))
async def embed(request: Request) -> Response:
    """Encode an image ahead of the first click. The handle belongs to this key and this model."""
    handle = await answering.embed(request, _ask)
    return Response(handle_schema(handle).model_dump_json(), media_type=JSON, headers=notes_header(handle))


def _ask(body: RawBody, settings: Settings) -> Ask[None]:
    parsed = parse_fields(body, EmbedBody, settings)
    return Ask(image=parsed.image, how=None, image_url=parsed.fields.image_url, model=parsed.fields.model)


@operations.delete(
    "/api/images/{image_id}",
    Operation("Forget", errors=(EmbeddingExpiredError, ShuttingDownError), replies={}, success=204),
)
async def forget(request: Request) -> Response:
    """Delete an image of this key immediately."""
    await services_of(request).answers.forget(request.path_params["image_id"], caller_of(request).name)
    return Response(status_code=204)
