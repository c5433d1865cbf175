"""The wire format and its translation into the engine's types and back. Nothing else."""

import base64
import binascii
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, model_validator

from osamd.errors import InvalidPromptError, InvalidRequestError
from osamd.settings import Include, MaskLayout, Settings
from osamd.types import Annotation, Embedding, ImageHandle, Mask, Prompt, SegmentResult

MaskFormat = Literal["png", "rle", "polygon", "none"]

BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 0, 1, 2, 3
# No request of any configuration may make the parser build longer lists than this.
LONGEST_LIST = 4096
LABELS = frozenset({BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT})
BOX_NUMBERS = 4
LARGEST_NUMBER = float(np.finfo(np.float32).max)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is wanted")  # noqa: TRY004 - pydantic reports ValueError only
    try:
        number = float(value)
    except OverflowError:  # JSON's integers have no end
        number = math.inf
    # Prompts are computed in float32.
    if not abs(number) <= LARGEST_NUMBER:
        raise ValueError("a finite number is wanted")
    return number


def _label(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in LABELS:
        raise ValueError("0 (background), 1 (foreground), 2 (top-left corner) or 3 (bottom-right corner) is wanted")
    return int(value)


Number = Annotated[float, BeforeValidator(_number)]
Label = Annotated[int, BeforeValidator(_label)]
Point = Annotated[list[Number], Field(min_length=2, max_length=2)]
BoxNumbers = Annotated[list[Number], Field(min_length=BOX_NUMBERS, max_length=BOX_NUMBERS)]


class WireModel(BaseModel):
    """Unknown fields are refused: a misspelt prompt must not become a default one."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


def _fold(values: Any, spellings: dict[str, str]) -> Any:
    """Rename the second spelling of a field to the first; both together must agree."""
    if not isinstance(values, dict):
        return values
    folded = dict(values)
    for other, name in spellings.items():
        if other in folded:
            value = folded.pop(other)
            if folded.get(name) not in (None, value):
                raise ValueError(f"{name} and {other} are two spellings of one field and differ")
            folded[name] = value
    return folded


class PromptSchema(WireModel):
    """What to segment: clicks, a box, words, or a mask to refine."""

    points: list[Point] | None = Field(
        default=None, max_length=LONGEST_LIST, description="x, y in pixels of the upright image."
    )
    point_labels: list[Label] | None = Field(
        default=None,
        max_length=LONGEST_LIST,
        description="One a point: 0 background, 1 foreground, 2 and 3 a box's top-left and bottom-right corner."
        " Also spelt `labels`.",
    )
    box: BoxNumbers | None = Field(default=None, description="x1, y1, x2, y2 in pixels.")
    texts: list[StrictStr] | None = Field(
        default=None, max_length=LONGEST_LIST, description="Words, for models that take them."
    )
    mask_input: StrictStr | None = Field(default=None, description="The `mask_id` of an earlier answer, to refine it.")
    iou_threshold: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=0.5, description="Detectors: overlap above which the weaker of two boxes is dropped."
    )
    score_threshold: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=0.1, description="Detectors: objects with a lower score are left out."
    )
    max_annotations: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = Field(
        default=100, description="Detectors: at most so many objects."
    )

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: Any) -> Any:
        return _fold(values, {"labels": "point_labels"})

    def to_prompt(self, settings: Settings, field: str) -> Prompt:
        """The engine's prompt.

        Raises:
            InvalidPromptError: labels do not fit the points, corners do not pair up, nothing is asked, or a limit is
                passed.
        """
        points, labels = self.points or [], self.point_labels or []
        if len(points) != len(labels):
            message = f"there are {len(points)} points but {len(labels)} labels: one label a point is wanted"
            raise InvalidPromptError(message, field=f"{field}.point_labels")
        boxes = _boxes_of_corners(points, labels, field)
        if self.box is not None:
            boxes.insert(0, self.box)
        clicks = [(point, label) for point, label in zip(points, labels, strict=True) if label <= FOREGROUND]
        if not (clicks or boxes or self.texts or self.mask_input):
            raise InvalidPromptError(
                "the prompt is empty: give points with point_labels, a box, texts or mask_input", field=field
            )
        _check_count(len(points), settings.max_points, f"{field}.points")
        _check_count(len(boxes), settings.max_boxes, f"{field}.boxes")
        texts = self.texts or []
        _check_count(len(texts), settings.max_texts, f"{field}.texts")
        for index, text in enumerate(texts):
            if not 0 < len(text.strip()) <= len(text) <= settings.max_text_chars:
                message = f"a text of 1 to {settings.max_text_chars} characters is wanted"
                raise InvalidPromptError(message, field=f"{field}.texts[{index}]")
        defaults = Prompt()
        return Prompt(
            points=np.array([point for point, _ in clicks], np.float32).reshape(-1, 2),
            point_labels=np.array([label for _, label in clicks], np.int64),
            boxes=np.array(boxes, np.float32).reshape(-1, BOX_NUMBERS),
            texts=tuple(texts),
            mask_id=self.mask_input,
            iou_threshold=defaults.iou_threshold if self.iou_threshold is None else self.iou_threshold,
            score_threshold=defaults.score_threshold if self.score_threshold is None else self.score_threshold,
            max_annotations=defaults.max_annotations if self.max_annotations is None else self.max_annotations,
        )


def _check_count(count: int, limit: int, field: str) -> None:
    if count > limit:
        raise InvalidPromptError(f"there are {count}; at most {limit} are allowed", field=field)


def _boxes_of_corners(points: list[Point], labels: list[Label], field: str) -> list[list[float]]:
    """Osam's spelling of boxes: corners labelled 2 and 3, paired in their order."""
    top_left = [point for point, label in zip(points, labels, strict=True) if label == BOX_TOP_LEFT]
    bottom_right = [point for point, label in zip(points, labels, strict=True) if label == BOX_BOTTOM_RIGHT]
    if len(top_left) != len(bottom_right):
        message = (
            f"labels 2 and 3 are the two corners of a box and come in pairs; there are {len(top_left)} of 2 and"
            f" {len(bottom_right)} of 3"
        )
        raise InvalidPromptError(message, field=f"{field}.point_labels")
    return [[*first, *second] for first, second in zip(top_left, bottom_right, strict=True)]


class ImageFields(WireModel):
    """The fields that name a model and an image, in every spelling."""

    model: StrictStr | None = Field(
        default=None, description="A model's name or alias; the built-in one by default. Also spelt `model_id`."
    )
    image: StrictStr | None = Field(
        default=None, description="An encoded image in base64, data URIs too. Also spelt `image_base64`."
    )
    image_id: StrictStr | None = Field(
        default=None, description="A handle from an earlier answer, instead of an image."
    )
    image_path: StrictStr | None = Field(
        default=None, description="A file on the server, where its operator allows that (`OSAMD_IMAGE_ROOT`)."
    )

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: Any) -> Any:
        return _fold(values, {"model_id": "model", "image_base64": "image"})


