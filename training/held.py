"""Thin things that something holds, of another colour than it: rods, bats, rackets, ropes, boards under the feet."""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from training.dice import Dice
from training.library import ByteArray

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

IN_FRONT: Final = 0.6
# Drawn twice as large, since lines have whole widths.
FINER: Final = 2
# As a share of the holder's longer side.
LENGTH: Final = (0.35, 1.1)
WIDTH: Final = (0.012, 0.05)


class Hands:
    """Gives things to objects."""

    def __init__(self, dice: Dice, surface: Callable[[int, int], ByteArray]) -> None:
        self._dice = dice
        self._surface = surface

    def fill(
        self, colour: FloatArray, alpha: FloatArray, parts: list[BoolArray]
    ) -> tuple[FloatArray, FloatArray, list[BoolArray], BoolArray | None]:
        """The object with a thing at its rim, on more room, and where the thing is seen; None if there is no rim."""
        opaque = (alpha[..., 0] > 0.5).astype(np.uint8)
        outlines, _ = cv2.findContours(opaque, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if not outlines:
            return colour, alpha, parts, None
        rng = self._dice.rng
        rim = max(outlines, key=len)[:, 0].astype(np.float32)
        longer = float(np.ptp(rim, 0).max())
        length = longer * self._dice.between(*LENGTH)
        width = max(1.6, longer * self._dice.log_between(*WIDTH))
        if self._dice.chance(0.2):
            hand, along = rim[rim[:, 1].argmax()], self._dice.between(-0.35, 0.35)
            strokes = _board(hand, along, length)
        else:
            hand = rim[int(rng.integers(len(rim)))]
            away = hand - rim.mean(0)
            along = float(np.arctan2(away[1], away[0])) + 0.6 * float(rng.standard_normal())
            strokes = _KINDS[int(rng.integers(len(_KINDS)))](hand, along, length, width, rng)
        places = np.concatenate([stroke for stroke, _ in strokes])
        rows, columns = opaque.shape
        room = 3 * width + 2
        before = np.maximum(0, np.ceil(room - places.min(0))).astype(int)
        behind = np.maximum(0, np.ceil(places.max(0) + room - (columns, rows))).astype(int)
        border = (before[1], behind[1]), (before[0], behind[0])
        colour, alpha = (np.pad(values, (*border, (0, 0))) for values in (colour, alpha))
        parts = [np.pad(part, border) for part in parts]
        rows, columns = alpha.shape[:2]
        drawn = np.zeros((FINER * rows, FINER * columns), np.uint8)
        for stroke, share in strokes:
            line = np.round(16 * FINER * (stroke + before)).astype(np.int32)
            cv2.polylines(drawn, [line], False, 255, max(1, round(FINER * width * share)), cv2.LINE_AA, shift=4)  # noqa: FBT003 - OpenCV's
        cover = np.asarray(cv2.resize(drawn, (columns, rows), interpolation=cv2.INTER_AREA) / 255, np.float32)[
            ..., None
        ]
        thing = self._coloured(rows, columns) * cover
        if self._dice.chance(IN_FRONT):
            return colour * (1 - cover) + thing, alpha + cover * (1 - alpha), parts, cover[..., 0] > 0.5
        seen = (cover[..., 0] > 0.5) & (alpha[..., 0] <= 0.5)
        return colour + thing * (1 - alpha), alpha + cover * (1 - alpha), parts, seen

    def _coloured(self, rows: int, columns: int) -> FloatArray:
        """One colour that gets lighter to one side, or a photo's surface, (rows, columns, 3)."""
        if self._dice.chance(0.3):
            return np.asarray(self._surface(rows, columns), np.float32)
        tone = self._dice.rng.uniform(10, 245, 3).astype(np.float32)
        if self._dice.chance(0.5):
            # Wood, metal and tyres have little colour.
            tone = tone.mean() + 0.25 * (tone - tone.mean())
        light = np.linspace(self._dice.between(0.7, 1), self._dice.between(0.8, 1.25), columns, dtype=np.float32)
        return np.asarray(np.minimum(255, light[None, :, None] * np.broadcast_to(tone, (rows, 1, 3))), np.float32)


Stroke = tuple[FloatArray, float]


def _rod(hand: FloatArray, along: float, length: float, _: float, rng: np.random.Generator) -> list[Stroke]:
    """Straight, held near an end or in the middle."""
    grip = rng.uniform(0.05, 0.5)
    return [(np.stack([hand - grip * length * _direction(along), hand + (1 - grip) * length * _direction(along)]), 1)]


def _bat(hand: FloatArray, along: float, length: float, _: float, rng: np.random.Generator) -> list[Stroke]:
    """Thicker towards its end."""
    steps = [hand + share * length * _direction(along) for share in (-0.08, 0.3, 0.55, 0.9)]
    thicker = rng.uniform(1.3, 2.6)
    widths = 1.0, 0.5 * (1 + thicker), thicker
    return [(np.stack(steps[index : index + 2]), width) for index, width in enumerate(widths)]


def _rope(hand: FloatArray, along: float, length: float, _: float, rng: np.random.Generator) -> list[Stroke]:
    """Bent, thin, hanging."""
    share = np.linspace(0, 1, 16, dtype=np.float32)[:, None]
    sideways = _direction(along + np.pi / 2) * rng.uniform(-0.3, 0.3) + np.array([0, rng.uniform(0, 0.3)])
    line = hand + length * (share * _direction(along) + 4 * share * (1 - share) * sideways)
    return [(line.astype(np.float32), 0.6)]


def _racket(hand: FloatArray, along: float, length: float, _: float, rng: np.random.Generator) -> list[Stroke]:
    """A handle with a ring, or a ring alone."""
    handle = length * rng.choice((0.0, 0.3, 0.45))
    radii = 0.25 * length, 0.25 * length * rng.uniform(0.5, 1)
    turns = np.linspace(0, 2 * np.pi, 33)[:, None]
    centre = hand + (handle + radii[0]) * _direction(along)
    ring = centre + radii[0] * np.cos(turns) * _direction(along) + radii[1] * np.sin(turns) * _direction(along + 1.5708)
    strokes = [(ring.astype(np.float32), 0.8)]
    if handle:
        strokes.append((np.stack([hand - 0.1 * handle * _direction(along), hand + handle * _direction(along)]), 1.0))
    return strokes


_KINDS: Final = (_rod, _bat, _rope, _racket)


def _board(foot: FloatArray, along: float, length: float) -> list[Stroke]:
    """Under the feet, to both sides: skis, boards, planks."""
    return [(np.stack([foot - 0.5 * length * _direction(along), foot + 0.5 * length * _direction(along)]), 1.3)]


def _direction(angle: float) -> FloatArray:
    return np.array([np.cos(angle), np.sin(angle)], np.float32)
