"""What needs no network, by the same protocol: ``python -m training.classical OBJECTS``.

GrabCut (Rother et al., 2004) with OpenCV, and GrabCut with a geodesic prior (Criminisi et al., GeoS, 2008), the best of
the classical ways that were tried. Both see the photo with a long side of 256 pixels, and from a box of 640.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from benchmarks import quality
from benchmarks.quality import SHOWN_CLICKS, Click, Known, clicks_until_good, iou, ious_by_clicks
from skimage.graph import MCP_Geometric

from training.edges import gradient
from training.evaluate import read_rgb
from training.photos import reduced

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
ByteArray = npt.NDArray[np.uint8]

LONGEST: Final = 256
LONGEST_FOR_A_BOX: Final = 640
DISC: Final = 0.012
NEIGHBOURHOOD: Final = 0.15
# What a pixel costs to cross where nothing changes.
STEP: Final = 0.03
SMOOTHING: Final = 0.8
# Probabilities beyond these are certain.
CERTAIN: Final = (0.2, 0.85)
ROUNDS: Final = 3


class GrabCut:
    """Colours of what is near the foreground clicks against all the rest, and a cut along edges."""

    def __init__(self, image: ByteArray) -> None:
        self.size = image.shape[:2]
        self.small = reduced(image, LONGEST)
        self.diagonal = float(np.hypot(*self.small.shape[:2]))

    def answer(self, clicks: Sequence[Click]) -> BoolArray:
        """Probably object: 15 % of the diagonal around each foreground click."""
        labels = np.full(self.small.shape[:2], cv2.GC_PR_BGD, np.uint8)
        for click in clicks:
            if click.label:
                cv2.circle(labels, self.place(click), int(NEIGHBOURHOOD * self.diagonal), cv2.GC_PR_FGD, -1)
        return self.cut(labels, clicks)

    def place(self, click: Click) -> tuple[int, int]:
        """A click in the small photo."""
        rows, columns = self.small.shape[:2]
        return int((click.x + 0.5) * columns / self.size[1]), int((click.y + 0.5) * rows / self.size[0])

    def cut(self, labels: ByteArray, clicks: Sequence[Click]) -> BoolArray:
        """Cut, keep the parts that were clicked on, enlarge."""
        radius = max(2, round(DISC * self.diagonal))
        for click in clicks:
            cv2.circle(labels, self.place(click), radius, cv2.GC_FGD if click.label else cv2.GC_BGD, -1)
        for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            border[border != cv2.GC_FGD] = cv2.GC_BGD
        found = _grab_cut(self.small, labels)
        _, parts = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
        x, y = np.array([self.place(click) for click in clicks if click.label] or [(0, 0)]).T
        hit = parts[y, x]
        hit = hit[hit > 0]
        kept = np.isin(parts, hit) if len(hit) else found
        return _enlarged(kept, self.size)


class GeodesicGrabCut(GrabCut):
    """First how far it is to a click along a way without edges, against the way to the border."""

    def __init__(self, image: ByteArray) -> None:
        super().__init__(image)
        self.cost = STEP + gradient(self.small, sigma=SMOOTHING)

    def answer(self, clicks: Sequence[Click]) -> BoolArray:
        """GrabCut between what the distances leave open."""
        foreground = [self.place(click)[::-1] for click in clicks if click.label]
        rows, columns = self.small.shape[:2]
        border = [(y, x) for y in (0, rows - 1) for x in range(columns)]
        border += [(y, x) for x in (0, columns - 1) for y in range(rows)]
        background = [self.place(click)[::-1] for click in clicks if not click.label] + border
        inside, outside = self._distance(foreground), self._distance(background)
        probability = outside / (inside + outside + 1e-9)
        labels = np.where(probability > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[probability < CERTAIN[0]] = cv2.GC_BGD
        labels[probability > CERTAIN[1]] = cv2.GC_FGD
        return self.cut(labels, clicks)

    def _distance(self, places: Sequence[tuple[int, int]]) -> FloatArray:
        # OpenCV draws into rows that lie one after the other; these are columns.
        return np.ascontiguousarray(MCP_Geometric(self.cost).find_costs(places)[0])


def from_box(image: ByteArray, corners: tuple[int, int, int, int]) -> BoolArray:
    """GrabCut with all outside the box as background."""
    small = reduced(image, LONGEST_FOR_A_BOX)
    rows, columns = small.shape[:2]
    height, width = image.shape[:2]
    left, right = int(corners[0] * columns / width), int(np.ceil((corners[2] + 1) * columns / width))
    top, bottom = int(corners[1] * rows / height), int(np.ceil((corners[3] + 1) * rows / height))
    labels = np.full((rows, columns), cv2.GC_BGD, np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_FGD
    return _enlarged(_grab_cut(small, labels), (height, width))


def _grab_cut(image: ByteArray, labels: ByteArray) -> BoolArray:
    """Where the cut puts the object; what was said already when one side is empty."""
    objects = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if objects.all() or not objects.any():
        return objects
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image, labels, (0, 0, 0, 0), background, foreground, ROUNDS, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _enlarged(mask: BoolArray, size: tuple[int, ...]) -> BoolArray:
    values = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(values) > 0.5


def measure(method: type[GrabCut], objects: Sequence[Known]) -> tuple[list[list[float]], float]:
    """IoU after each of ten clicks, for each object; and milliseconds a click."""
    seconds: list[float] = []

    def ious_on(known: Known) -> list[float]:
        answerer = method(read_rgb(known.photo))

        def answer(clicks: list[Click]) -> BoolArray:
            start = time.perf_counter()
            found = answerer.answer(clicks)
            seconds.append(time.perf_counter() - start)
            return found

        return ious_by_clicks(known.truth, answer)

    ious = [ious_on(known) for known in objects]
    return ious, 1e3 * statistics.median(seconds)


def main() -> None:
    """Measure the classical methods on a folder of objects."""
    parser = argparse.ArgumentParser(description="IoU of classical methods by number of clicks.")
    parser.add_argument("objects", type=Path, help="a folder with images/ and masks/")
    found = list(quality.objects(parser.parse_args().objects))
    shown = " | ".join(f"@{count}" for count in SHOWN_CLICKS)
    print(f"| method | {shown} | NoC85 | ms a click |")
    print("|---" * (len(SHOWN_CLICKS) + 3) + "|")
    for method in (GrabCut, GeodesicGrabCut):
        ious, milliseconds = measure(method, found)
        means = " | ".join(f"{statistics.mean(item[count - 1] for item in ious):.3f}" for count in SHOWN_CLICKS)
        needed = statistics.mean(clicks_until_good(item) for item in ious)
        print(f"| {method.__name__} | {means} | {needed:.2f} | {milliseconds:.0f} |")
    boxed = statistics.mean(iou(from_box(read_rgb(known.photo), known.corners), known.truth) for known in found)
    print(f"GrabCut from the box: {boxed:.3f}")


if __name__ == "__main__":
    main()
