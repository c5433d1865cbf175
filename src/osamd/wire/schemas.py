"""Request schemas of the wire format, and their translation into the engine's types."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, StrictStr, Tag, WithJsonSchema, model_validator

from osamd.errors import InvalidPromptError, InvalidRequestError, shown
from osamd.image_sources import ExchangedEmbedding
from osamd.keep_alive import KeepAlive, parse_keep_alive
from osamd.pixels.everything import Everything
from osamd.settings import Include, Settings
from osamd.types import FloatArray, Prompt
from osamd.wire.base64_text import Base64Text, decode_base64
from osamd.wire.everything import PARAMETERS, SWITCH, EverythingField, EverythingSchema
from osamd.wire.fields import Number, WireModel, number
from osamd.wire.mask_fields import CANVAS_FACTOR, WHOLE_FORMATS, MaskFields
from osamd.wire.mask_inputs import mask_to_refine

ArrayType = Literal["float32", "float16"]

BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 0, 1, 2, 3
# Hard limit on the parser's lists, whatever the configuration.
LONGEST_LIST = 4096
LONGEST_URL = 2048
# Limit on fields of one object, in all spellings.
MOST_FIELDS = 64
LABELS = frozenset({BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT})
BOX_NUMBERS = 4
EMBEDDING_AXES = 3
# JPEG's limit; the image size in an embedding cannot be checked against pixels.
LONGEST_SIDE = 65535
# The two spellings of an array. pydantic puts them into error paths, from which they are removed again.
LISTS, BASE64 = "(lists)", "(base64)"


def _label(value: Any) -> int:
    # As in osam, true is 1 and false is 0.
    try:
        label = float(value) if isinstance(value, bool) else number(value)
    except ValueError:
        label = math.nan
    if label not in LABELS:
        raise ValueError("expected 0 (background), 1 (foreground), 2 (top-left corner) or 3 (bottom-right corner)")
    return int(label)


def _spelling_of_array(value: Any) -> str:
    return LISTS if isinstance(value, list) else BASE64


Duration = Annotated[
    KeepAlive,
    BeforeValidator(parse_keep_alive),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]}),
]
Label = Annotated[int, BeforeValidator(_label)]
Point = Annotated[list[Number], Field(min_length=2, max_length=2, fail_fast=True)]
BoxNumbers = Annotated[list[Number], Field(min_length=BOX_NUMBERS, max_length=BOX_NUMBERS, fail_fast=True)]


def fold(values: Any, spellings: dict[str, str]) -> Any:
    """Rename the second spelling of a field to the first; if both are given, they must be equal."""
    if not isinstance(values, dict):
        return values
    if len(values) > MOST_FIELDS:
        # Each unknown one would become an error, which takes a hundred times its bytes.
        raise ValueError(f"expected at most {MOST_FIELDS} fields, got {len(values):,}")
    folded = dict(values)
    for other, name in spellings.items():
        if other in folded:
            value = folded.pop(other)
            if folded.get(name) not in (None, value):
                raise ValueError(f"{name} and {other} are the same field, but have different values")
            folded[name] = value
    return folded


class PromptSchema(WireModel):
    """What to segment: points, a box, texts, or a mask to refine."""

    points: list[Point] | None = Field(
        fail_fast=True, default=None, max_length=LONGEST_LIST, description="x, y in pixels of the upright image."
    )
    point_labels: list[Label] | None = Field(
        fail_fast=True,
        default=None,
        max_length=LONGEST_LIST,
        description="One per point: 0 background, 1 foreground, 2 and 3 a box's top-left and bottom-right corner."
        " Also accepted as `labels`.",
    )
    box: BoxNumbers | None = Field(
        default=None, description="x1, y1, x2, y2 in pixels: two opposite corners, in any order."
    )
    texts: list[StrictStr] | None = Field(
        fail_fast=True, default=None, max_length=LONGEST_LIST, description="Text prompts, for models that support them."
    )
    mask_input: Base64Text | None = Field(
        default=None,
        description="A mask to refine: the `mask_id` of an earlier answer, or a greyscale PNG of the image's size in"
        " base64, above 127 on the object.",
    )
    everything: EverythingField | None = Field(
        default=None,
        description="Find everything in the image, for models that take points: `true`, or parameters. Alone in"
        " `prompt`.",
    )
    iou_threshold: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=0.5, description="Detectors: overlap above which the weaker of two boxes is dropped."
    )
    score_threshold: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=0.1, description="Detectors: objects with a lower score are left out."
    )
    max_annotations: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=100, description="Detectors: maximum number of objects. Chains: at most 100 over all prompts."
    )

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: Any) -> Any:
        return fold(values, {"labels": "point_labels"})

    @property
    def wants_everything(self) -> bool:
        """Whether ``everything`` is given and not ``false``."""
        return self.everything is not None and self.everything is not False

    def to_everything(self, *, most_seconds: float, max_canvas_pixels: int | None) -> Everything:
        """The parameters of everything mode; arguments as for ``EverythingSchema.to_everything``.

        Raises:
            InvalidPromptError: the time limit is too long, or the prompt contains something else, too.
        """
        for name in ("points", "point_labels", "box", "texts", "mask_input"):
            if getattr(self, name):
                raise InvalidPromptError("everything stands alone: remove this field", field=f"prompt.{name}")
        schema = self.everything if isinstance(self.everything, EverythingSchema) else EverythingSchema()
        return schema.to_everything(most_seconds=most_seconds, max_canvas_pixels=max_canvas_pixels)

    def to_prompt(self, settings: Settings, field: str) -> Prompt:
        """The engine's prompt.

        Raises:
            InvalidPromptError: labels do not match the points, corners are unpaired, the prompt is empty, or a limit is
                exceeded.
        """
        import numpy as np

        points, labels = self.points or [], self.point_labels or []
        if len(points) != len(labels):
            message = f"expected one label per point, got {len(points)} points and {len(labels)} labels"
            raise InvalidPromptError(message, field=f"{field}.point_labels")
        boxes = _boxes_of_corners(points, labels, field)
        if self.box is not None:
            boxes.insert(0, self.box)
        clicks = [(point, label) for point, label in zip(points, labels, strict=True) if label <= FOREGROUND]
        if self.wants_everything:
            raise InvalidPromptError("everything cannot be one of several prompts", field=f"{field}.everything")
        mask_id, mask_png = mask_to_refine(self.mask_input, f"{field}.mask_input")
        if not (clicks or boxes or self.texts or mask_id or mask_png):
            raise InvalidPromptError(
                "the prompt is empty: give points with point_labels, a box, texts, mask_input or everything",
                field=field,
            )
        _check_count(len(points), settings.max_points, f"{field}.points")
        _check_count(len(boxes), settings.max_boxes, f"{field}.boxes")
        texts = self.texts or []
        _check_count(len(texts), settings.max_texts, f"{field}.texts")
        for index, text in enumerate(texts):
            if not 0 < len(text.strip()) <= len(text) <= settings.max_text_chars:
                message = f"expected a text of 1 to {settings.max_text_chars} characters"
                raise InvalidPromptError(message, field=f"{field}.texts[{index}]")
        defaults = Prompt()
        return Prompt(
            points=np.array([point for point, _ in clicks], np.float32).reshape(-1, 2),
            point_labels=np.array([label for _, label in clicks], np.int64),
            boxes=_ordered(np.array(boxes, np.float32).reshape(-1, BOX_NUMBERS)),
            texts=tuple(texts),
            mask_id=mask_id,
            mask_png=mask_png,
            iou_threshold=defaults.iou_threshold if self.iou_threshold is None else self.iou_threshold,
            score_threshold=defaults.score_threshold if self.score_threshold is None else self.score_threshold,
            max_annotations=defaults.max_annotations if self.max_annotations is None else self.max_annotations,
            field=field,
        )


def _ordered(boxes: FloatArray) -> FloatArray:
    """Boxes whose corners were given in any order, as a mouse is dragged, as x1, y1, x2, y2 with x1 <= x2, y1 <= y2."""
    import numpy as np

    return np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, BOX_NUMBERS)


def _check_count(count: int, limit: int, field: str) -> None:
    if count > limit:
        raise InvalidPromptError(f"expected at most {limit}, got {count}", field=field)


def _boxes_of_corners(points: list[Point], labels: list[Label], field: str) -> list[list[float]]:
    """Osam's spelling of boxes: corners labelled 2 and 3, paired in their order."""
    top_left = [point for point, label in zip(points, labels, strict=True) if label == BOX_TOP_LEFT]
    bottom_right = [point for point, label in zip(points, labels, strict=True) if label == BOX_BOTTOM_RIGHT]
    if len(top_left) != len(bottom_right):
        message = (
            f"expected labels 2 and 3, the corners of a box, in pairs; got {len(top_left)} with 2 and"
            f" {len(bottom_right)} with 3"
        )
        raise InvalidPromptError(message, field=f"{field}.point_labels")
    return [[*first, *second] for first, second in zip(top_left, bottom_right, strict=True)]


