"""The model families: files, adapter and capabilities of each. The only place that lists them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from osamd.types import Capabilities

MOST_TEXTS: Final = 64
MOST_BOXES: Final = 64
# A detector and a segmenter of other families: words to boxes to masks. It has no adapter of its own.
CHAIN: Final = "chain"


@dataclass(frozen=True, slots=True)
class Family:
    """A model family.

    Attributes:
        roles: the ONNX files its adapter needs, by role.
        adapter: module and class of the adapter, imported when its first model is loaded.
        capabilities: which prompts it takes and what it returns.
        thresholds: least predicted IoU and stability of masks in everything mode, by default.
        points_per_side: of everything mode's grid, by default.
        box_nms_thresh: IoU of boxes above which everything mode keeps only one of two masks, by default.
    """

    roles: tuple[str, ...]
    adapter: tuple[str, str]
    capabilities: Capabilities
    thresholds: tuple[float, float] = (0.0, 0.0)
    points_per_side: int = 16
    box_nms_thresh: float = 0.7


FAMILIES: Final[Mapping[str, Family]] = {
    "builtin": Family(
        ("encoder", "decoder"),
        ("osamd.models.builtin", "Builtin"),
        Capabilities(points=True, boxes=1, mask_input=True, multimask=True),
        # Its logits are soft, so its masks are less stable than SAM's. Chosen for the most objects found in 2 s.
        thresholds=(0.3, 0.45),
        points_per_side=12,
        box_nms_thresh=0.8,
    ),
    "sam": Family(
        ("encoder", "decoder"),
        ("osamd.models.sam", "Sam"),
        Capabilities(points=True, boxes=1, mask_input=True),
        # The authors' own, here and below.
        thresholds=(0.88, 0.95),
    ),
    "sam2": Family(
        ("encoder", "decoder"),
        ("osamd.models.sam2", "Sam2"),
        Capabilities(points=True, boxes=1, mask_input=True, multimask=True),
        thresholds=(0.8, 0.95),
    ),
    "sam3": Family(
        ("image_encoder", "language_encoder", "decoder"),
        ("osamd.models.sam3", "Sam3"),
        Capabilities(boxes=MOST_BOXES, texts=MOST_TEXTS),
    ),
    "efficientsam": Family(
        ("encoder", "decoder"),
        ("osamd.models.efficientsam", "EfficientSam"),
        Capabilities(points=True, boxes=1, multimask=True),
        thresholds=(0.7, 0.9),
    ),
    "yoloworld": Family(
        ("textual", "yolo"),
        ("osamd.models.yoloworld", "YoloWorld"),
        Capabilities(texts=MOST_TEXTS, masks=False),
    ),
}


def capabilities_of(family: str) -> Capabilities:
    """The capabilities of a family, without importing its adapter.

    An export may have fewer boxes than its family allows; see the loaded model's own capabilities.

    Args:
        family: a key of ``FAMILIES``.
    """
    return FAMILIES[family].capabilities


def is_detector(family: str) -> bool:
    """Whether models of this family turn words into boxes, and so can be the first part of a chain."""
    can = capabilities_of(family)
    return can.texts > 0 and not can.masks


def is_segmenter(family: str) -> bool:
    """Whether models of this family turn a box into the mask of the object in it, and so can be the second part."""
    can = capabilities_of(family)
    return can.points and can.boxes > 0 and can.masks


def chained(detector: str, segmenter: str) -> Capabilities:
    """The capabilities of a chain: the words of the detector, and everything of the segmenter.

    Args:
        detector: the family of the first part.
        segmenter: the family of the second part.
    """
    return replace(capabilities_of(segmenter), texts=capabilities_of(detector).texts)
