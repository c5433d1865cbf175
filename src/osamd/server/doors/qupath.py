"""What QuPath's SAM extension calls, at ``/qupath/``: the protocol of samapi 0.7.

The extension cannot send a key, so this door is closed by default, and clients without a key must be in
``OSAMD_KEYLESS_NETWORKS``.
"""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, StrictStr
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from osamd import __version__
from osamd.errors import InvalidPromptError, InvalidRequestError, shown
from osamd.image_sources import ImageSource
from osamd.segment_requests import SegmentResult
from osamd.server.answering import answer
from osamd.server.asks import Ask, Content
from osamd.server.bodies import RawBody
from osamd.server.door import Door, json_errors
from osamd.server.operations import Operation, Operations
from osamd.server.problems import IMAGE_ERRORS
from osamd.settings import Settings
from osamd.types import Annotation, AnyFloatArray, Prompt
from osamd.wire.base64_text import Base64Text, decode_base64
from osamd.wire.fields import LONGEST_LIST, Fraction, Number
from osamd.wire.json_bodies import from_json
from osamd.wire.json_pieces import PAIRS_AT_ONCE, ReplyPieces, Room
from osamd.wire.mask_values import crossings
from osamd.wire.replies import BYTES_PER_CROSSING
from osamd.wire.tool_fields import ToolModel, prompt_of

if TYPE_CHECKING:
    from osamd.pixels.edge_polygons import EdgePolygon

NAME: Final = "qupath"
# The version of samapi whose protocol this is.
VERSION: Final = f"0.7.1+osamd.{__version__}"
SAM3: Final = "sam3:latest"
# MobileSAM, vit_t, is not in osamd's catalogue; EfficientSAM is the smallest of its kind.
MODELS: Final[Mapping[str, str]] = {
    "vit_t": "efficientsam:10m",
    "vit_b": "sam:100m",
    "vit_l": "sam:300m",
    "vit_h": "sam:latest",
    "sam2_t": "sam2:tiny",
    "sam2_s": "sam2:small",
    "sam2_bp": "sam2:latest",
    "sam2_l": "sam2:large",
    "sam3": SAM3,
}
BUILTIN: Final = "builtin:latest"
# In the extension, weights are a URL. These are a model's name.
WEIGHTS: Final = "osamd:"
BASE64_KEY: Final = re.compile(rb'"(?:b64img|b64mask)"\s{0,64}:\s{0,64}"\Z')

Coordinates = Annotated[list[Number], Field(min_length=2, max_length=2, fail_fast=True)]
Corners = Annotated[list[Number], Field(min_length=4, max_length=4, fail_fast=True)]

operations = Operations("/qupath")


class ImageBody(ToolModel):
    """What both kinds of requests have."""

    type: StrictStr = Field(default="vit_h", description="The kind of model, such as `sam2_t`.")
    b64img: Base64Text = Field(description="An encoded image in base64.")
    checkpoint_url: StrictStr | None = Field(default=None, description="One of `weights/`, such as `osamd:builtin`.")

    def model(self) -> str:
        """The model by osamd's name.

        Raises:
            InvalidRequestError: there is no such type, or the weights are a URL.
        """
        if self.checkpoint_url:
            if not self.checkpoint_url.startswith(WEIGHTS):
                raise InvalidRequestError(
                    "expected weights of this server, from weights/; URLs of others are not fetched",
                    field="checkpoint_url",
                )
            return self.checkpoint_url.removeprefix(WEIGHTS)
        if self.type not in MODELS:
            raise InvalidRequestError(f"expected one of {', '.join(MODELS)}, got {shown(self.type)}", field="type")
        return MODELS[self.type]

    def source(self) -> ImageSource:
        """The image."""
        return ImageSource.of_bytes(decode_base64(self.b64img, field="b64img"))


class PromptBody(ImageBody):
    """A box, points, or both."""

    bbox: Corners | None = Field(default=None, description="x1, y1, x2, y2.")
    point_coords: list[Coordinates] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    point_labels: list[Fraction] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    b64mask: Base64Text | None = Field(default=None, description="Ignored.")
    multimask_output: bool = False


class ConceptBody(ImageBody):
    """Words, boxes around examples, or both."""

    text_prompt: StrictStr | None = None
    positive_bboxes: list[Corners] | None = Field(
        default=None, max_length=LONGEST_LIST, fail_fast=True, description="x, y, width, height of each."
    )
    negative_bboxes: list[Corners] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    confidence_threshold: Fraction = 0.5


@operations.get("/version/", Operation("Version", replies={"text/plain": str}))
async def version(_: Request) -> PlainTextResponse:
    """The version of samapi that this resembles."""
    return PlainTextResponse(VERSION)


@operations.get("/weights/", Operation("Weights", query=("type",)))
async def weights(request: Request) -> JSONResponse:
    """The models for a type: its own, and the built-in one, which needs no download."""
    kind = request.query_params.get("type", "")
    known = {kind: MODELS[kind]} if kind in MODELS else MODELS
    names = [(kind, name) for kind, own in known.items() for name in (own, BUILTIN) if kind != "sam3" or name == own]
    return JSONResponse([{"type": kind, "name": name, "url": WEIGHTS + name} for kind, name in names])


