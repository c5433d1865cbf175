"""The routes of Roboflow's door."""

import functools
import time
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from osamd.errors import InvalidPromptError
from osamd.server import answering
from osamd.server.answering import answer
from osamd.server.door import Door, json_errors
from osamd.server.doors.roboflow import bodies, replies
from osamd.server.operations import JSON, Operation, Operations
from osamd.server.problems import IMAGE_ERRORS

NAME: Final = "roboflow"

operations = Operations("/roboflow")

ERRORS: Final = (*IMAGE_ERRORS, InvalidPromptError)
REPLIES: Final = {JSON: Any, replies.BINARY: None}


@operations.post(
    "/sam2/segment_image", Operation("SAM 2: clicks and boxes", body=bodies.SegmentBody, errors=ERRORS, replies=REPLIES)
)
async def segment(request: Request) -> Response:
    """`InferenceHTTPClient.sam2_segment_image`: one prediction per prompt. Boxes are given by their centres."""
    return await answer(request, functools.partial(bodies.clicks, default=bodies.SAM2), replies.write_clicks)


@operations.post(
    "/sam3/visual_segment",
    Operation("SAM 3: clicks and boxes", body=bodies.SegmentBody, errors=ERRORS, replies=REPLIES),
)
async def visual_segment(request: Request) -> Response:
    """`InferenceHTTPClient.sam3_visual_segment`, answered by SAM 2: SAM 3's network for clicks has no ONNX export."""
    return await answer(request, functools.partial(bodies.clicks, default=bodies.VISUAL), replies.write_clicks)


@operations.post(
    "/sam3/concept_segment", Operation("SAM 3: words", body=bodies.ConceptBody, errors=ERRORS, replies=REPLIES)
)
async def concept_segment(request: Request) -> Response:
    """`InferenceHTTPClient.sam3_concept_segment`: all objects of each prompt. Boxes are given by their corners."""
    return await answer(request, bodies.concepts, replies.write_concepts)


@operations.post("/sam/segment_image", Operation("SAM: clicks", body=bodies.SamBody, errors=ERRORS, replies=REPLIES))
async def sam_segment(request: Request) -> Response:
    """All candidate masks of one prompt of points."""
    return await answer(request, bodies.sam_clicks, replies.write_sam)


async def _embed(request: Request, default: str) -> JSONResponse:
    begun = time.perf_counter()
    handle = await answering.embed(request, functools.partial(bodies.image_to_embed, default=default))
    return JSONResponse({"image_id": handle.image_id, "time": time.perf_counter() - begun})


EMBED: Final = Operation("Encode an image", body=bodies.EmbedBody, errors=IMAGE_ERRORS)


@operations.post("/sam/embed_image", EMBED)
async def sam_embed(request: Request) -> JSONResponse:
    """Encode an image ahead of its first click. Replies with its `image_id`, not with the embedding."""
    return await _embed(request, bodies.SAM)


@operations.post("/sam2/embed_image", EMBED)
async def sam2_embed(request: Request) -> JSONResponse:
    """Encode an image ahead of its first click."""
    return await _embed(request, bodies.SAM2)


@operations.post("/sam3/embed_image", EMBED)
async def sam3_embed(request: Request) -> JSONResponse:
    """`InferenceHTTPClient.sam3_embed_image`: encode an image ahead of its first words."""
    return await _embed(request, bodies.CONCEPTS)


DOOR = Door(
    name=NAME,
    summary="What Roboflow's inference-sdk calls: SAM, SAM 2 and SAM 3.",
    paths=("/roboflow/",),
    operations=operations,
    write_error=json_errors(
        key_advice="the API key is missing or wrong: pass the server's key as api_key to InferenceHTTPClient"
    ),
    reads_query_and_body=True,
)
