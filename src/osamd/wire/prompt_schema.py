"""A prompt on the wire, and its translation into the engine's type."""

import math
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, StrictStr, model_validator

from osamd.errors import InvalidPromptError
from osamd.pixels.everything import Everything
from osamd.plurals import counted
from osamd.settings import Settings
from osamd.types import FloatArray, Prompt
from osamd.wire.base64_text import Base64Text
from osamd.wire.everything import EverythingField, EverythingSchema
from osamd.wire.fields import AS_WHOLE_NUMBER, LONGEST_LIST, Fraction, Number, WireModel, fold, number
from osamd.wire.mask_inputs import mask_to_refine

BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 0, 1, 2, 3
LABELS: Final = frozenset({BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT})
BOX_NUMBERS: Final = 4


def _label(value: Any) -> int:
    # As in osam, true is 1 and false is 0.
    try:
        label = float(value) if isinstance(value, bool) else number(value)
    except ValueError:
        label = math.nan
    if label not in LABELS:
        raise ValueError("expected 0 (background), 1 (foreground), 2 (top-left corner) or 3 (bottom-right corner)")
    return int(label)


Label = Annotated[int, BeforeValidator(_label)]
Point = Annotated[list[Number], Field(min_length=2, max_length=2, fail_fast=True)]
BoxNumbers = Annotated[list[Number], Field(min_length=BOX_NUMBERS, max_length=BOX_NUMBERS, fail_fast=True)]


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
    iou_threshold: Fraction | None = Field(
        default=0.5, description="Detectors: overlap above which the weaker of two boxes is dropped."
    )
    score_threshold: Fraction | None = Field(
        default=0.1, description="Detectors: objects with a lower score are left out."
    )
    max_annotations: Annotated[int, Field(ge=1, le=1000), AS_WHOLE_NUMBER] | None = Field(
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
            message = (
                f"expected one label per point, got {counted(len(points), 'point')} and {counted(len(labels), 'label')}"
            )
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
        check_count(len(points), settings.max_points, f"{field}.points")
        check_count(len(boxes), settings.max_boxes, f"{field}.boxes")
        texts = self.texts or []
        check_count(len(texts), settings.max_texts, f"{field}.texts")
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


def check_count(count: int, limit: int, field: str) -> None:
    """Refuse more of something than the server's settings allow.

    Raises:
        InvalidPromptError: there are more.
    """
    if count > limit:
        raise InvalidPromptError(f"expected at most {limit}, got {count}", field=field)