ERRORS: Final = (*IMAGE_ERRORS, InvalidPromptError)


@operations.post("")
@operations.post("/", Operation("Points and a box", body=PromptBody, errors=ERRORS))
async def predict(request: Request) -> Response:
    """The object at a box or points as GeoJSON, or up to three candidates."""
    return await answer(request, clicks, _write)


@operations.post("/sam3/", Operation("Words and examples", body=ConceptBody, errors=ERRORS))
async def predict_concept(request: Request) -> Response:
    """All objects that fit the words and the examples, as GeoJSON."""
    return await answer(request, concepts, _write)


def clicks(body: RawBody, settings: Settings) -> Ask[str]:
    """What the extension asks with points and boxes."""
    fields = from_json(_whole(body), PromptBody, base64_key=BASE64_KEY)
    points, labels = fields.point_coords or [], fields.point_labels or []
    prompt = prompt_of(
        settings,
        field="point_coords" if fields.bbox is None else "bbox",
        points=points,
        labels=[1] * len(points) if fields.point_labels is None else [int(label) for label in labels],
        boxes=[] if fields.bbox is None else [fields.bbox],
        parts={
            "points": [f"point_coords[{index}]" for index in range(len(points))],
            "point_labels": "point_labels",
            "boxes": "bbox",
        },
    )
    return _asked(fields, prompt, multimask=fields.multimask_output)


def concepts(body: RawBody, settings: Settings) -> Ask[str]:
    """What the extension asks with words and examples."""
    fields = from_json(_whole(body), ConceptBody, base64_key=BASE64_KEY)
    if fields.negative_bboxes:
        raise InvalidPromptError("negative boxes are not supported", field="negative_bboxes")
    boxes = [(x, y, x + width, y + height) for x, y, width, height in fields.positive_bboxes or ()]
    prompt = prompt_of(
        settings,
        field="positive_bboxes" if boxes else "text_prompt",
        boxes=boxes,
        texts=[fields.text_prompt] if fields.text_prompt else [],
        score_threshold=fields.confidence_threshold,
        parts={"boxes": [f"positive_bboxes[{index}]" for index in range(len(boxes))], "texts": "text_prompt"},
    )
    return _asked(fields, prompt)


def _asked(fields: ImageBody, prompt: Prompt, *, multimask: bool = False) -> Ask[str]:
    return Ask(
        image=fields.source(),
        how=fields.type,
        model=fields.model(),
        prompts=(prompt,),
        multimask=multimask,
        needs_masks=True,
        refinable=False,
        clip=True,
        fields={"model": "checkpoint_url" if fields.checkpoint_url else "type"},
    )


def _whole(body: RawBody) -> bytes:
    raw = b"".join(body.chunks)
    body.chunks.clear()
    return raw


def _write(result: SegmentResult, ask: Ask[str], _: Settings, room: Room) -> Generator[None, None, Content]:
    from osamd.pixels.edge_polygons import edge_polygons

    pieces = ReplyPieces(room)
    separator = b"["
    for found in result.annotations:
        if found.mask is None:
            continue
        # Of rows and of columns.
        pieces.expect(2 * BYTES_PER_CROSSING * crossings(found.mask))
        parts = yield from edge_polygons(found.mask)
        pieces.add(separator)
        separator = b","
        yield from pieces.add_all(_feature(found, parts, ask.how))
    pieces.add(b"[]" if separator == b"[" else b"]")
    return Content(pieces.all())


def _feature(found: Annotation, parts: Sequence["EdgePolygon"], kind: str) -> Iterator[bytes]:
    """GeoJSON. Without ``object_idx``, of which the extension would make a class of the object."""
    properties = {"label": "object", "quality": 1.0 if found.score is None else found.score, "sam_model": kind}
    yield b'{"type":"Feature","properties":' + to_json(properties)
    yield b',"geometry":{"type":"MultiPolygon","coordinates":'
    separator = b"["
    for part in parts:
        yield separator
        separator = b","
        opening = b"["
        for ring in (part.exterior, *part.holes):
            yield opening
            opening = b","
            yield from _ring(ring)
        yield b"]"
    yield b"]}}"


def _ring(points: AnyFloatArray) -> Iterator[bytes]:
    for start in range(0, len(points), PAIRS_AT_ONCE):
        some = points[start : start + PAIRS_AT_ONCE]
        written = b",[%.1f,%.1f]" * len(some) % tuple(some.ravel().tolist())
        yield written if start else b"[" + written[1:]
    yield b"]"


DOOR = Door(
    name=NAME,
    summary="What QuPath's SAM extension calls. Needs no key from OSAMD_KEYLESS_NETWORKS.",
    paths=("/qupath", "/qupath/"),
    operations=operations,
    write_error=json_errors(
        key_advice="a key is needed from this address: QuPath cannot send one, so use an SSH tunnel to the server's"
        " loopback, or list this network in OSAMD_KEYLESS_NETWORKS"
    ),
    is_keyless=True,
)
