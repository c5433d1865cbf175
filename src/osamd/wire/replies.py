"""Writes the engine's results in the wire format."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Final, TypeVar

from pydantic import Field
from pydantic_core import to_json

from osamd.errors import InvalidPromptError
from osamd.image_sources import ExchangedEmbedding
from osamd.pixels.everything import EverythingResult, Proposal, Stopped
from osamd.segment_requests import ImageHandle, SegmentResult
from osamd.settings import Include, Settings
from osamd.types import Annotation, ByteArray, Cleaning, Embedding, FloatArray
from osamd.wire.embedding_schema import ArrayType, EmbeddingSchema
from osamd.wire.fields import ReplyModel
from osamd.wire.json_pieces import ReplyPieces, Room
from osamd.wire.mask_fields import CANVAS_FACTOR, WHOLE_FORMATS
from osamd.wire.mask_values import MaskForm, crossings, cut_out_of, write_array, write_mask
from osamd.wire.schemas import GenerateBody

# Memory per pixel of a cut-out while it is written: as pixels, as PNG and as base64.
CUTOUT_BYTES_PER_PIXEL: Final = 12
# Memory of a polygon while it is written, per pixel at which a row enters or leaves the mask: measured with noise,
# which has at most two vertices for each.
BYTES_PER_CROSSING: Final = 150

Written = TypeVar("Written")


class BoundingBoxSchema(ReplyModel):
    """Corners in whole pixels, both included."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class RleSchema(ReplyModel):
    """COCO's compressed run lengths, as pycocotools writes them."""

    size: tuple[int, int] = Field(description="Rows and columns.")
    counts: str


class PolygonSchema(ReplyModel):
    """A connected part: a pixel belongs to it when its centre is inside or on the exterior and not inside a hole."""

    exterior: list[tuple[int, int]]
    holes: list[list[tuple[int, int]]]


class AnnotationSchema(ReplyModel):
    """One object."""

    bounding_box: BoundingBoxSchema
    text: str | None = None
    score: float | None = Field(default=None, description="The model's confidence, 0 to 1, if it has one.")
    predicted_iou: float | None = Field(
        default=None,
        description="Chains: the segmenter's estimate of the mask's quality, 0 to 1; `score` is the detector's.",
    )
    mask: str | RleSchema | list[PolygonSchema] | None = None
    mask_id: str | None = Field(default=None, description="For `prompt.mask_input`, if the model can refine masks.")
    prompt_index: int = 0
    mask_index: int = 0


class ProposalSchema(AnnotationSchema):
    """One object of everything mode."""

    number: int = Field(description="In the order in which masks were found; names the mask in a stream.")
    point: tuple[float, float] = Field(description="The click that found it: x, y in pixels.")
    stability_score: float = Field(description="0 to 1; see `stability_score_offset`.")
    area: int = Field(description="Pixels of the mask, before `smooth`, `fill_holes` and `drop_islands`.")


class ProgressSchema(ReplyModel):
    """How far everything mode is."""

    points_total: int = Field(description="Points of the grid.")
    points_tried: int = Field(description="Points decoded so far.")
    points_skipped: int = Field(description="Points skipped so far because a mask explains them.")
    masks: int = Field(description="Masks found so far, without those replaced by better ones.")


class EverythingReport(ProgressSchema):
    """How everything mode ended."""

    stopped: Stopped = Field(
        description="`all_points`: no points were left. `max_masks`, `max_seconds`: that limit was reached."
        " `mask_limit`: the server's limit for masks was reached; crops or another `mask_format` may need less."
    )


class HandleSchema(ReplyModel):
    """Answer of ``POST /api/embed``."""

    model: str
    image_id: str = Field(description="Send it instead of the image.")
    width: int
    height: int
    expires_at: str = Field(description="UTC; extended whenever it is used.")


class GenerateReply(HandleSchema):
    """Answer of ``POST /api/generate``: osam's fields, and the image's handle."""

    image_embedding: EmbeddingSchema | None = None
    annotations: list[AnnotationSchema]


class EverythingReply(HandleSchema):
    """Answer of ``POST /api/generate`` in everything mode; the best masks come first."""

    image_embedding: EmbeddingSchema | None = None
    annotations: list[ProposalSchema]
    everything: EverythingReport


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
    """``X-Osamd-License``. A custom row may name a licence with characters that a header cannot contain."""
    return {"X-Osamd-License": (name or "unknown").encode("ascii", "replace").decode("ascii")}


