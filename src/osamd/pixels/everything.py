"""Parameters and results of everything mode."""

from dataclasses import dataclass
from typing import Literal

from osamd.segment_requests import SegmentResult
from osamd.types import Annotation

Stopped = Literal["all_points", "max_masks", "max_seconds", "mask_limit"]


@dataclass(frozen=True, slots=True)
class Everything:
    """How to find everything in an image. The names are those of the paper's implementation where it has them.

    Attributes:
        points_per_side: the grid has this many points in each direction, 1..64; None for the model family's default.
        pred_iou_thresh: masks with a lower predicted IoU are dropped, 0..1; None for the family's default.
        stability_score_thresh: masks with a lower stability are dropped, 0..1; None for the family's default.
            Stability is the IoU between the mask at a threshold raised and lowered by the offset.
        stability_score_offset: that offset, in logits, 0..10.
        box_nms_thresh: of two masks whose boxes have a higher IoU, the one with the lower predicted IoU is dropped,
            0..1; None for the family's default.
        min_mask_region_area: holes and separate parts of up to this many image pixels are removed, and masks of up to
            this many dropped.
        max_masks: maximum number of masks, 1..1000.
        max_seconds: time limit, counted from the first click.
        max_canvas_pixels: limit on masks times image pixels, where masks are written at image size; None for no limit.
        skip_explained: whether points that a kept mask explains are skipped.
    """

    points_per_side: int | None = None
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    stability_score_offset: float = 1.0
    box_nms_thresh: float | None = None
    min_mask_region_area: float = 0.0
    max_masks: int = 100
    max_seconds: float = 30.0
    max_canvas_pixels: int | None = None
    skip_explained: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Proposal(Annotation):
    """One object found in everything mode. A refined mask has a ``mask_index`` after those of all drafts of its click.

    Attributes:
        number: rank in the order in which masks were found, from 0.
        point: x and y of the click that found it, in image pixels.
        stability_score: its stability, 0..1.
        area: pixels of the mask.
    """

    number: int
    point: tuple[float, float]
    stability_score: float
    area: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is.

    Attributes:
        points_total: points of the grid.
        points_tried: points decoded so far.
        points_skipped: points skipped so far because a mask explains them.
        masks: masks kept at the moment.
    """

    points_total: int
    points_tried: int
    points_skipped: int
    masks: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EverythingResult(SegmentResult):
    """A ``SegmentResult`` whose annotations are proposals, best first.

    Attributes:
        progress: of the whole search.
        stopped: why it ended: all points were tried or skipped, a limit was reached, or the masks' memory was full.
    """

    progress: Progress
    stopped: Stopped
