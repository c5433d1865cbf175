"""The routes of Roboflow's door."""

import functools
import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from osamd.errors import InvalidPromptError
from osamd.server import answering
from osamd.server.answering import answer
from osamd.server.door import Door, json_body, json_errors
from osamd.server.doors.roboflow import bodies, replies
from osamd.server.problems import IMAGE_ERRORS, documented_for_tools

NAME: Final = "roboflow"

router = APIRouter(prefix="/roboflow")

ERRORS: Final = documented_for_tools(*IMAGE_ERRORS, InvalidPromptError)
BINARY: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {replies.BINARY: {}}}}


@router.post(
    "/sam2/segment_image",
    summary="SAM 2: clicks and boxes",
    responses=ERRORS | BINARY,
    openapi_extra=json_body(NAME, bodies.SegmentBody),
)
async def segment(request: Request) -> Response:
    """`InferenceHTTPClient.sam2_segment_image`: one prediction per prompt. Boxes are given by their centres."""
    return await answer(request, functools.partial(bodies.clicks, default=bodies.SAM2), replies.write_clicks)


@router.post(
    "/sam3/visual_segment",
    summary="SAM 3: clicks and boxes",
    responses=ERRORS | BINARY,
    openapi_extra=json_body(NAME, bodies.SegmentBody),
)
async def visual_segment(request: Request) -> Response:
    """`InferenceHTTPClient.sam3_visual_segment`, answered by SAM 2: SAM 3's network for clicks has no ONNX export."""
    return await answer(request, functools.partial(bodies.clicks, default=bodies.VISUAL), replies.write_clicks)


@router.post(
    "/sam3/concept_segment",
    summary="SAM 3: words",
    responses=ERRORS | BINARY,
    openapi_extra=json_body(NAME, bodies.ConceptBody),
)
async def concept_segment(request: Request) -> Response:
    """`InferenceHTTPClient.sam3_concept_segment`: all objects of each prompt. Boxes are given by their corners."""
    return await answer(request, bodies.concepts, replies.write_concepts)


@router.post(
    "/sam/segment_image",
    summary="SAM: clicks",
    responses=ERRORS | BINARY,
    openapi_extra=json_body(NAME, bodies.SamBody),
)
async def sam_segment(request: Request) -> Response:
    """All candidate masks of one prompt of points."""
    return await answer(request, bodies.sam_clicks, replies.write_sam)


async def _embed(request: Request, default: str) -> JSONResponse:
    begun = time.perf_counter()
    handle = await answering.embed(request, functools.partial(bodies.image_to_embed, default=default))
    return JSONResponse({"image_id": handle.image_id, "time": time.perf_counter() - begun})


EMBED: Final[dict[str, Any]] = {
    "summary": "Encode an image",
    "responses": documented_for_tools(*IMAGE_ERRORS),
    "openapi_extra": json_body(NAME, bodies.EmbedBody),
}


@router.post("/sam/embed_image", **EMBED)
async def sam_embed(request: Request) -> JSONResponse:
    """Encode an image ahead of its first click. Replies with its `image_id`, not with the embedding."""
    return await _embed(request, bodies.SAM)


@router.post("/sam2/embed_image", **EMBED)
async def sam2_embed(request: Request) -> JSONResponse:
    """Encode an image ahead of its first click."""
    return await _embed(request, bodies.SAM2)


@router.post("/sam3/embed_image", **EMBED)
async def sam3_embed(request: Request) -> JSONResponse:
    """`InferenceHTTPClient.sam3_embed_image`: encode an image ahead of its first words."""
    return await _embed(request, bodies.CONCEPTS)


DOOR = Door(
    name=NAME,
    summary="What Roboflow's inference-sdk calls: SAM, SAM 2 and SAM 3.",
    paths=("/roboflow/",),
    router=router,
    write_error=json_errors(
        key_advice="the API key is missing or wrong: pass the server's key as api_key to InferenceHTTPClient"
    ),
    reads_query_and_body=True,
    schemas=(bodies.SegmentBody, bodies.ConceptBody, bodies.SamBody, bodies.EmbedBody),
)
