"""Requests of inference-sdk: bytes in, what to segment out."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, StrictStr, field_validator

from osamd.errors import InvalidPromptError, InvalidRequestError, shown
from osamd.image_sources import ImageSource
from osamd.server.asks import Ask
from osamd.server.bodies import RawBody
from osamd.settings import Settings
from osamd.types import Prompt
from osamd.wire.base64_text import Base64Text, LongText, decode_base64
from osamd.wire.fields import LONGEST_LIST, Fraction, Number
from osamd.wire.json_bodies import from_json
from osamd.wire.schemas import LONGEST_URL
from osamd.wire.tool_fields import ToolModel, prompt_of

# Their names for what osamd has; other names are osamd's own, so that any of its models can be asked.
MODELS: Final = {
    "vit_b": "sam:100m",
    "vit_l": "sam:300m",
    "vit_h": "sam:latest",
    "hiera_tiny": "sam2:tiny",
    "hiera_small": "sam2:small",
    "hiera_b_plus": "sam2:latest",
    "hiera_large": "sam2:large",
    "sam3": "sam3:latest",
    "sam3/sam3_final": "sam3:latest",
    "sam3/sam3_interactive": "sam2:latest",
}
SAM: Final = "vit_h"
SAM2: Final = "hiera_tiny"
CONCEPTS: Final = "sam3/sam3_final"
# SAM 3's network for clicks has no ONNX export that osamd knows; SAM 2 has the same prompts and the same answers.
VISUAL: Final = "sam3/sam3_interactive"
BASE64_KEY: Final = re.compile(rb'"(?:value|image)"\s{0,64}:\s{0,64}"\Z')

Format = Literal["json", "polygon", "rle", "binary"]
Fields = TypeVar("Fields", bound="ImageBody")


class Image(ToolModel):
    """An image, with its type."""

    type: StrictStr = Field(default="base64", description="`base64` or `url`.")
    value: Base64Text


class Point(ToolModel):
    """A click."""

    x: Number
    y: Number
    positive: bool = True


class CentredBox(ToolModel):
    """A box given by its centre."""

    x: Number
    y: Number
    width: Number
    height: Number

    def corners(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2."""
        half_width, half_height = self.width / 2, self.height / 2
        return self.x - half_width, self.y - half_height, self.x + half_width, self.y + half_height


class CornerBox(ToolModel):
    """A box given by its top-left corner and size, or by two corners."""

    x: Number | None = None
    y: Number | None = None
    width: Number | None = None
    height: Number | None = None
    x0: Number | None = None
    y0: Number | None = None
    x1: Number | None = None
    y1: Number | None = None

    def corners(self, field: str) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2.

        Raises:
            InvalidPromptError: some of the numbers are missing.
        """
        if None not in (found := (self.x0, self.y0, self.x1, self.y1)):
            return found  # type: ignore[return-value]
        if self.x is None or self.y is None or self.width is None or self.height is None:
            raise InvalidPromptError("expected x, y, width and height, or x0, y0, x1 and y1", field=field)
        return self.x, self.y, self.x + self.width, self.y + self.height


class Click(ToolModel):
    """A prompt of points, a box, or both."""

    points: list[Point] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    box: CentredBox | None = None

    def to_prompt(self, settings: Settings, field: str) -> Prompt:
        """The engine's prompt."""
        points = self.points or []
        return prompt_of(
            settings,
            field=field,
            points=[(point.x, point.y) for point in points],
            labels=[int(point.positive) for point in points],
            boxes=[] if self.box is None else [self.box.corners()],
            parts={"boxes": f"{field}.box"},
        )


class Concept(ToolModel):
    """A prompt of a text, or of boxes around examples."""

    type: StrictStr | None = None
    text: StrictStr | None = None
    boxes: list[CornerBox] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    box_labels: list[Fraction] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)
    output_prob_thresh: Fraction | None = None

    def to_prompt(self, settings: Settings, field: str, score: float) -> Prompt:
        """The engine's prompt."""
        if 0 in (self.box_labels or ()):
            raise InvalidPromptError("negative boxes are not supported: expected 1", field=f"{field}.box_labels")
        boxes = [box.corners(f"{field}.boxes[{index}]") for index, box in enumerate(self.boxes or ())]
        return prompt_of(
            settings,
            field=field,
            boxes=boxes,
            texts=[] if self.text is None else [self.text],
            score_threshold=score if self.output_prob_thresh is None else self.output_prob_thresh,
            parts={"texts": f"{field}.text", "boxes": [f"{field}.boxes[{index}]" for index in range(len(boxes))]},
        )

    def echo(self, index: int) -> dict[str, Any]:
        """The prompt as the reply repeats it."""
        kind = self.type or ("visual" if self.boxes else "text")
        return {"prompt_index": index, "type": kind, "text": self.text, "num_boxes": len(self.boxes or ())}