# The seed document's names of osam's fields.
SPELLINGS = {"model_id": "model", "image_base64": "image"}


class ImageFields(WireModel):
    """The fields that name a model and an image, in every spelling."""

    model: StrictStr | None = Field(
        default=None,
        description="A model's name or alias, or `DETECTOR+SEGMENTER` to turn words into masks; the built-in one by"
        " default. Also accepted as `model_id`.",
    )
    image: Base64Text | None = Field(
        default=None, description="An encoded image in base64, or a data URI. Also accepted as `image_base64`."
    )
    image_id: StrictStr | None = Field(
        default=None, description="A handle from an earlier answer, instead of an image."
    )
    image_path: StrictStr | None = Field(
        default=None, description="A file on the server, if the operator allows it (`OSAMD_IMAGE_ROOT`)."
    )

    image_url: StrictStr | None = Field(
        default=None,
        max_length=LONGEST_URL,
        description="A URL from which the server fetches the image, if the operator allows it (`OSAMD_URL_HOSTS`).",
    )

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: Any) -> Any:
        return fold(values, SPELLINGS)


class ArraySchema(WireModel):
    """An array in base64, as osam writes the extra features of an embedding."""

    shape: list[Annotated[int, Field(strict=True, ge=1)]] = Field(min_length=3, max_length=3, description="C, H, W.")
    dtype: ArrayType
    data: Base64Text

    def to_array(self, field: str) -> FloatArray:
        """(C, H, W) float32.

        Raises:
            InvalidRequestError: it is not base64, or its size does not match the shape.
        """
        import numpy as np

        data = decode_base64(self.data, field=field)
        try:
            values = np.frombuffer(data, self.dtype).reshape(self.shape)
        except ValueError:
            raise InvalidRequestError(
                f"expected {self.dtype} values of shape {self.shape} in base64", field=field
            ) from None
        return values.astype(np.float32)


