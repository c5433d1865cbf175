"""The engine's results on the wire. Nothing else."""

import base64
import threading
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, Field

from osamd.errors import DeadlineExceededError, InvalidPromptError
from osamd.settings import Include, MaskLayout, Settings
from osamd.types import Annotation, Embedding, ExchangedEmbedding, FloatArray, ImageHandle, Mask, SegmentResult
from osamd.wire.schemas import ArraySchema, ArrayType, EmbeddingSchema, GenerateBody, MaskFormat

# Of masks written at the image's size, against those the engine may hold: they cost time, and memory one at a time.
CANVAS_FACTOR: Final = 4
WHOLE_FORMATS: Final = frozenset({"png", "rle"})


class BoundingBoxSchema(BaseModel):
    """Corners in whole pixels, both included."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class RleSchema(BaseModel):
    """COCO's compressed run lengths, as pycocotools writes them."""

    size: tuple[int, int] = Field(description="Rows and columns.")
    counts: str


class PolygonSchema(BaseModel):
    """A connected part: a pixel belongs to it when its centre is inside or on the exterior and not inside a hole."""

    exterior: list[tuple[int, int]]
    holes: list[list[tuple[int, int]]]


class AnnotationSchema(BaseModel):
    """One object."""

    bounding_box: BoundingBoxSchema
    text: str | None = None
    score: float | None = Field(default=None, description="The model's confidence, 0 to 1, where it has one.")
    mask: str | RleSchema | list[PolygonSchema] | None = None
    mask_id: str | None = Field(default=None, description="For `prompt.mask_input`, where the model can refine.")
    prompt_index: int = 0
    mask_index: int = 0


class HandleSchema(BaseModel):
    """Answer of ``POST /api/embed``."""

    model: str
    image_id: str = Field(description="Send it instead of the image.")
    width: int
    height: int
    expires_at: str = Field(description="UTC; later when it is used before.")


class GenerateReply(HandleSchema):
    """Answer of ``POST /api/generate``: osam's fields, and the image's handle."""

    image_embedding: EmbeddingSchema | None = None
    annotations: list[AnnotationSchema]


