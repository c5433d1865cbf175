"""``POST /api/generate``: an image and prompts in, masks out."""

import threading
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from osamd.errors import InvalidPromptError
from osamd.server.answering import Ask, Content, answer
from osamd.server.bodies import RawBody, parse_fields
from osamd.server.examples import body_documentation
from osamd.server.problems import IMAGE_ERRORS, documented
from osamd.settings import Settings
from osamd.types import SegmentResult
from osamd.wire.replies import GenerateReply, generate_reply, included, union_png
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
    return await answer(request, _ask, _write)


@dataclass(frozen=True, slots=True, eq=False)
class _How:
    fields: GenerateBody
    is_png: bool


def _ask(body: RawBody, settings: Settings) -> Ask[_How]:
    parsed = parse_fields(body, GenerateBody, settings)
    fields = parsed.fields
    return Ask(
        image=parsed.image,
        how=_How(fields, is_png=_prefers_png(body.accept)),
        image_url=fields.image_url,
        model=fields.model,
        prompts=fields.to_prompts(settings),
        multimask=bool(fields.multimask),
        keep_alive=fields.keep_alive,
        with_embedding=bool(included(fields, settings)),
    )


def _write(result: SegmentResult, ask: Ask[_How], settings: Settings, abandoned: threading.Event) -> Content:
    headers = {"Vary": "Accept"}
    if ask.how.is_png:
        return Content(union_png(result), media_type=PNG, headers=headers)
    reply = generate_reply(result, ask.how.fields, settings, abandoned)
    return Content(reply.model_dump_json().encode(), media_type=JSON, headers=headers)


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