class EmbedBody(ImageFields):
    """Body of ``POST /api/embed``."""


class GenerateBody(ImageFields):
    """Body of ``POST /api/generate``: osam's, the seed document's, and what osamd adds."""

    prompt: PromptSchema | None = Field(
        default=None, description="What to segment; without it the model's default, such as a click in the middle."
    )
    prompts: list[PromptSchema] | None = Field(
        default=None,
        min_length=1,
        max_length=LONGEST_LIST,
        description="Several prompts on one image; annotations carry `prompt_index`.",
    )
    multimask: StrictBool = Field(
        default=False, description="Up to three candidates a prompt, best first, where the model has them."
    )
    mask_layout: MaskLayout | None = Field(
        default=None, description="`full`: the mask covers the image. `crop`: it covers `bounding_box`."
    )
    mask_format: MaskFormat = Field(
        default="png",
        description="`png`: base64. `rle`: COCO's compressed run lengths. `polygon`: rings in image pixels."
        " `none`: null.",
    )
    include: list[Include] | None = Field(default=None, description="`image_embedding`: the embedding in the reply.")
    image_embedding: None = Field(default=None, description="Not taken yet; null for osam's clients.")
    annotations: None = Field(default=None, description="Ignored; null for osam's clients.")

    def to_prompts(self, settings: Settings) -> tuple[Prompt, ...] | None:
        """The engine's prompts; None where the model's default is wanted.

        Raises:
            InvalidPromptError: one of them makes no sense, or there are too many.
            InvalidRequestError: both ``prompt`` and ``prompts`` are given.
        """
        if self.prompts is None:
            return None if self.prompt is None else (self.prompt.to_prompt(settings, "prompt"),)
        if self.prompt is not None:
            raise InvalidRequestError("give either prompt or prompts, not both", field="prompts")
        _check_count(len(self.prompts), settings.max_prompts, "prompts")
        return tuple(prompt.to_prompt(settings, f"prompts[{index}]") for index, prompt in enumerate(self.prompts))


def decode_base64(text: str) -> bytes:
    """Bytes of base64 text, with or without a data URI in front of it and white space in it.

    Raises:
        InvalidRequestError: it is not base64, or nothing is in it.
    """
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError("not base64", field="image") from None
    if not data:
        raise InvalidRequestError("the image is empty", field="image")
    return data


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


class ArraySchema(BaseModel):
    """An array in base64, as osam writes the extra features of an embedding."""

    shape: list[int]
    dtype: str
    data: str


class EmbeddingSchema(BaseModel):
    """osam's embedding."""

    original_height: int
    original_width: int
    embedding: list[list[list[float]]] = Field(description="(C, H, W)")
    extra_features: list[ArraySchema]


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


def generate_reply(result: SegmentResult, body: GenerateBody, settings: Settings) -> GenerateReply:
    """A result on the wire, in the layout and format asked for."""
    layout = body.mask_layout or settings.mask_layout
    include = settings.include if body.include is None else body.include
    return GenerateReply(
        **handle_schema(result.image).model_dump(),
        image_embedding=_embedding_schema(result.embedding) if "image_embedding" in include else None,
        annotations=[_annotation_schema(item, layout, body.mask_format) for item in result.annotations],
    )


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
    from osamd import masks  # noqa: PLC0415 - OpenCV is loaded with the first mask, not at start

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
    from osamd import masks  # noqa: PLC0415 - as above

    canvas = np.zeros((result.image.height, result.image.width), np.uint8)
    for annotation in result.annotations:
        if annotation.mask is not None:
            masks.paint(canvas, annotation.mask)
    return masks.encode_png(canvas)


def _embedding_schema(embedding: Embedding) -> EmbeddingSchema:
    first, *rest = embedding.features.values()
    return EmbeddingSchema(
        original_height=embedding.height,
        original_width=embedding.width,
        embedding=first[0].astype(np.float32).tolist(),
        extra_features=[_array_schema(feature[0].astype(np.float32)) for feature in rest],
    )


def _array_schema(array: np.ndarray[Any, np.dtype[np.float32]]) -> ArraySchema:
    return ArraySchema(
        shape=list(array.shape), dtype="float32", data=base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    )