class ImageBody(ToolModel):
    """What all requests have. ``api_key`` is read before, and ignored here."""

    image: Image | None = None
    image_id: StrictStr | None = Field(default=None, description="Of an earlier reply, if there is no image.")
    sam_version_id: StrictStr | None = None
    sam2_version_id: StrictStr | None = None
    model_id: StrictStr | None = None
    format: Format | None = None

    @field_validator("image", mode="before")
    @classmethod
    def _unwrap(cls, value: Any) -> Any:
        # The SDK sends a list of images one by one.
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        return {"type": "base64", "value": value} if isinstance(value, str) else value

    def model(self, default: str) -> str:
        """The model by osamd's name."""
        name = self.sam_version_id or self.sam2_version_id or self.model_id or default
        # The SDK writes SAM 2's versions with and without the family.
        return MODELS.get(name) or MODELS.get(name.partition("/")[2], name)

    def fields(self) -> Mapping[str, str]:
        """What this request calls the fields that errors name."""
        names = ("sam_version_id", "sam2_version_id")
        model = next((name for name in names if getattr(self, name)), "model_id")
        return {"model": model, "image_url": "image.value"}

    def source(self) -> tuple[ImageSource | None, str | None]:
        """The image, or where to fetch it.

        Raises:
            InvalidRequestError: there is none, or of a type that is not supported.
        """
        if self.image is None:
            if self.image_id is None:
                raise InvalidRequestError("expected an image", field="image")
            return ImageSource(image_id=self.image_id), None
        value = self.image.value
        match self.image.type:
            case "base64":
                return ImageSource.of_bytes(decode_base64(value, field="image.value")), None
            case "url":
                return None, _url(value)
            case other:
                message = f"expected the type base64 or url, got {shown(other)}"
                raise InvalidRequestError(message, field="image.type")


