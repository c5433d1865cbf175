"""Cut-outs made ready to be pasted: resized, textured, coloured, given parts, turned and shaded."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from training.camera import blurred, moved
from training.dice import Dice
from training.held import Hands
from training.library import ByteArray, Library
from training.outlines import unpack
from training.pieces import Pieces
from training.shapes import branches, shape

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# How often each kind is pasted, and how often its surface is replaced by a photo's.
KINDS: Final = {
    "photo": (0.32, 0.04),
    "painting-large": (0.18, 0.04),
    "emoji": (0.21, 0.05),
    "model": (0.14, 0.05),
    "painting": (0.04, 0.25),
    "scratch": (0.02, 0.1),
    "render": (0.02, 0.1),
    "icon": (0.01, 0.1),
    "clipart": (0.03, 0.5),
    "shape": (0.03, 1.0),
}
LEAVES: Final = ("clipart", "painting", "photo", "painting-large")
MOST_ENLARGED: Final = 2.2
MARGIN: Final = 16
MOST_PARTS: Final = 3
HOLDING: Final = 0.12
# How often an object is soft, in motion, or out of focus: in front of the plane that is sharp, say.
SOFT: Final = 0.28
MOVING: Final = 0.1
OUT_OF_FOCUS: Final = 0.05


@dataclass
class Cut:
    """A cut-out as drawn: its kind, RGBA pixels, whether its surface is replaced, and its packed parts if any."""

    kind: str
    pixels: ByteArray
    is_textured: bool
    parts: ByteArray | None = None


@dataclass
class Layer:
    """Something ready to paste: premultiplied (h, w, 3) and alpha (h, w, 1), float32; and parts of it, (h, w) bool.

    ``kind`` is its cut-out's. ``held`` is a thing that the object holds, which belongs to it, yet not as its parts do.
    """

    kind: str
    colour: FloatArray
    alpha: FloatArray
    parts: list[BoolArray]
    held: BoolArray | None = None


class LayerMaker:
    """Draws cut-outs and makes layers of them."""

    def __init__(self, library: Library, pieces: Pieces, dice: Dice) -> None:
        self._library, self._pieces, self._dice = library, pieces, dice
        self._hands = Hands(dice, self._surface)
        kinds = {kind: values for kind, values in KINDS.items() if kind in library.kinds() or kind == "shape"}
        self._kinds = list(kinds)
        self._shares = np.array([share for share, _ in kinds.values()])
        self._shares /= self._shares.sum()

    def cut(self, *, is_leaves: bool) -> Cut:
        """A cut-out, or among leaves mostly a shape."""
        kind = str(self._dice.rng.choice(self._kinds, p=self._shares))
        textured = KINDS[kind][1]
        if is_leaves:
            wanted = str(self._dice.rng.choice(LEAVES)) if self._dice.chance(0.4) else "shape"
            kind, textured = wanted if wanted in self._kinds else "shape", 0.85
        if kind == "shape":
            alpha = branches(self._dice.rng) if self._dice.chance(0.25) else shape(self._dice.rng)
            pixels = np.dstack([np.full((*alpha.shape, 3), 128, np.uint8), alpha])
            return Cut(kind, pixels, is_textured=True)
        pixels, parts = self._library.draw_with_parts(kind, self._dice.rng)
        return Cut(kind, pixels, self._dice.chance(textured), parts)

    def relative(self, cut: Cut) -> Cut:
        """Another cut-out of the same kind."""
        if cut.kind == "shape":
            return cut
        pixels, parts = self._library.draw_with_parts(cut.kind, self._dice.rng)
        return Cut(cut.kind, pixels, cut.is_textured, parts)

    def layer(self, cut: Cut, longest: float, ground: ByteArray, *, is_leaves: bool) -> Layer:
        """Resize to a long side of about ``longest``, mirror, texture, colour, add parts, turn, blur and shade."""
        factor = longest / max(cut.pixels.shape[:2]) * self._dice.rng.uniform(0.88, 1.12, 2)
        factor *= min(1.0, MOST_ENLARGED / factor.max())
        height, width = (max(6, int(cut.pixels.shape[axis] * factor[axis])) for axis in (0, 1))
        how = cv2.INTER_AREA if factor.max() < 1 else cv2.INTER_LINEAR
        # Colours weighted by alpha before they are blended, or whatever transparent pixels hide becomes a halo.
        pixels = cut.pixels.astype(np.float32)
        pixels[..., :3] *= pixels[..., 3:] / 255
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=how))
        parts = self._own_parts(cut, width, height)
        if self._dice.chance(0.5):
            pixels = pixels[:, ::-1]
            parts = [part[:, ::-1] for part in parts]
        # Room for soft rims and shadows.
        pixels = np.pad(pixels, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
        height, width = pixels.shape[:2]
        alpha: FloatArray = np.ascontiguousarray(pixels[..., 3:] / 255)
        colour: FloatArray = np.ascontiguousarray(pixels[..., :3])
        if cut.is_textured:
            surface = self._pieces.crop(
                ground if self._dice.chance(0.25) else self._pieces.photo(0.8), height, width
            ).astype(np.float32)
            if self._dice.chance(0.5) and cut.kind != "shape":
                light = colour.mean(2, keepdims=True) / np.maximum(alpha, 0.02) / 255
                surface *= 0.35 + self._dice.between(0.6, 1) * light
            colour = np.asarray(surface * alpha, np.float32)
        colour = self.tinted(colour, alpha)
        parts = [np.pad(part, MARGIN) & (alpha[..., 0] > 0.5) for part in parts]
        # A surface from one photo hides what an object's own parts are.
        if cut.is_textured:
            parts = []
        if not parts and self._dice.chance(0.25):
            colour, parts = self._with_part(colour, alpha)
        held: BoolArray | None = None
        if not is_leaves and cut.kind != "shape" and self._dice.chance(HOLDING):
            colour, alpha, parts, held = self._hands.fill(colour, alpha, parts)
        masks = [*parts, held] if held is not None else parts
        colour, alpha, masks = self._turned(colour, alpha, masks, is_leaves=is_leaves)
        colour, alpha, masks = self._unsharp(colour, alpha, masks)
        if self._dice.chance(0.3):
            colour = colour * self._slope(*alpha.shape[:2])
        parts, thing = (masks, None) if held is None else (masks[:-1], masks[-1])
        return Layer(cut.kind, colour, alpha, parts, thing)

    def _own_parts(self, cut: Cut, width: int, height: int) -> list[BoolArray]:
        """Up to three of the parts that the cut-out has, (height, width) each."""
        if cut.parts is None:
            return []
        packed = unpack(np.asarray(cv2.resize(cut.parts, (width, height), interpolation=cv2.INTER_NEAREST)))
        parts = [packed >> bit & 1 > 0 for bit in range(int(packed.max()).bit_length())]
        chosen = self._dice.rng.permutation(len(parts))[:MOST_PARTS]
        return [parts[int(index)] for index in chosen]

    def tinted(self, colour: FloatArray, alpha: FloatArray) -> FloatArray:
        """Other light, another camera, or hardly any colour."""
        rng = self._dice.rng
        chance = rng.random()
        if chance < 0.12:
            colour = colour.mean(2, keepdims=True) * rng.uniform(0.8, 1.1, 3).astype(np.float32)
        elif chance < 0.45:
            colour = colour @ (np.eye(3) + 0.12 * rng.standard_normal((3, 3))).astype(np.float32)
        gain = (self._dice.between(0.65, 1.3) * rng.uniform(0.88, 1.12, 3)).astype(np.float32)
        return np.asarray(colour * gain + self._dice.between(-25, 25) * alpha, np.float32)

    def _with_part(self, colour: FloatArray, alpha: FloatArray) -> tuple[FloatArray, list[BoolArray]]:
        """Give a part of the object, cut off by a line or a shape, another colour or surface."""
        height, width = alpha.shape[:2]
        if self._dice.chance(0.5):
            where = _across(height, width, self._dice.between(0, 6.28)) > self._dice.between(-0.15, 0.3)
        else:
            inner = cv2.resize(shape(self._dice.rng), (max(4, width * 2 // 3), max(4, height * 2 // 3)))
            where = np.zeros((height, width), np.bool_)
            y0 = int(self._dice.rng.integers(height - len(inner) + 1))
            x0 = int(self._dice.rng.integers(width - inner.shape[1] + 1))
            where[y0 : y0 + inner.shape[0], x0 : x0 + inner.shape[1]] = np.asarray(inner) > 127
        where &= alpha[..., 0] > 0.5
        share = where.sum() / max(1.0, float((alpha > 0.5).sum()))
        if not 0.08 < share < 0.7:
            return colour, []
        if self._dice.chance(0.5):
            other = self._pieces.crop(self._pieces.photo(0.7), height, width).astype(np.float32) * alpha
        else:
            other = self.tinted(colour, alpha) * self._dice.rng.uniform(0.3, 1.5, 3).astype(np.float32)
        return np.where(where[..., None], other, colour).astype(np.float32), [where]

    def _turned(
        self, colour: FloatArray, alpha: FloatArray, parts: list[BoolArray], *, is_leaves: bool
    ) -> tuple[FloatArray, FloatArray, list[BoolArray]]:
        chance = self._dice.rng.random()
        if chance < 0.5:
            angle = float(self._dice.rng.standard_normal()) * 10
        else:
            angle = self._dice.between(-180, 180) if self._dice.chance(0.7 if is_leaves else 0.12) else 0.0
        if abs(angle) < 1:
            return colour, alpha, parts
        height, width = alpha.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        cos, sin = abs(turn[0, 0]), abs(turn[0, 1])
        size = int(height * sin + width * cos) + 1, int(height * cos + width * sin) + 1
        turn[0, 2] += (size[0] - width) / 2
        turn[1, 2] += (size[1] - height) / 2
        turned = cv2.warpAffine(np.ascontiguousarray(np.dstack([colour, alpha])), turn, size)
        moved = [
            np.asarray(cv2.warpAffine(part.astype(np.uint8), turn, size, flags=cv2.INTER_NEAREST)) > 0 for part in parts
        ]
        return np.asarray(turned[..., :3], np.float32), np.asarray(turned[..., 3:], np.float32), moved

    def _unsharp(
        self, colour: FloatArray, alpha: FloatArray, masks: list[BoolArray]
    ) -> tuple[FloatArray, FloatArray, list[BoolArray]]:
        """Soft, in motion or out of focus, now and then; masks follow what is seen, as alpha does."""
        chance = self._dice.rng.random()
        if chance < SOFT:
            sigma = self._dice.between(0.4, 1.3)
            return blurred(colour, sigma), blurred(alpha, sigma), masks
        if chance > SOFT + MOVING + OUT_OF_FOCUS:
            return colour, alpha, masks
        # Neither beyond the margin nor so much that hardly anything is left.
        side = min(alpha.shape[:2]) - 2 * MARGIN
        values = np.dstack([colour, alpha, *(mask.astype(np.float32) for mask in masks)])
        if chance < SOFT + MOVING:
            length = self._dice.between(2, max(3.0, min(2.0 * MARGIN - 4, 0.4 * side)))
            values = moved(values, length, self._dice.between(0, 3.14))
        else:
            values = blurred(values, self._dice.between(1, max(1.3, min(MARGIN / 3, 0.1 * side))))
        found = [values[..., 4 + index] > 0.5 for index in range(len(masks))]
        return np.ascontiguousarray(values[..., :3]), np.ascontiguousarray(values[..., 3:4]), found

    def _surface(self, rows: int, columns: int) -> ByteArray:
        return self._pieces.crop(self._pieces.photo(0.7), rows, columns)

    def _slope(self, height: int, width: int) -> FloatArray:
        """Light that falls off across the object, (height, width, 1)."""
        angle, strength = self._dice.between(0, 6.28), self._dice.between(0.1, 0.4)
        return np.asarray(1 + 2 * strength * _across(height, width, angle), np.float32)[..., None]


def _across(height: int, width: int, angle: float) -> FloatArray:
    """How far each place lies in a direction, (height, width), 0 in the middle and about 0.5 at the rim."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.asarray((x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle), np.float32)
