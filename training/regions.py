"""Regions of photographs that a person might ask for: sky, a hill, a wall, a coat. Nobody outlined them.

Segments by colour (Felzenszwalb & Huttenlocher, 2004) at several scales. Those that come out nearly the same at two
scales and have a rim along edges are taken for things; that such a hierarchy can teach is of Wang et al. (UnSAM, 2024).
They show what cut-outs cannot: real borders, and things which fill half the picture or run out of it.
"""

import itertools
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from skimage.segmentation import felzenszwalb

from training.edges import gradient
from training.library import ByteArray
from training.outlines import MOST_REGIONS
from training.photos import reduced

BoolArray = npt.NDArray[np.bool_]

LONGEST: Final = 448
SCALES: Final = (80, 200, 500, 1200)
SMOOTHING: Final = 0.8
RIM_SMOOTHING: Final = 1.0
AREA: Final = (0.006, 0.5)
SMALLEST_SEGMENT: Final = 0.003
# IoU with a segment of the next scale.
STABLE: Final = 0.85
# Mean gradient along the rim, where the photo's 90th percentile is 1.
LEAST_RIM: Final = 0.45


def regions_of(photo: ByteArray) -> list[BoolArray]:
    """Up to 16 regions of an (H, W, 3) uint8 RGB photo, (h, w) bool with a long side of at most 448 pixels."""
    small = reduced(photo, LONGEST)
    pixels = small.shape[0] * small.shape[1]
    slopes = gradient(small, sigma=RIM_SMOOTHING)
    segmentations = [
        felzenszwalb(small, scale=scale, sigma=SMOOTHING, min_size=int(SMALLEST_SEGMENT * pixels)) for scale in SCALES
    ]
    found: list[tuple[float, BoolArray]] = []
    for finer, coarser in itertools.pairwise(segmentations):
        areas, coarse_areas = np.bincount(finer.ravel()), np.bincount(coarser.ravel())
        common = np.zeros((len(areas), len(coarse_areas)), np.int64)
        np.add.at(common, (finer.ravel(), coarser.ravel()), 1)
        overlap = common / (areas[:, None] + coarse_areas[None] - common)
        is_wanted = (areas >= AREA[0] * pixels) & (areas <= AREA[1] * pixels) & (overlap.max(1) >= STABLE)
        for label in np.flatnonzero(is_wanted):
            region: BoolArray = coarser == overlap[label].argmax()
            sharpness = _rim(region, slopes)
            if sharpness >= LEAST_RIM and all(_iou(region, other) < STABLE for _, other in found):
                found.append((sharpness, region))
    found.sort(key=lambda item: -item[0])
    return [region for _, region in found[:MOST_REGIONS]]


def _rim(region: BoolArray, slopes: npt.NDArray[np.float32]) -> float:
    """Mean gradient along the border of a region, except at the frame; 0 without a border."""
    square = np.ones((3, 3), np.uint8)
    values = region.astype(np.uint8)
    # Outside the frame is neither.
    outer = cv2.dilate(values, square, borderType=cv2.BORDER_REPLICATE)
    inner = cv2.erode(values, square, borderType=cv2.BORDER_REPLICATE)
    border = outer > inner
    return float(slopes[border].mean()) if border.any() else 0.0


def _iou(one: BoolArray, other: BoolArray) -> float:
    return float((one & other).sum() / max(1, int((one | other).sum())))
