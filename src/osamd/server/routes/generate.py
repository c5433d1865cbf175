"""``POST /api/generate``: an image and prompts in, masks out."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from osamd.engine.everything import Begun, Ended, Update
from osamd.errors import InvalidPromptError
from osamd.segment_requests import SegmentResult
from osamd.server.accept import JSON, NDJSON, PNG, prefers_lines, prefers_png
from osamd.server.answering import answer
from osamd.server.asks import Ask, Content
from osamd.server.bodies import RawBody, parse_fields
from osamd.server.operations import Operation, Operations
from osamd.server.problems import IMAGE_ERRORS
from osamd.server.streaming import EverythingStream
from osamd.settings import Settings
from osamd.wire.everything import check_labels
from osamd.wire.everything_lines import EverythingLine, done_line, error_line, found_lines, image_line
from osamd.wire.json_pieces import Room
from osamd.wire.replies import EverythingReply, GenerateReply, included, write_reply, write_union
from osamd.wire.schemas import GenerateBody

operations = Operations(tag="segmentation")


@operations.post(
    "/api/generate",
    Operation(
        "Segment",
        body=GenerateBody,
        errors=(*IMAGE_ERRORS, InvalidPromptError),
        replies={JSON: GenerateReply | EverythingReply, PNG: None, NDJSON: EverythingLine},
        success_is="The masks; with `Accept: image/png` their union as one PNG. In everything mode the masks with"
        " a report, with `image/png` a map of their numbers, with `application/x-ndjson` one JSON line per update.",
    ),
)
async def generate(request: Request) -> Response:
    """Turn clicks, a box or words into masks, or find everything.

    The body is JSON, `multipart/form-data` (a file `image`, and a JSON part `request` or plain fields), or a bare
    encoded image with `?model=&point=x,y&background=x,y&box=x1,y1,x2,y2&text=` in the query.
    """
    if prefers_lines(request.headers.get("accept", "")):
        return EverythingStream(request, _ask, _write, write_lines=_write_lines, write_error=error_line)
    return await answer(request, _ask, _write)


# Time limits of everything mode end a request well before its deadline does.
DEADLINE_SHARE: Final = 0.75


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
    everything = fields.to_everything(settings, most_seconds=DEADLINE_SHARE * settings.deadline_s)
    if is_png and everything is not None:
        check_labels(everything)
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
        everything=everything,
    )


def _write(result: SegmentResult, ask: Ask[_How], settings: Settings, room: Room) -> Generator[None, None, Content]:
    headers = {"Vary": "Accept"}
    if ask.how.is_png:
        return Content(write_union(result, ask.how.fields, settings, room), media_type=PNG, headers=headers)
    pieces = yield from write_reply(result, ask.how.fields, settings, room)
    return Content(pieces, media_type=JSON, headers=headers)


def _write_lines(
    update: Update, ask: Ask[_How], settings: Settings, room: Room
) -> Generator[None, None, Sequence[bytes]]:
    if isinstance(update, Begun):
        return [image_line(update.image)]
    if isinstance(update, Ended):
        return [done_line(update.progress, update.stopped)]
    return (yield from found_lines(update.proposals, update.dropped, update.progress, ask.how.fields, settings, room))
