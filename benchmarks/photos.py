"""Photos that are all different and always the same: crops of the example photo, enlarged, with grain."""

import base64
from functools import cache
from pathlib import Path

import cv2
import numpy as np

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "cat.jpg"
WIDTH, HEIGHT = 2560, 1600
JPEG_QUALITY = 90
GRAIN = 6.0
SMALLEST_CROP = 0.6


@cache
def photo(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A JPEG; another one for each number."""
    random = np.random.default_rng(number)
    example = cv2.imread(str(EXAMPLE))
    if example is None:
        raise FileNotFoundError(EXAMPLE)
    rows, columns = example.shape[:2]
    share = random.uniform(SMALLEST_CROP, 1.0)
    top, left = (int(random.uniform(0, side * (1 - share))) for side in (rows, columns))
    crop = example[top : top + int(rows * share), left : left + int(columns * share)]
    if random.integers(2):
        crop = crop[:, ::-1]
    large = cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = random.normal(0.0, GRAIN, (height, width, 1)).astype(np.float32)
    done, data = cv2.imencode(
        ".jpg", np.clip(large + grain, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not done:
        raise RuntimeError("OpenCV wrote no JPEG")
    return data.tobytes()


@cache
def photo_base64(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> str:
    """The same in base64."""
    return base64.b64encode(photo(number, width=width, height=height)).decode("ascii")


def variant(jpeg: bytes, number: int) -> bytes:
    """The same picture in other bytes, which no server has seen: with a comment, right after the start marker."""
    comment = f"variant {number}".encode("ascii")
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def click(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> tuple[int, int]:
    """The number's click: x and y in pixels, in the middle three fifths of a photo."""
    x, y = np.random.default_rng([1, number]).uniform(0.2, 0.8, 2)
    return int(x * width), int(y * height)