class SegmentBody(ImageBody):
    """Body of ``/sam2/segment_image`` and ``/sam3/visual_segment``."""

    prompts: list[Click] | None = Field(
        default=None,
        max_length=LONGEST_LIST,
        fail_fast=True,
        description='`box` has its centre as `x` and `y`. Also accepted: a single prompt, or `{"prompts": [...]}`.',
    )
    multimask_output: bool = True

    @field_validator("prompts", mode="before")
    @classmethod
    def _unwrap_prompts(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            inner = value.get("prompts", value)
            return [inner] if isinstance(inner, Mapping) else inner
        return value


class ConceptBody(ImageBody):
    """Body of ``/sam3/concept_segment``."""

    prompts: list[Concept] = Field(
        min_length=1,
        max_length=LONGEST_LIST,
        fail_fast=True,
        description="`boxes` have their top-left corner as `x` and `y`.",
    )
    output_prob_thresh: Fraction | None = None
    nms_iou_threshold: Fraction | None = None


class SamBody(ImageBody):
    """Body of ``/sam/segment_image``."""

    point_coords: list[Annotated[list[Number], Field(min_length=2, max_length=2, fail_fast=True)]] | None = Field(
        default=None, max_length=LONGEST_LIST, fail_fast=True
    )
    point_labels: list[Number] | None = Field(default=None, max_length=LONGEST_LIST, fail_fast=True)


class EmbedBody(ImageBody):
    """Body of ``/sam/embed_image``, ``/sam2/embed_image`` and ``/sam3/embed_image``."""


@dataclass(frozen=True, slots=True, eq=False)
class How:
    """What the reply depends on.

    Attributes:
        format: of its masks.
        begun: when parsing began, in seconds since the epoch: another machine may write the reply.
        count: number of prompts.
        echoes: the prompts as they are repeated; only for concepts.
        nms: IoU above which the weaker of two objects is dropped, across prompts; None drops none.
    """

    format: Format
    begun: float
    count: int = 1
    echoes: Sequence[Mapping[str, Any]] = ()
    nms: float | None = None


def clicks(body: RawBody, settings: Settings, *, default: str) -> Ask[How]:
    """What ``/sam2/segment_image`` and ``/sam3/visual_segment`` ask."""
    begun = time.time()
    fields = _parsed(body, SegmentBody)
    prompts = None
    if fields.prompts:
        check_count(len(fields.prompts), settings)
        prompts = tuple(click.to_prompt(settings, f"prompts[{index}]") for index, click in enumerate(fields.prompts))
    how = How(fields.format or "json", begun, count=len(prompts) if prompts else 1)
    return _ask(fields, how, default, prompts, multimask=fields.multimask_output)


def sam_clicks(body: RawBody, settings: Settings) -> Ask[How]:
    """What ``/sam/segment_image`` asks."""
    begun = time.time()
    fields = _parsed(body, SamBody)
    points, labels = fields.point_coords or [], fields.point_labels or []
    if len(points) != len(labels):
        raise InvalidPromptError("expected one label per point", field="point_labels")
    # [0, 0] with the label -1 only pads a list.
    kept = [index for index, label in enumerate(labels) if label >= 0 or any(points[index])]
    prompts = None
    if kept:
        clicked, kinds = [points[index] for index in kept], [int(labels[index] > 0) for index in kept]
        parts = {"points": [f"point_coords[{index}]" for index in kept]}
        prompts = (prompt_of(settings, field="point_coords", points=clicked, labels=kinds, parts=parts),)
    return _ask(fields, How(fields.format or "json", begun), SAM, prompts, multimask=True)


def concepts(body: RawBody, settings: Settings) -> Ask[How]:
    """What ``/sam3/concept_segment`` asks."""
    begun = time.time()
    fields = _parsed(body, ConceptBody)
    check_count(len(fields.prompts), settings)
    score = 0.5 if fields.output_prob_thresh is None else fields.output_prob_thresh
    prompts = tuple(
        concept.to_prompt(settings, f"prompts[{index}]", score) for index, concept in enumerate(fields.prompts)
    )
    echoes = [concept.echo(index) for index, concept in enumerate(fields.prompts)]
    how = How(fields.format or "polygon", begun, len(prompts), echoes, fields.nms_iou_threshold)
    return _ask(fields, how, CONCEPTS, prompts)


def image_to_embed(body: RawBody, settings: Settings, *, default: str) -> Ask[None]:
    """What ``embed_image`` asks."""
    del settings
    fields = _parsed(body, EmbedBody)
    image, url = fields.source()
    return Ask(image=image, how=None, image_url=url, model=fields.model(default), fields=fields.fields())


def check_count(count: int, settings: Settings) -> None:
    """Limit the prompts of a request.

    Raises:
        InvalidPromptError: there are too many.
    """
    if count > settings.max_prompts:
        raise InvalidPromptError(f"expected at most {settings.max_prompts}, got {count}", field="prompts")


def _ask(
    fields: ImageBody, how: How, default: str, prompts: tuple[Prompt, ...] | None, *, multimask: bool = False
) -> Ask[How]:
    image, url = fields.source()
    return Ask(
        image=image,
        how=how,
        image_url=url,
        model=fields.model(default),
        prompts=prompts,
        multimask=multimask,
        needs_masks=True,
        refinable=False,
        clip=True,
        fields=fields.fields(),
    )


def _parsed(body: RawBody, schema: type[Fields]) -> Fields:
    raw = b"".join(body.chunks)
    body.chunks.clear()
    return from_json(raw, schema, base64_key=BASE64_KEY)


def _url(value: str | LongText) -> str:
    if isinstance(value, LongText):
        written = value.raw[value.start : min(value.end, value.start + LONGEST_URL + 1)]
        try:
            value = str(json.loads(b'"' + written + b'"'))
        except ValueError:
            value = ""
    if not 0 < len(value) <= LONGEST_URL:
        raise InvalidRequestError(f"expected a URL of at most {LONGEST_URL:,} characters", field="image.value")
    return value