class EmbeddingSchema(WireModel):
    """An embedding: as osam's, with `embedding` as nested lists, or compact, with `embedding` in base64."""

    original_height: int = Field(ge=1, le=LONGEST_SIDE, description="Rows of the upright image.")
    original_width: int = Field(ge=1, le=LONGEST_SIDE, description="Columns of the upright image.")
    embedding: Annotated[
        Annotated[list[list[list[float]]], Tag(LISTS)] | Annotated[ArraySchema, Tag(BASE64)],
        Discriminator(_spelling_of_array),
    ] = Field(description="(C, H, W)")
    extra_features: list[ArraySchema] = Field(default=[], max_length=16)

    def to_exchanged(self) -> ExchangedEmbedding:
        """The engine's value.

        Raises:
            InvalidRequestError: the lists are ragged, or the base64 does not match its shape.
        """
        import numpy as np

        field = "image_embedding"
        if isinstance(self.embedding, ArraySchema):
            first = self.embedding.to_array(f"{field}.embedding")
        else:
            try:
                first = np.array(self.embedding, np.float32)
            except ValueError:
                raise InvalidRequestError("expected lists of equal lengths", field=f"{field}.embedding") from None
        if first.ndim != EMBEDDING_AXES or not first.size:
            raise InvalidRequestError("expected lists of equal lengths, none empty", field=f"{field}.embedding")
        rest = [feature.to_array(f"{field}.extra_features[{k}]") for k, feature in enumerate(self.extra_features)]
        return ExchangedEmbedding(height=self.original_height, width=self.original_width, arrays=(first, *rest))


