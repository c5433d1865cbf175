"""How the masks of a reply are written: in which form, and what is done to them before."""

from typing import Annotated, Final, Literal

from pydantic import Field

from osamd.errors import InvalidRequestError
from osamd.settings import MaskLayout
from osamd.types import Cleaning
from osamd.wire.fields import Number, WireModel

MaskFormat = Literal["png", "rle", "polygon", "cutout", "none"]

# Pixels. Above it, a mask is no longer smoothed but melted.
MOST_SMOOTH: Final = 50


class MaskFields(WireModel):
    """Fields with defaults that change nothing."""

    mask_layout: MaskLayout | None = Field(
        default=None, description="`full`: the mask covers the image. `crop`: it covers `bounding_box`."
    )
    mask_format: MaskFormat | None = Field(
        default="png",
        description="`png`: base64. `rle`: COCO's compressed run lengths. `polygon`: rings in image pixels."
        " `cutout`: base64 of a PNG with the image's own colours where the mask is, transparent elsewhere; the image"
        " must be sent along. `none`: null.",
    )
    fill_holes: Annotated[Number, Field(ge=0)] | None = Field(
        default=0, description="Holes of at most so many pixels are filled, whatever lies in them."
    )
    drop_islands: Annotated[Number, Field(ge=0)] | None = Field(
        default=0, description="Separate parts of at most so many pixels are dropped; the largest always stays."
    )
    smooth: Annotated[Number, Field(ge=0, le=MOST_SMOOTH)] | None = Field(
        default=0,
        description="Outlines are smoothed by a blur with this standard deviation in pixels, before holes are filled"
        " and islands dropped.",
    )
    simplify: Annotated[Number, Field(ge=0)] | None = Field(
        default=0,
        description="For `mask_format` polygon: vertices are left out as long as no outline is off by more pixels.",
    )

    def to_cleaning(self) -> Cleaning:
        """What is to be done to masks before they are written.

        Raises:
            InvalidRequestError: polygons are to be simplified, and none are asked for.
        """
        if self.simplify and self.mask_format != "polygon":
            raise InvalidRequestError('only polygons are simplified: ask for mask_format "polygon"', field="simplify")
        return Cleaning(
            smooth=self.smooth or 0.0,
            fill_holes=self.fill_holes or 0.0,
            drop_islands=self.drop_islands or 0.0,
            simplify=self.simplify or 0.0,
        )
