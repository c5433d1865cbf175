"""Proposals: masks for everything in an image, from a grid of clicks. Pure; knows no model.

The method is automatic mask generation (Kirillov et al., 2023, appendix B): every point of a grid is a click; masks
with a low predicted IoU or a low stability are dropped, then duplicates by non-maximum suppression. Two additions:
points are tried from a coarse grid to the full one, so that large objects come first, and points that a kept mask
already explains are skipped.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from osamd.pixels.everything import Everything, Progress
from osamd.types import BoolArray, FloatArray, MaskLogits

# The paper's code, with a coarser grid; for parameters without a family's defaults.
POINTS_PER_SIDE: Final = 16
BOX_NMS_THRESH: Final = 0.7
# Points per side of the coarsest grid, at least.
COARSEST: Final = 4
# A kept mask explains the points on it if its area is at most this many cells of the current grid: a larger one may
# contain objects that only further points find.
EXPLAINED_CELLS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Offer:
    """What became of a candidate mask.

    Attributes:
        number: of the mask if it is kept, or None.
        stability_score: its stability.
        dropped: numbers of kept masks that it replaces.
    """

    number: int | None
    stability_score: float
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Click:
    """A point of the grid.

    Attributes:
        x: fraction of the width, 0..1.
        y: fraction of the height, 0..1.
        spacing: distance between points of the grid it belongs to, as a fraction.
    """

    x: float
    y: float
    spacing: float


def grid(points_per_side: int) -> list[Click]:
    """The points of a grid, from coarse to fine: each level halves the distance, and leaves out points already there.

    Args:
        points_per_side: the finest level has this many points in each direction.
    """
    import numpy as np

    count = points_per_side
    stride = 1
    while count // (2 * stride) >= COARSEST:
        stride *= 2
    clicks: list[Click] = []
    seen = np.zeros((count, count), np.bool_)
    while stride:
        level = np.zeros_like(seen)
        level[stride // 2 :: stride, stride // 2 :: stride] = True
        rows, columns = np.nonzero(level & ~seen)
        seen |= level
        # Neighbours tend to find the same object, so points are tried in a scattered, but fixed order.
        order = np.random.default_rng(stride).permutation(len(rows)).tolist()
        clicks += [Click((columns[k] + 0.5) / count, (rows[k] + 0.5) / count, stride / count) for k in order]
        stride //= 2
    return clicks


def stability(values: FloatArray, threshold: float, offset: float) -> float:
    """The IoU between a mask at a raised and at a lowered threshold; 0 if nothing exceeds the lowered one.

    Args:
        values: (h, w) logits, without padding.
        threshold: of the mask.
        offset: by which it is raised and lowered.
    """
    import numpy as np

    outer = int(np.count_nonzero(values > threshold - offset))
    return int(np.count_nonzero(values > threshold + offset)) / outer if outer else 0.0


def box_ious(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """IoU of a box with others.

    Args:
        box: (4,) x1, y1, x2, y2.
        boxes: (N, 4), the same.

    Returns:
        (N,) float32.
    """
    import numpy as np

    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
    return np.where(areas > 0, shared / np.maximum(areas, np.finfo(np.float32).tiny), 0.0).astype(np.float32)


def suppressed(boxes: FloatArray, scores: FloatArray, threshold: float) -> Generator[None, None, BoolArray]:
    """Non-maximum suppression: which boxes overlap one with a better score that is not suppressed itself.

    Yields after each box that is not suppressed: 16,000 boxes take seconds.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        scores: (N,); of equal ones, the first is better.
        threshold: IoU above which boxes overlap.

    Returns:
        (N,) bool.
    """
    import numpy as np

    left = np.argsort(-scores, kind="stable")
    is_suppressed = np.zeros(len(boxes), np.bool_)
    while len(left):
        best, left = left[0], left[1:]
        do_overlap = box_ious(boxes[best], boxes[left]) > threshold
        is_suppressed[left[do_overlap]] = True
        left = left[~do_overlap]
        yield
    return is_suppressed


@dataclass(slots=True)
class _Seen:
    """A candidate that passed the thresholds; ``number`` is None while it is suppressed."""

    click: Click
    rank: int
    score: float
    box: FloatArray
    number: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _LowRes:
    """A mask at the model's resolution.

    Attributes:
        inside: (h, w) bool, without padding.
        share: its area as a fraction of the image.
        box: (4,) x1, y1, x2, y2 as fractions of the image, the far corner excluded; zeros if it is empty.
        stability: see ``stability``.
    """

    inside: BoolArray
    share: float
    box: FloatArray
    stability: float

    @classmethod
    def of(cls, logits: MaskLogits, offset: float) -> "_LowRes":
        import numpy as np

        rows = max(1, min(logits.values.shape[0], math.ceil(logits.valid_height)))
        columns = max(1, min(logits.values.shape[1], math.ceil(logits.valid_width)))
        values = logits.values[:rows, :columns]
        inside = values > logits.threshold
        box = np.zeros(4, np.float32)
        ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if len(ys):
            box[:] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
            box /= (logits.valid_width, logits.valid_height) * 2
        share = np.count_nonzero(inside) / (logits.valid_height * logits.valid_width)
        return cls(inside, float(share), box, stability(values, logits.threshold, offset))


class Search:
    """Decides which points to try next and which masks to keep; holds no masks.

    Not thread-safe.

    Args:
        asked: the parameters.
        height: rows of the image.
        width: columns of the image.
    """

    def __init__(self, asked: Everything, *, height: int, width: int) -> None:
        self._asked = asked
        self._pixels = height * width
        self._nms_thresh = BOX_NMS_THRESH if asked.box_nms_thresh is None else asked.box_nms_thresh
        self._waiting = grid(asked.points_per_side or POINTS_PER_SIDE)
        self._waiting.reverse()
        self._total = len(self._waiting)
        self._tried = 0
        self._skipped = 0
        self._count = 0
        self._seen: list[_Seen] = []
        # For each low-resolution pixel, the area of the smallest kept mask on it, as a fraction of the image.
        self._smallest: FloatArray | None = None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        kept = sum(seen.number is not None for seen in self._seen)
        return Progress(self._total, self._tried, self._skipped, kept)

    def take(self, count: int) -> list[Click]:
        """At most this many points to try next; empty when none are left."""
        taken: list[Click] = []
        while self._waiting and len(taken) < count:
            click = self._waiting.pop()
            if self._is_explained(click):
                self._skipped += 1
            else:
                taken.append(click)
        return taken

    def put_back(self, clicks: Sequence[Click]) -> None:
        """Points that were taken but not tried; they come next."""
        self._waiting += reversed(clicks)

    def count_tried(self) -> None:
        """Count a point that was decoded."""
        self._tried += 1

    def offer(self, click: Click, rank: int, logits: MaskLogits, score: float) -> Offer:
        """Judge a mask.

        Args:
            click: the point it is from.
            rank: its rank among the candidates of that point.
            logits: the mask.
            score: its predicted IoU.
        """
        asked = self._asked
        if score < (asked.pred_iou_thresh or 0.0):
            return Offer(None, 0.0)
        low = _LowRes.of(logits, asked.stability_score_offset)
        if (
            low.stability < (asked.stability_score_thresh or 0.0)
            or low.share * self._pixels <= asked.min_mask_region_area
        ):
            return Offer(None, low.stability)
        seen = _Seen(click, rank, score, low.box, None)
        rivals = self._rivals(seen)
        self._seen.append(seen)
        if any(rival.score >= score for rival in rivals):
            return Offer(None, low.stability)
        dropped = tuple(rival.number for rival in rivals if rival.number is not None)
        for rival in rivals:
            rival.number = None
        return Offer(self._keep(seen, low), low.stability, dropped)

    def withdraw(self, number: int) -> None:
        """Drop a kept mask, because it is empty at image size."""
        self._seen = [seen for seen in self._seen if seen.number != number]

    def settle(self) -> Generator[None, None, tuple[list[tuple[Click, int]], list[int]]]:
        """Compare with non-maximum suppression of all masks at once.

        A mask may have been suppressed by one that was itself replaced later. Nothing changes before the last step;
        until then, no other method may be called.

        Returns:
            Click and rank of the masks to decode again and ``revive``; numbers of the masks dropped.
        """
        import numpy as np

        if not self._seen:
            return [], []
        boxes = np.stack([seen.box for seen in self._seen])
        scores = np.array([seen.score for seen in self._seen], np.float32)
        is_suppressed = yield from suppressed(boxes, scores, self._nms_thresh)
        judged = list(zip(self._seen, is_suppressed.tolist(), strict=True))
        dropped = [seen.number for seen, is_out in judged if is_out and seen.number is not None]
        revived = [(seen.click, seen.rank) for seen, is_out in judged if not is_out and seen.number is None]
        for seen, is_out in judged:
            if is_out:
                seen.number = None
        return revived, dropped

    def revive(self, click: Click, rank: int, logits: MaskLogits) -> Offer:
        """Keep a mask that ``settle`` returned and that was decoded again."""
        low = _LowRes.of(logits, self._asked.stability_score_offset)
        seen = next(seen for seen in self._seen if seen.click == click and seen.rank == rank)
        return Offer(self._keep(seen, low), low.stability)

    def _keep(self, seen: _Seen, low: "_LowRes") -> int:
        import numpy as np

        seen.number = self._count
        self._count += 1
        if self._smallest is None:
            self._smallest = np.full(low.inside.shape, np.inf, np.float32)
        self._smallest[low.inside] = np.minimum(self._smallest[low.inside], low.share)
        return seen.number

    def _rivals(self, seen: _Seen) -> list[_Seen]:
        """Kept masks whose boxes overlap this one's."""
        import numpy as np

        kept = [other for other in self._seen if other.number is not None]
        if not kept:
            return []
        ious = box_ious(seen.box, np.stack([other.box for other in kept]))
        return [other for other, iou in zip(kept, ious.tolist(), strict=True) if iou > self._nms_thresh]

    def _is_explained(self, click: Click) -> bool:
        if self._smallest is None or not self._asked.skip_explained:
            return False
        rows, columns = self._smallest.shape
        share = self._smallest[min(rows - 1, int(click.y * rows)), min(columns - 1, int(click.x * columns))]
        return bool(share <= EXPLAINED_CELLS * click.spacing**2)