class EmbedBody(ImageFields):
    """Body of ``POST /api/embed``."""


class GenerateBody(ImageFields, MaskFields):
    """Body of ``POST /api/generate``: the fields of osam and of the seed document, and osamd's additions."""

    prompt: PromptSchema | None = Field(
        default=None,
        description="What to segment; by default the model's default prompt, such as a point in the centre.",
    )
    prompts: list[PromptSchema] | None = Field(
        fail_fast=True,
        default=None,
        min_length=1,
        max_length=LONGEST_LIST,
        description="Several prompts on one image; annotations carry `prompt_index`.",
    )
    multimask: StrictBool | None = Field(
        default=False, description="Up to three candidates per prompt, best first, if the model supports it."
    )
    include: list[Include] | None = Field(
        fail_fast=True,
        default=None,
        description="`image_embedding`: the embedding in the reply as osam writes it; `image_embedding_compact`: the"
        " same in base64, half precision.",
    )
    image_embedding: EmbeddingSchema | None = Field(
        default=None, description="An embedding from an earlier reply, instead of an image."
    )
    keep_alive: Duration = Field(
        default=None,
        description="How long the model stays loaded afterwards: `5m`, seconds, 0 to unload immediately, -1 forever."
        " Applies until another request changes it. For keys with the role `user` it is capped at the operator's"
        " default, and ignored for models that are preloaded or whose `keep_alive` an admin set.",
    )
    annotations: None = Field(default=None, description="Ignored; null for osam's clients.")

    def to_prompts(self, settings: Settings) -> tuple[Prompt, ...] | None:
        """The engine's prompts; None for the model's default, or for everything.

        Raises:
            InvalidPromptError: one of them is invalid, or there are too many.
            InvalidRequestError: both ``prompt`` and ``prompts`` are given.
        """
        if self.prompts is None:
            if self.prompt is None or self.prompt.wants_everything:
                return None
            return (self.prompt.to_prompt(settings, "prompt"),)
        if self.prompt is not None:
            raise InvalidRequestError("give either prompt or prompts", field="prompts")
        _check_count(len(self.prompts), settings.max_prompts, "prompts")
        return tuple(prompt.to_prompt(settings, f"prompts[{index}]") for index, prompt in enumerate(self.prompts))

    def to_everything(self, settings: Settings, *, most_seconds: float) -> Everything | None:
        """The parameters of everything mode, or None if it is not requested.

        Args:
            settings: the server's limits.
            most_seconds: largest time limit.

        Raises:
            InvalidPromptError: a parameter is out of range, or the prompt contains something else, too.
            InvalidRequestError: another field does not go with it.
        """
        if self.prompt is None or not self.prompt.wants_everything:
            return None
        if self.prompts is not None:
            raise InvalidRequestError("give either prompt or prompts", field="prompts")
        if self.multimask:
            raise InvalidRequestError("everything already returns all candidates: remove multimask", field="multimask")
        if self.mask_format == "cutout":
            raise InvalidRequestError(
                "everything returns no cut-outs: request png, rle, polygon or none", field="mask_format"
            )
        is_whole = (self.mask_layout or settings.mask_layout) == "full" and self.mask_format in WHOLE_FORMATS
        return self.prompt.to_everything(
            most_seconds=most_seconds,
            max_canvas_pixels=CANVAS_FACTOR * settings.max_mask_pixels if is_whole else None,
        )


def invalid_request(problems: Sequence[Any]) -> InvalidRequestError:
    """The first of pydantic's errors, with the field as a path such as ``prompt.points[0][1]``."""
    problem = problems[0]
    path = ""
    for step in problem["loc"]:
        if step in {LISTS, BASE64, SWITCH, PARAMETERS}:
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "unknown field"
    elif problem["type"] == "model_type":
        # pydantic's message names our class.
        message = "expected true, false or an object" if PARAMETERS in problem["loc"] else "expected an object"
    elif problem["type"] == "json_invalid":
        message = f"the body is not JSON: {message.removeprefix('Invalid JSON: ')}"
    return InvalidRequestError(f"{shown(path)}: {message}" if path else message, field=path or None)
