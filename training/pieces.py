"""Pieces of photographs at a random place and scale."""

from dataclasses import dataclass

import cv2
import numpy as np

from training.dice import Dice
from training.library import ByteArray, Library


@dataclass(frozen=True)
class Window:
    """A piece of a photo, as fractions of its height and width."""

    top: float
    left: float
    height: float
    width: float
    is_mirrored: bool
    is_upside_down: bool

    def cut(self, photo: ByteArray, rows: int, columns: int, *, is_photo: bool = True) -> ByteArray:
        """The piece of a picture, (rows, columns, ...) uint8; what is no photo is not blended."""
        height, width = photo.shape[:2]
        top, left = round(self.top * height), round(self.left * width)
        high, wide = max(1, round(self.height * height)), max(1, round(self.width * width))
        piece = photo[top : top + high, left : left + wide]
        piece = piece[:, ::-1] if self.is_mirrored else piece
        piece = piece[::-1] if self.is_upside_down else piece
        how = cv2.INTER_NEAREST
        if is_photo:
            how = cv2.INTER_AREA if high > rows else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(np.ascontiguousarray(piece), (columns, rows), interpolation=how), np.uint8)


class Pieces:
    """Draws photos and pieces of them."""

    def __init__(self, library: Library, dice: Dice) -> None:
        self._library = library
        self._dice = dice

    def photo(self, share: float) -> ByteArray:
        """A background with a probability, else a texture."""
        return self._library.draw("background" if self._dice.chance(share) else "texture", self._dice.rng)

    def crop(self, photo: ByteArray, rows: int, columns: int) -> ByteArray:
        """A piece of a photo, (rows, columns, 3) uint8."""
        return self.window(photo, rows, columns).cut(photo, rows, columns)

    def window(self, photo: ByteArray, rows: int, columns: int, smallest: float = 0.12) -> Window:
        """A piece of a photo at a random scale and place, maybe mirrored."""
        rng = self._dice.rng
        height, width = photo.shape[:2]
        fit = min(height / rows, width / columns)
        scale = fit * (
            self._dice.between(smallest, 1) if fit <= 1 else max(min(1, 1 / fit), self._dice.between(smallest, 1))
        )
        high, wide = min(height, max(8, int(rows * scale))), min(width, max(8, int(columns * scale)))
        y, x = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        return Window(
            top=y / height,
            left=x / width,
            height=high / height,
            width=wide / width,
            is_mirrored=self._dice.chance(0.5),
            is_upside_down=self._dice.chance(0.15),
        )
