"""``POST /api/generate``: an image and prompts in, masks out."""

import threading

from fastapi import APIRouter, Request, Response

from osamd.engine.deadline import deadline
from osamd.errors import AdminOnlyError, InvalidPromptError
from osamd.keep_alive import PINNED, at_most
from osamd.server.bodies import image_of, read_body
from osamd.server.client_watch import client_watched
from osamd.server.examples import body_documentation
from osamd.server.problems import IMAGE_ERRORS, documented
from osamd.server.services import caller_of, services_of, timings_of
from osamd.settings import Settings
from osamd.timings import Timings
from osamd.types import SegmentRequest
from osamd.wire.parsing import ParsedBody
from osamd.wire.replies import GenerateReply, generate_reply, license_header, union_png
from osamd.wire.schemas import GenerateBody

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
    settings, timings = services_of(request).settings, timings_of(request)
    async with deadline(settings.deadline_s):
        parsed = await read_body(request, GenerateBody, settings, timings)
        async with client_watched(request):
            return await _answer(request, parsed, settings, timings)


async def _answer(request: Request, parsed: ParsedBody[GenerateBody], settings: Settings, timings: Timings) -> Response:
    caller = caller_of(request)
    keep_alive = parsed.fields.keep_alive
    if not caller.is_admin:
        if keep_alive == PINNED:
            raise AdminOnlyError("only an admin's key may keep a model loaded for good", field="keep_alive")
        keep_alive = at_most(keep_alive, settings.keep_alive)
    # Before an image is fetched for them.
    prompts = parsed.fields.to_prompts(settings)
    engine = services_of(request).engine
    result = await engine.segment(
        SegmentRequest(
            image=await image_of(request, parsed, timings),
            model=parsed.fields.model,
            prompts=prompts,
            multimask=bool(parsed.fields.multimask),
            keep_alive=keep_alive,
            owner=caller.name,
            may_pull=caller.is_admin,
        ),
        timings,
    )
    wants_png = _prefers_png(request.headers.get("accept", ""))

    def render(abandoned: threading.Event) -> bytes:
        with timings.stage("reply"):
            if wants_png:
                return union_png(result)
            return generate_reply(result, parsed.fields, settings, abandoned).model_dump_json().encode()

    headers = {
        "X-Osamd-Cache": "hit" if result.cache_hit else "miss",
        "X-Osamd-Device": result.device,
        **license_header(result.license),
        "Vary": "Accept",
    }
    content = await engine.reply(render, timings, owner=caller.name)
    return Response(content, media_type=PNG if wants_png else JSON, headers=headers)


def _prefers_png(accept: str) -> bool:
    """Whether PNG is wanted more than JSON, by quality, then by order. Wildcards do not count."""
    wanted: list[tuple[float, str]] = []
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        if media_type in {PNG, JSON} and quality > 0.0:
            wanted.append((quality, media_type))
    # max() keeps the first of equals.
    return bool(wanted) and max(wanted, key=lambda pair: pair[0])[1] == PNG


def _quality(parameters: list[str]) -> float:
    """The ``q`` of an Accept header's part, 1 where there is none (RFC 9110)."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