def notes_header(handle: ImageHandle) -> dict[str, str]:
    """``X-Osamd-Conversion``: how the image was converted, if its samples were not 8-bit RGB."""
    return {"X-Osamd-Conversion": "; ".join(handle.notes)} if handle.notes else {}


def write_reply(
    result: SegmentResult, body: GenerateBody, settings: Settings, room: Room
) -> Generator[None, None, list[bytes]]:
    """Write a result in the requested layout and format, as a ``GenerateReply`` or ``EverythingReply`` in JSON.

    Yields between masks and between pieces of them, so that other jobs can run in between.

    Args:
        result: the engine's result.
        body: the request's fields.
        settings: defaults for fields that are not given.
        room: called with the bytes the reply takes so far, without the masks; raises if there is not enough memory.

    Returns:
        The JSON in pieces, so that it is never in memory twice.

    Raises:
        InvalidPromptError: at image size, the masks have too many pixels.
        OsamdError: what ``room`` raises.
    """
    is_whole = (body.mask_layout or settings.mask_layout) == "full"
    if is_whole and (body.mask_format or "png") in WHOLE_FORMATS:
        check_canvases(result, most=CANVAS_FACTOR * settings.max_mask_pixels)
    pieces = ReplyPieces(room)
    pieces.add(to_json(handle_schema(result.image))[:-1] + b',"image_embedding":')
    yield from _write_embedding(result.embedding, included(body, settings), pieces)
    pieces.add(b',"annotations":[')
    for index, found in enumerate(result.annotations):
        if index:
            yield
            pieces.add(b",")
        yield from write_annotation(found, body, settings, pieces, pixels=result.pixels)
    pieces.add(b"]")
    if isinstance(result, EverythingResult):
        report = EverythingReport(**asdict(result.progress), stopped=result.stopped)
        pieces.add(b',"everything":' + to_json(report))
    pieces.add(b"}")
    return pieces.all()


def write_annotation(
    found: Annotation, body: GenerateBody, settings: Settings, pieces: ReplyPieces, *, pixels: ByteArray | None = None
) -> Generator[None, None, None]:
    """Write one object in the requested layout and format, as an ``AnnotationSchema`` or ``ProposalSchema``.

    Args:
        found: the object.
        body: the request's fields.
        settings: defaults for fields that are not given.
        pieces: receives the JSON.
        pixels: (height, width, 3) uint8 RGB, the image, for cut-outs.
    """
    layout, mask_format = body.mask_layout or settings.mask_layout, body.mask_format or "png"
    cleaning = body.to_cleaning()
    item = cleaned(found, cleaning)
    if mask_format == "polygon" and item.mask is not None:
        pieces.expect(BYTES_PER_CROSSING * crossings(item.mask))
    if mask_format == "cutout" and item.mask is not None:
        area = item.mask.inside.size if layout == "crop" else item.mask.height * item.mask.width
        pieces.expect(CUTOUT_BYTES_PER_PIXEL * area)
    yield from _write_item(item, MaskForm(layout, mask_format, cleaning.simplify, pixels), pieces)


def cleaned(annotation: Annotation, cleaning: Cleaning) -> Annotation:
    """An object with its mask cleaned, and the bounding box of that mask."""
    if annotation.mask is None:
        return annotation
    from osamd.pixels.cleaning import clean

    mask = clean(annotation.mask, cleaning)
    return replace(annotation, mask=mask, box=mask.box)


def finish(writing: Generator[None, None, Written]) -> Written:
    """Run a generator to its end and return its result."""
    while True:
        try:
            next(writing)
        except StopIteration as end:
            written: Written = end.value
            return written


def no_limit(_: int) -> None:
    """A ``room`` without a limit."""


def check_canvases(result: SegmentResult, *, most: int) -> None:
    """Limit masks at image size: each is painted in full, however small the object.

    Raises:
        InvalidPromptError: together they have more pixels than ``most``.
    """
    count = sum(annotation.mask is not None for annotation in result.annotations)
    pixels = count * result.image.height * result.image.width
    if pixels > most:
        raise InvalidPromptError(
            f"the masks at image size have {pixels:,} pixels together; the limit is {most:,}: request"
            ' mask_layout "crop", mask_format "polygon", or fewer masks',
            field="mask_layout",
        )


def included(body: GenerateBody, settings: Settings) -> Sequence[Include]:
    """What the reply includes besides its annotations: as requested, or the server's default."""
    return settings.include if body.include is None else body.include


