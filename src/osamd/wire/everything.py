"""The parameters of everything mode on the wire."""

from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, StrictBool, Tag

from osamd.errors import InvalidPromptError
from osamd.library.families import FAMILIES
from osamd.pixels.everything import Everything
from osamd.wire.fields import AS_NUMBER, AS_WHOLE_NUMBER, Fraction, NotNegative, WireModel

MOST_POINTS_PER_SIDE: Final = 64
MOST_MASKS: Final = 1000
MOST_OFFSET: Final = 10
# Of 8-bit pixels, without 0.
MOST_LABELS: Final = 255
DEFAULTS: Final = Everything()
BUILTIN, SAM, SAM2, EFFICIENTSAM = (FAMILIES[name] for name in ("builtin", "sam", "sam2", "efficientsam"))
# The two spellings; pydantic puts these names into error paths, from which they are removed again.
SWITCH, PARAMETERS = "(switch)", "(parameters)"


class EverythingSchema(WireModel):
    """How to find everything: a grid of clicks, as in the paper's automatic mask generation."""

    points_per_side: Annotated[int, Field(ge=1, le=MOST_POINTS_PER_SIDE), AS_WHOLE_NUMBER] | None = Field(
        default=None,
        description="The grid has this many points in each direction. By default"
        f" {SAM.points_per_side}, the built-in model {BUILTIN.points_per_side}.",
    )
    pred_iou_thresh: Fraction | None = Field(
        default=None,
        description="Masks with a lower predicted IoU (`score`) are left out. By default as in the authors' code:"
        f" {SAM.thresholds[0]} for SAM, {SAM2.thresholds[0]} for SAM 2,"
        f" {EFFICIENTSAM.thresholds[0]} for EfficientSAM; {BUILTIN.thresholds[0]} for the built-in model.",
    )
    stability_score_thresh: Fraction | None = Field(
        default=None,
        description="Masks with a lower stability are left out: the IoU between the mask at a threshold raised and"
        f" lowered by `stability_score_offset`. By default {SAM.thresholds[1]}, EfficientSAM"
        f" {EFFICIENTSAM.thresholds[1]}, the built-in model {BUILTIN.thresholds[1]}.",
    )
    stability_score_offset: Annotated[float, Field(ge=0, le=MOST_OFFSET), AS_NUMBER] | None = Field(
        default=DEFAULTS.stability_score_offset, description="That offset, in logits."
    )
    box_nms_thresh: Fraction | None = Field(
        default=None,
        description="Of two masks whose boxes have a higher IoU, the one with the lower predicted IoU is left out. By"
        f" default {SAM.box_nms_thresh}, the built-in model {BUILTIN.box_nms_thresh}.",
    )
    min_mask_region_area: NotNegative | None = Field(
        default=DEFAULTS.min_mask_region_area,
        description="Holes and separate parts of up to this many pixels are removed, and masks of up to this many left"
        " out.",
    )
    max_masks: Annotated[int, Field(ge=1, le=MOST_MASKS), AS_WHOLE_NUMBER] | None = Field(
        default=DEFAULTS.max_masks, description="Maximum number of masks."
    )
    max_seconds: Annotated[float, Field(gt=0), AS_NUMBER] | None = Field(
        default=None,
        description="Time limit in seconds, from the first click; what was found by then is the answer. At most three"
        " quarters of the server's `OSAMD_DEADLINE_S`; 30 by default, or that if it is less.",
    )
    skip_explained: StrictBool | None = Field(
        default=DEFAULTS.skip_explained,
        description="Skip points that a mask already explains. Without it every point is decoded, as in the paper.",
    )

    def to_everything(self, *, most_seconds: float, max_canvas_pixels: int | None) -> Everything:
        """The engine's parameters.

        Args:
            most_seconds: largest time limit.
            max_canvas_pixels: as in ``Everything``.

        Raises:
            InvalidPromptError: the time limit is too long.
        """
        if self.max_seconds is not None and self.max_seconds > most_seconds:
            raise InvalidPromptError(
                f"expected at most {most_seconds:g}, three quarters of this server's deadline",
                field="prompt.everything.max_seconds",
            )
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        given.setdefault("max_seconds", min(DEFAULTS.max_seconds, most_seconds))
        return Everything(**given, max_canvas_pixels=max_canvas_pixels)


def check_labels(asked: Everything) -> None:
    """Refuse more masks than a PNG of labels can tell apart.

    Raises:
        InvalidPromptError: there may be more.
    """
    if asked.max_masks > MOST_LABELS:
        raise InvalidPromptError(
            f"a PNG has at most {MOST_LABELS} labels: request fewer masks, or JSON", field="prompt.everything.max_masks"
        )


def _spelling(value: Any) -> str:
    return SWITCH if isinstance(value, bool) else PARAMETERS


EverythingField = Annotated[
    Annotated[StrictBool, Tag(SWITCH)] | Annotated[EverythingSchema, Tag(PARAMETERS)], Discriminator(_spelling)
]
