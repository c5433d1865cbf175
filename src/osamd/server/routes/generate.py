"""``POST /api/generate``: an image and prompts in, masks out."""

import asyncio

from fastapi import APIRouter, Request, Response

from osamd.errors import InvalidPromptError
from osamd.server.bodies import read_body
from osamd.server.context import engine_of, owner_of, settings_of, timings_of
from osamd.server.examples import body_documentation
from osamd.server.problems import IMAGE_ERRORS, documented
from osamd.server.schemas import GenerateBody, GenerateReply, generate_reply, union_png
from osamd.types import SegmentRequest

router = APIRouter(tags=["segmentation"])

PNG = "image/png"
JSON = "application/json"


@router.post(
    "/api/generate",
    summary="Segment",
    response_model=GenerateReply,
    response_description="The masks; with `Accept: image/png` their union as one PNG.",
    responses={**documented(*IMAGE_ERRORS, InvalidPromptError), 200: {"content": {PNG: {}}}},
    openapi_extra=body_documentation(GenerateBody),
)
async def generate(request: Request) -> Response:
    """Turn clicks, a box or words into masks.

    The body is JSON, `multipart/form-data` (a file `image`, and a JSON part `request` or plain fields), or an encoded
    image as it is with `?model=&point=x,y&background=x,y&box=x1,y1,x2,y2&text=` in the query.
    """
    settings, timings = settings_of(request), timings_of(request)
    parsed = await read_body(request, GenerateBody, settings, timings)
    result = await engine_of(request).segment(
        SegmentRequest(
            image=parsed.image,
            model=parsed.fields.model,
            prompts=parsed.fields.to_prompts(settings),
            multimask=parsed.fields.multimask,
            owner=owner_of(request),
        ),
        timings,
    )
    wants_png = _prefers_png(request.headers.get("accept", ""))

    def render() -> bytes:
        with timings.stage("reply"):
            if wants_png:
                return union_png(result)
            return generate_reply(result, parsed.fields, settings).model_dump_json().encode()

    headers = {
        "X-Osamd-Cache": "hit" if result.cache_hit else "miss",
        "X-Osamd-Device": result.device,
        "X-Osamd-License": result.license,
        "Vary": "Accept",
    }
    content = await asyncio.to_thread(render)
    return Response(content, media_type=PNG if wants_png else JSON, headers=headers)


def _prefers_png(accept: str) -> bool:
    """Whether PNG is named before JSON; browsers' ``image/*`` and ``*/*`` do not count."""
    for part in accept.split(","):
        media_type = part.partition(";")[0].strip().lower()
        if media_type in {PNG, JSON}:
            return media_type == PNG
    return False