def _write_embedding(
    embedding: Embedding | None, include: Sequence[Include], pieces: ReplyPieces
) -> Generator[None, None, None]:
    """Write an ``EmbeddingSchema``, or null if none is to be included."""
    if embedding is None or not include:
        pieces.add(b"null")
        return
    value = exchanged(embedding)
    first, *rest = value.arrays
    is_compact = "image_embedding_compact" in include
    dtype: ArrayType = "float16" if is_compact else "float32"
    pieces.add(b'{"original_height":%d,"original_width":%d,"embedding":' % (value.height, value.width))
    if is_compact:
        yield from pieces.add_all(_array_pieces(first, dtype))
    else:
        # Formatting lists of numbers is slow, so they are written one channel at a time.
        for index, channel in enumerate(first):
            if index:
                yield
            pieces.add((b"," if index else b"[") + to_json(channel.tolist()))
        pieces.add(b"]")
    yield
    pieces.add(b',"extra_features":[')
    for index, array in enumerate(rest):
        pieces.add(b"," if index else b"")
        yield from pieces.add_all(_array_pieces(array, dtype))
    pieces.add(b"]}")


def _write_item(annotation: Annotation, form: MaskForm, pieces: ReplyPieces) -> Generator[None, None, None]:
    box = annotation.box
    schema = AnnotationSchema(
        bounding_box=BoundingBoxSchema(xmin=box.xmin, ymin=box.ymin, xmax=box.xmax, ymax=box.ymax),
        text=annotation.text,
        score=annotation.score,
        predicted_iou=annotation.predicted_iou,
        mask_id=annotation.mask_id,
        prompt_index=annotation.prompt_index,
        mask_index=annotation.mask_index,
    )
    if isinstance(annotation, Proposal):
        more = {name: getattr(annotation, name) for name in ("number", "point", "stability_score", "area")}
        schema = ProposalSchema(**dict(schema), **more)
    if annotation.mask is None:
        pieces.add(to_json(schema))
        return
    # Written around the mask, which may be too large for one call.
    before = {"bounding_box", "text", "score", "predicted_iou"}
    pieces.add(to_json(schema, include=before)[:-1] + b',"mask":')
    yield from pieces.add_all(write_mask(annotation.mask, form))
    pieces.add(b"," + to_json(schema, exclude=before | {"mask"})[1:])


def write_union(result: SegmentResult, body: GenerateBody, settings: Settings, room: Room) -> list[bytes]:
    """All masks as one PNG, in pieces: their union at image size, black outside, or a cut-out; of everything, labels.

    Arguments and errors as for ``write_reply``.
    """
    cleaning = body.to_cleaning()
    if isinstance(result, EverythingResult):
        return [_labels_png(result, cleaning)]
    if body.mask_format != "cutout":
        return [_union_png(result, cleaning)]
    room(CUTOUT_BYTES_PER_PIXEL * result.image.height * result.image.width)
    found = [mask for item in result.annotations if (mask := cleaned(item, cleaning).mask) is not None]
    layout = body.mask_layout or settings.mask_layout
    return list(cut_out_of(result.pixels, found, is_whole=layout == "full"))


def _labels_png(result: EverythingResult, cleaning: Cleaning) -> bytes:
    """An indexed PNG: each pixel is 1 + the rank of the smallest mask there, or 0."""
    import numpy as np

    from osamd.pixels import masks

    labels = np.zeros((result.image.height, result.image.width), np.uint8)
    found = [(rank, mask) for rank, item in enumerate(result.annotations, 1) if (mask := cleaned(item, cleaning).mask)]
    for rank, mask in sorted(found, key=lambda item: -np.count_nonzero(item[1].inside)):
        box = mask.box
        labels[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1][mask.inside] = rank
    return masks.encode_labels(labels)


def _union_png(result: SegmentResult, cleaning: Cleaning) -> bytes:
    import numpy as np

    from osamd.pixels import masks

    canvas = np.zeros((result.image.height, result.image.width), np.uint8)
    for found in result.annotations:
        mask = cleaned(found, cleaning).mask
        if mask is not None:
            masks.paint(canvas, mask)
    return masks.encode_png(canvas)


def exchanged(embedding: Embedding) -> ExchangedEmbedding:
    """An embedding for exchange: without the decoder's names, as float32 (C, H, W) arrays in osam's order."""
    return ExchangedEmbedding(
        height=embedding.height,
        width=embedding.width,
        arrays=tuple(feature[0].astype("float32") for feature in embedding.features.values()),
    )


def _array_pieces(array: FloatArray, dtype: ArrayType) -> Iterable[bytes]:
    import numpy as np

    values = np.ascontiguousarray(array, dtype)
    return write_array(values.reshape(-1).view(np.uint8).data, shape=array.shape, dtype=dtype)