def handle_schema(handle: ImageHandle) -> HandleSchema:
    """A handle on the wire."""
    return HandleSchema(
        model=handle.model,
        image_id=handle.image_id,
        width=handle.width,
        height=handle.height,
        expires_at=handle.expires_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def license_header(name: str) -> dict[str, str]:
    """``X-Osamd-License``. A user's row may name a licence in letters that a header cannot carry."""
    return {"X-Osamd-License": (name or "unknown").encode("ascii", "replace").decode("ascii")}


def generate_reply(
    result: SegmentResult, body: GenerateBody, settings: Settings, abandoned: threading.Event
) -> GenerateReply:
    """A result on the wire, in the layout and format asked for.

    Args:
        result: of the engine.
        body: what was asked.
        settings: what is taken where the body says nothing.
        abandoned: set when nobody waits any more; then no further mask is written.

    Raises:
        InvalidPromptError: written at the image's size, the masks have more pixels than may be.
        DeadlineExceededError: it was abandoned.
    """
    layout = body.mask_layout or settings.mask_layout
    mask_format = body.mask_format or "png"
    if layout == "full" and mask_format in WHOLE_FORMATS:
        _check_canvases(result, most=CANVAS_FACTOR * settings.max_mask_pixels)
    annotations = []
    for item in result.annotations:
        if abandoned.is_set():
            raise DeadlineExceededError("nobody waits for this any more")
        annotations.append(_annotation_schema(item, layout, mask_format))
    return GenerateReply(
        **handle_schema(result.image).model_dump(),
        image_embedding=_included_embedding(result.embedding, included(body, settings)),
        annotations=annotations,
    )


def _check_canvases(result: SegmentResult, *, most: int) -> None:
    """See whether masks at the image's size are few enough: each is painted whole, however small the object."""
    count = sum(annotation.mask is not None for annotation in result.annotations)
    pixels = count * result.image.height * result.image.width
    if pixels > most:
        raise InvalidPromptError(
            f"{count} masks at the image's size have {pixels:,} pixels, and {most:,} are allowed: ask for"
            ' mask_layout "crop", for mask_format "polygon", or for fewer at once',
            field="mask_layout",
        )


def included(body: GenerateBody, settings: Settings) -> Sequence[Include]:
    """What the reply has besides its annotations: as asked, or as the server is set."""
    return settings.include if body.include is None else body.include


def _included_embedding(embedding: Embedding | None, include: Sequence[Include]) -> EmbeddingSchema | None:
    if embedding is None:
        return None
    if "image_embedding_compact" in include:
        return _embedding_schema(embedding, is_compact=True)
    return _embedding_schema(embedding, is_compact=False) if "image_embedding" in include else None


def _annotation_schema(annotation: Annotation, layout: MaskLayout, mask_format: MaskFormat) -> AnnotationSchema:
    box = annotation.box
    return AnnotationSchema(
        bounding_box=BoundingBoxSchema(xmin=box.xmin, ymin=box.ymin, xmax=box.xmax, ymax=box.ymax),
        text=annotation.text,
        score=annotation.score,
        mask=None if annotation.mask is None else _mask_value(annotation.mask, layout, mask_format),
        mask_id=annotation.mask_id,
        prompt_index=annotation.prompt_index,
        mask_index=annotation.mask_index,
    )


def _mask_value(
    mask: Mask, layout: MaskLayout, mask_format: MaskFormat
) -> str | RleSchema | list[PolygonSchema] | None:
    from osamd.pixels import masks  # noqa: PLC0415 - OpenCV is loaded with the first mask, not at start

    if mask_format == "none":
        return None
    if mask_format == "polygon":
        return [
            PolygonSchema(exterior=list(part.exterior), holes=[list(hole) for hole in part.holes])
            for part in masks.polygons(mask)
        ]
    pixels = masks.full_array(mask) if layout == "full" else masks.cropped_array(mask)
    if mask_format == "rle":
        runs = masks.encode_rle(pixels)
        return RleSchema(size=runs.size, counts=runs.counts)
    return base64.b64encode(masks.encode_png(pixels)).decode("ascii")


def union_png(result: SegmentResult) -> bytes:
    """All masks of a result in one PNG at image size; black where there are none."""
    import numpy as np  # noqa: PLC0415 - 0.1 s that /health must not wait for

    from osamd.pixels import masks  # noqa: PLC0415 - as above

    canvas = np.zeros((result.image.height, result.image.width), np.uint8)
    for annotation in result.annotations:
        if annotation.mask is not None:
            masks.paint(canvas, annotation.mask)
    return masks.encode_png(canvas)


def exchanged(embedding: Embedding) -> ExchangedEmbedding:
    """An embedding as it travels: without the decoder's names, as float32 (C, H, W) arrays in osam's order."""
    return ExchangedEmbedding(
        height=embedding.height,
        width=embedding.width,
        arrays=tuple(feature[0].astype("float32") for feature in embedding.features.values()),
    )


def _embedding_schema(embedding: Embedding, *, is_compact: bool) -> EmbeddingSchema:
    value = exchanged(embedding)
    first, *rest = value.arrays
    dtype: ArrayType = "float16" if is_compact else "float32"
    return EmbeddingSchema(
        original_height=value.height,
        original_width=value.width,
        embedding=_array_schema(first, dtype) if is_compact else first.tolist(),
        extra_features=[_array_schema(array, dtype) for array in rest],
    )


def _array_schema(array: FloatArray, dtype: ArrayType) -> ArraySchema:
    import numpy as np  # noqa: PLC0415 - 0.1 s that /health must not wait for

    data = base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode("ascii")
    return ArraySchema(shape=list(array.shape), dtype=dtype, data=data)
