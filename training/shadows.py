"""What an object leaves on the ground, and is none of it: a cast shadow, a reflection."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from training.camera import blurred
from training.dice import Dice

FloatArray = npt.NDArray[np.float32]

CAST: Final = 0.16
REFLECTED: Final = 0.06
SMALLEST: Final = 4


def foot_of(alpha: FloatArray) -> int | None:
    """The lowest row of an (h, w, 1) alpha that is more than half opaque."""
    rows = np.flatnonzero(alpha[..., 0].max(1) > 0.5)
    return int(rows[-1]) if len(rows) else None


class Shadows:
    """Draws on canvases, (H, W, 3) float32, before the object itself is pasted; ``x`` and ``y`` are its corner."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice

    def draw(self, canvas: FloatArray, colour: FloatArray, alpha: FloatArray, x: int, y: int) -> None:
        """What falls on the ground, now and then."""
        foot = foot_of(alpha)
        if foot is None or y + foot >= canvas.shape[0]:
            return
        chance = self._dice.rng.random()
        if chance < CAST:
            self._cast(canvas, alpha, x, y, foot)
        elif chance < CAST + REFLECTED:
            self._reflect(canvas, colour, alpha, x, y, foot)

    def _cast(self, canvas: FloatArray, alpha: FloatArray, x: int, y: int, foot: int) -> None:
        """A sheared, squashed, soft copy from the foot to one side, behind the object or before it."""
        lean = self._dice.between(0.35, 1.4) * (1 if self._dice.chance(0.5) else -1)
        squash = self._dice.between(0.12, 0.45) * (1 if self._dice.chance(0.4) else -1)
        # A place h above the foot throws its shadow lean * h to the side and squash * h down.
        move = np.array([[1, -lean, x + lean * foot], [0, -squash, y + foot + squash * foot]], np.float32)
        found = _warped(alpha, move, canvas.shape[0], canvas.shape[1])
        if found is not None:
            shadow, left, top = found
            shadow = blurred(shadow, self._dice.between(0.7, max(1.0, 0.03 * foot)))
            region = canvas[top : top + len(shadow), left : left + shadow.shape[1]]
            region *= 1 - self._dice.between(0.25, 0.7) * shadow

    def _reflect(self, canvas: FloatArray, colour: FloatArray, alpha: FloatArray, x: int, y: int, foot: int) -> None:
        """A mirrored copy below the foot that fades, as in water or a polished floor."""
        squash = self._dice.between(0.6, 1)
        move = np.array([[1, 0, x], [0, -squash, y + foot + squash * foot]], np.float32)
        found = _warped(np.dstack([colour, alpha]), move, canvas.shape[0], canvas.shape[1])
        if found is not None:
            mirrored, left, top = found
            if self._dice.chance(0.6):
                mirrored = blurred(mirrored, self._dice.between(0.5, 2.5))
            depth = np.arange(len(mirrored), dtype=np.float32)[:, None, None] / max(1.0, squash * foot)
            mirrored *= self._dice.between(0.2, 0.55) * np.maximum(0, 1 - self._dice.between(0.3, 1.2) * depth)
            region = canvas[top : top + len(mirrored), left : left + mirrored.shape[1]]
            region *= 1 - mirrored[..., 3:]
            region += np.clip(mirrored[..., :3], 0, 255)


def _warped(values: FloatArray, move: FloatArray, rows: int, columns: int) -> tuple[FloatArray, int, int] | None:
    """A layer moved onto a canvas: (h, w, c) where the two meet, and the left and top of that; None if nowhere."""
    height, width = values.shape[:2]
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float32) @ move.T
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    left, top, right, bottom = max(0, low[0]), max(0, low[1]), min(columns, high[0]), min(rows, high[1])
    if right - left < SMALLEST or bottom - top < SMALLEST:
        return None
    shift = move - np.array([[0, 0, left], [0, 0, top]], np.float32)
    warped = cv2.warpAffine(np.ascontiguousarray(values), shift, (right - left, bottom - top))
    return np.asarray(warped, np.float32).reshape(bottom - top, right - left, -1), int(left), int(top)
