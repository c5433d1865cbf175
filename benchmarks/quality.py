"""How good a served model is with few clicks: mean IoU on photos with known masks, through HTTP.

    python benchmarks/quality.py --objects FOLDER [--url URL] [--model NAME]

FOLDER holds ``images/NAME.jpg`` (or .png) and ``masks/NAME_NUMBER.png``, one mask an object. The key is read from
API_KEY. The protocol is the usual one of interactive segmentation (Sofiiuk et al., 2021): the first click is the most
interior point of the object, each next one the most interior point of the largest wrong region; IoU is taken at the
photo's own size. NoC85 is the mean number of clicks until an IoU of 0.85, 20 where ten clicks do not reach it.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from osamd.client import Client, Segmentation

BoolArray = npt.NDArray[np.bool_]

SHOWN_CLICKS = (1, 3, 5, 10)
MAX_CLICKS = 10
NEVER = 20
GOOD_IOU = 0.85
MASK_THRESHOLD = 127


@dataclass(frozen=True)
class Click:
    """A point in image pixels and its label, 1 foreground or 0 background."""

    x: int
    y: int
    label: int


@dataclass(frozen=True)
class Outcome:
    """One object: IoU after each click, IoU for its box, and seconds a request by handle took."""

    ious: tuple[float, ...]
    box_iou: float
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Known:
    """An object's name, its photo's file, and where it is, (H, W) bool."""

    name: str
    photo: Path
    truth: BoolArray

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """The object's box: x1, y1, x2, y2 in pixels, corners included."""
        rows, columns = np.nonzero(self.truth)
        return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def iou(found: BoolArray, truth: BoolArray) -> float:
    """Intersection over union of two (H, W) masks."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def next_click(found: BoolArray, truth: BoolArray) -> Click | None:
    """Where a person would click next; None when nothing is wrong."""
    best: tuple[int, Click] | None = None
    for wrong, label in ((truth & ~found, 1), (found & ~truth, 0)):
        _, parts, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        if not len(areas) or (best is not None and areas.max() <= best[0]):
            continue
        region = np.pad((parts == 1 + int(areas.argmax())).astype(np.uint8), 1)
        depth = cv2.distanceTransform(region, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        best = (int(areas.max()), Click(int(x), int(y), label))
    return None if best is None else best[1]


def mask_of(found: Segmentation) -> BoolArray:
    """The first mask of a reply, (H, W) bool; all False if there is none."""
    if not found.annotations:
        return np.zeros((found.height, found.width), np.bool_)
    pixels = cv2.imdecode(np.frombuffer(found.annotations[0].mask_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    return np.asarray(pixels) > MASK_THRESHOLD


def ious_by_clicks(truth: BoolArray, answer: Callable[[list[Click]], BoolArray]) -> list[float]:
    """IoU after each of ten clicks; 1 for those that are left when nothing is wrong any more."""
    found = np.zeros_like(truth)
    clicks: list[Click] = []
    ious: list[float] = []
    while len(ious) < MAX_CLICKS:
        click = next_click(found, truth)
        if click is None:
            return ious + [1.0] * (MAX_CLICKS - len(ious))
        clicks.append(click)
        found = answer(clicks)
        ious.append(iou(found, truth))
    return ious


def objects(folder: Path) -> Iterator[Known]:
    """The objects of a folder with ``images/NAME.jpg`` (or .png) and ``masks/NAME_NUMBER.png``."""
    photos = {path.stem: path for path in (folder / "images").iterdir()}
    for mask_file in sorted((folder / "masks").iterdir()):
        truth = np.asarray(cv2.imread(str(mask_file), cv2.IMREAD_GRAYSCALE)) > MASK_THRESHOLD
        yield Known(mask_file.stem, photos[mask_file.stem.rsplit("_", 1)[0]], truth)


def measure(client: Client, known: Known, model: str | None) -> Outcome:
    """Click on one object until ten clicks are spent or nothing is wrong, then try its box."""
    handle = client.embed(known.photo, model=model)
    seconds: list[float] = []

    def answer(clicks: list[Click]) -> BoolArray:
        start = time.perf_counter()
        reply = client.segment(
            image_id=handle.image_id,
            points=[(item.x, item.y) for item in clicks],
            labels=[item.label for item in clicks],
        )
        seconds.append(time.perf_counter() - start)
        return mask_of(reply)

    ious = ious_by_clicks(known.truth, answer)
    boxed = mask_of(client.segment(image_id=handle.image_id, box=known.corners))
    return Outcome(tuple(ious), iou(boxed, known.truth), tuple(seconds))


def clicks_until_good(ious: Sequence[float]) -> int:
    """The number of clicks until the IoU is good."""
    return next((index + 1 for index, value in enumerate(ious) if value >= GOOD_IOU), NEVER)


def main() -> None:
    """Measure a folder and print one table."""
    parser = argparse.ArgumentParser(description="Mean IoU of a served model by number of clicks.")
    parser.add_argument("--objects", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--url", default="http://127.0.0.1:11368")
    parser.add_argument("--model")
    arguments = parser.parse_args()
    with Client(arguments.url, api_key=os.environ.get("API_KEY")) as client:
        outcomes = [measure(client, known, arguments.model) for known in objects(arguments.objects)]
    columns = {f"{count} clicks": statistics.mean(item.ious[count - 1] for item in outcomes) for count in SHOWN_CLICKS}
    columns["box"] = statistics.mean(item.box_iou for item in outcomes)
    columns["NoC85"] = statistics.mean(clicks_until_good(item.ious) for item in outcomes)
    columns["ms a click"] = statistics.median(second for item in outcomes for second in item.seconds) * 1e3
    print(f"| objects | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    print(f"| {len(outcomes)} | {' | '.join(f'{value:.3g}' for value in columns.values())} |")


if __name__ == "__main__":
    main()
