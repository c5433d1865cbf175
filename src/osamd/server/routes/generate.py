"""``POST /api/generate``: an image and prompts in, masks out."""

from collections.abc import Generator
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from osamd.errors import InvalidPromptError
from osamd.server.accept import JSON, PNG, prefers_png
from osamd.server.answering import Ask, Content, answer
from osamd.server.bodies import RawBody, parse_fields
from osamd.server.examples import body_documentation
from osamd.server.problems import IMAGE_ERRORS, documented
from osamd.settings import Settings
from osamd.types import SegmentResult
from osamd.wire.json_pieces import Room
from osamd.wire.replies import GenerateReply, included, write_reply, write_union
from osamd.wire.schemas import GenerateBody

router = APIRouter(tags=["segmentation"])


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

    The body is JSON, `multipart/form-data` (a file `image`, and a JSON part `request` or plain fields), or a bare
    encoded image with `?model=&point=x,y&background=x,y&box=x1,y1,x2,y2&text=` in the query.
    """
    return await answer(request, _ask, _write)


@dataclass(frozen=True, slots=True, eq=False)
class _How:
    fields: GenerateBody
    is_png: bool


def _ask(body: RawBody, settings: Settings) -> Ask[_How]:
    parsed = parse_fields(body, GenerateBody, settings)
    fields = parsed.fields
    is_png = prefers_png(body.accept)
    # Refuse before doing any work.
    fields.to_cleaning()
    return Ask(
        image=parsed.image,
        how=_How(fields, is_png=is_png),
        image_url=fields.image_url,
        model=fields.model,
        prompts=fields.to_prompts(settings),
        multimask=bool(fields.multimask),
        keep_alive=fields.keep_alive,
        with_embedding=bool(included(fields, settings)),
        needs_masks=is_png,
        with_pixels=fields.mask_format == "cutout",
    )


def _write(result: SegmentResult, ask: Ask[_How], settings: Settings, room: Room) -> Generator[None, None, Content]:
    headers = {"Vary": "Accept"}
    if ask.how.is_png:
        return Content(write_union(result, ask.how.fields, settings, room), media_type=PNG, headers=headers)
    pieces = yield from write_reply(result, ask.how.fields, settings, room)
    return Content(pieces, media_type=JSON, headers=headers)
