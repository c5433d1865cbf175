"""The picture in the documentation: what the built-in network makes of a click or a box on photos it has never seen.

``python -m training.pictures PICTURE`` draws with the weights in the package, on sample photos of scikit-image that are
in the public domain or CC0: astronaut (NASA), camera (Lav Varshney), chelsea (Stefan van der Walt), coffee (Rachel
Michetti), coins (Brooklyn Museum), rocket (SpaceX).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from skimage import data

from osamd.models.base import encode_pixels
from osamd.models.builtin import Builtin
from osamd.runtime.sessions import CPU, Placement
from osamd.types import Prompt
from training.evaluate import THREADS, mask_of
from training.ship import PACKAGE

COLUMNS: Final = 4
COLOUR: Final = (0, 130, 255)


@dataclass(frozen=True)
class Example:
    """A photo's name in scikit-image, clicks (x, y, label) or a box (x1, y1, x2, y2), and what it shows."""

    photo: str
    caption: str
    clicks: tuple[tuple[int, int, int], ...] = ()
    box: tuple[int, int, int, int] | None = None


EXAMPLES: Final = (
    Example("chelsea", "one click: the cat", ((225, 190, 1),)),
    Example("coffee", "one click: cup and saucer", ((300, 300, 1),)),
    Example("coins", "one click: a coin", ((48, 125, 1),)),
    Example("astronaut", "a box: the astronaut", box=(20, 5, 440, 511)),
    Example("rocket", "one click: the rocket", ((322, 200, 1),)),
    Example("camera", "one click: the man", ((110, 300, 1),)),
    Example("astronaut", "one click: the face", ((225, 120, 1),)),
    Example("camera", "one click: the tripod", ((292, 335, 1),)),
)


def draw(picture: Path) -> None:
    """Draw all examples in one picture."""
    adapter = Builtin({role: PACKAGE / f"{role}.onnx" for role in ("encoder", "decoder")}, Placement((CPU,), THREADS))
    rows = len(EXAMPLES) // COLUMNS
    figure = Figure(figsize=(4 * COLUMNS, 3.4 * rows), layout="constrained")
    for axes, example in zip(figure.subplots(rows, COLUMNS).flat, EXAMPLES, strict=True):
        _draw_one(axes, adapter, example)
    figure.savefig(picture, dpi=80, pil_kwargs={"quality": 82})


def _draw_one(axes: Any, adapter: Builtin, example: Example) -> None:
    image = getattr(data, example.photo)()
    image = np.atleast_3d(image)[..., :3]
    image = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)), np.uint8)
    clicks = np.array(example.clicks, np.float32).reshape(-1, 3)
    boxes = np.array([example.box] if example.box else [], np.float32).reshape(-1, 4)
    prompt = Prompt(points=clicks[:, :2], point_labels=clicks[:, 2].astype(np.int64), boxes=boxes)
    embedding = encode_pixels(adapter, image)
    (candidate,) = adapter.decode(embedding, prompt, mask_input=None, multimask=False)
    axes.imshow(_painted(image, mask_of(candidate, embedding)))
    for x, y, label in example.clicks:
        axes.plot(x, y, "o", color="lime" if label else "red", markeredgecolor="black", markersize=8)
    if example.box:
        x1, y1, x2, y2 = example.box
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="lime", linewidth=2))
    axes.set_title(f"{example.caption} (predicted IoU {candidate.score:.2f})", fontsize=10)
    axes.axis("off")


def _painted(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    painted = image.copy()
    painted[mask] = (0.5 * image[mask] + 0.5 * np.array(COLOUR)).astype(np.uint8)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, outline, -1, (255, 255, 255), 2)
    return painted


def main() -> None:
    """Draw the documentation's picture."""
    parser = argparse.ArgumentParser(description="Draw what the built-in network finds.")
    parser.add_argument("picture", type=Path, help="a .jpg to write")
    draw(parser.parse_args().picture)


if __name__ == "__main__":
    main()
