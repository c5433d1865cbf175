"""Photos with a known mask each: ``images/NAME.jpg`` (or .png) and ``masks/NAME_NUMBER.png``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

OPAQUE: Final = 127


@dataclass(frozen=True)
class Photo:
    """(H, W, 3) uint8 RGB, and where the object is, (H, W) bool."""

    name: str
    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.bool_]

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """The object's box: x1, y1, x2, y2 in pixels, corners included."""
        rows, columns = np.nonzero(self.truth)
        return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def photos(folder: Path) -> Iterator[Photo]:
    """All objects of a folder, by name."""
    images = {path.stem: path for path in (folder / "images").iterdir()}
    for mask_file in sorted((folder / "masks").iterdir()):
        pixels = np.asarray(cv2.imread(str(images[mask_file.stem.rsplit("_", 1)[0]])))
        truth = np.asarray(cv2.imread(str(mask_file), cv2.IMREAD_GRAYSCALE)) > OPAQUE
        yield Photo(mask_file.stem, np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), truth)
