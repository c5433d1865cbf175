"""Request fields that control the format and cleaning of masks."""

from typing import Annotated, Final, Literal

from pydantic import Field

from osamd.errors import InvalidRequestError
from osamd.settings import MaskLayout
from osamd.types import Cleaning
from osamd.wire.fields import AS_NUMBER, NotNegative, WireModel

MaskFormat = Literal["png", "rle", "polygon", "cutout", "none"]

# Pixels allowed for masks written at image size, relative to OSAMD_MAX_MASK_PIXELS: they cost time, but memory only one
# at a time.
CANVAS_FACTOR: Final = 4
WHOLE_FORMATS: Final = frozenset({"png", "rle", "cutout"})
# Pixels. A stronger blur would dissolve masks instead of smoothing them.
MOST_SMOOTH: Final = 50


class MaskFields(WireModel):
    """Fields whose defaults leave masks unchanged."""

    mask_layout: MaskLayout | None = Field(
        default=None, description="`full`: the mask has the size of the image. `crop`: that of `bounding_box`."
    )
    mask_format: MaskFormat | None = Field(
        default="png",
        description="`png`: base64. `rle`: COCO's compressed run lengths. `polygon`: rings in image pixels."
        " `cutout`: base64 of a PNG with the image's own colours where the mask is, transparent elsewhere; the image"
        " must be sent along. `none`: null.",
    )
    fill_holes: NotNegative | None = Field(
        default=0, description="Fill holes of up to this many pixels, including anything inside them."
    )
    drop_islands: NotNegative | None = Field(
        default=0, description="Drop separate parts of up to this many pixels; the largest part always stays."
    )
    smooth: Annotated[float, Field(ge=0, le=MOST_SMOOTH), AS_NUMBER] | None = Field(
        default=0,
        description="Smooth outlines by a blur with this standard deviation in pixels, before filling holes and"
        " dropping islands.",
    )
    simplify: NotNegative | None = Field(
        default=0,
        description="For `mask_format` polygon: drop vertices as long as outlines deviate by at most this many pixels.",
    )

    def to_cleaning(self) -> Cleaning:
        """How to clean masks before they are written.

        Raises:
            InvalidRequestError: ``simplify`` was given for another format than polygon.
        """
        if self.simplify and self.mask_format != "polygon":
            raise InvalidRequestError('simplify needs mask_format "polygon"', field="simplify")
        return Cleaning(
            smooth=self.smooth or 0.0,
            fill_holes=self.fill_holes or 0.0,
            drop_islands=self.drop_islands or 0.0,
            simplify=self.simplify or 0.0,
        )
