"""Scenes composed of cut-outs on photographs, with the truth known to the pixel.

Pasting with truth for free: Dwibedi et al., "Cut, Paste and Learn", 2017; surfaces filled with photo texture: the dead
leaves model (Lee et al., 2001). What makes a scene hard on purpose: objects that take the background's colours or are
filled with a piece of it, parts that look unlike the rest of their object, look-alikes beside each other, things cut by
the frame, thin limbs, and whatever stands in front.
"""

import itertools
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np

from training.dice import Dice
from training.layers import MARGIN, BoolArray, Cut, FloatArray, Layer, LayerMaker, blurred
from training.library import ByteArray, Library
from training.outlines import MOST_REGIONS, RegionArray, unpack
from training.pieces import Pieces
from training.shapes import branches

REAL: Final = frozenset({"photo", "painting-large"})
AREA: Final = (0.004, 0.75)
OUTLINED: Final = 0.4
REGION_WEIGHT: Final = 1.5
GROUPED: Final = 0.5
GROUP_WEIGHT: Final = 0.8
# A region that the crop, or what stands before it, has broken up is none.
LARGEST_PIECE: Final = 0.85


@dataclass
class Target:
    """A possible target: layers, or the visible part of a region; and its weight when targets are drawn."""

    layers: frozenset[int]
    weight: float
    region: int | None = None


@dataclass
class Scene:
    """An image and its possible targets.

    ``image`` is (H, W, 3) uint8 RGB, ``layers`` (H, W) uint8 the layer of each pixel (0: background), ``regions``
    (H, W) uint16 with a bit for each region of the background.
    """

    image: ByteArray
    layers: ByteArray
    regions: RegionArray
    targets: list[Target] = field(default_factory=list)

    def mask(self, target: Target) -> BoolArray:
        """Where a target is seen, (H, W) bool."""
        if target.region is not None:
            return ((self.regions >> target.region & 1) > 0) & (self.layers == 0)
        return np.isin(self.layers, list(target.layers))


class SceneMaker:
    """Makes scenes from a library; a generator of the same seed makes the same ones."""

    def __init__(self, library: Library, rng: np.random.Generator) -> None:
        self._library = library
        self._has_regions = "regions" in library.kinds()
        self._dice = Dice(rng)
        self._pieces = Pieces(library, self._dice)
        self._layers = LayerMaker(library, self._pieces, self._dice)
        self._noise = rng.standard_normal((800, 800, 3)).astype(np.float32)

    def draw_from(self, rng: np.random.Generator) -> None:
        """Let another generator decide from now on."""
        self._dice.rng = rng

    def make(self, rows: int, columns: int) -> Scene:
        """A scene with at least one target."""
        while True:
            scene = self._compose(rows, columns)
            if scene.targets:
                return scene

    def _compose(self, rows: int, columns: int) -> Scene:
        rng = self._dice.rng
        is_outlined = self._has_regions and self._dice.chance(OUTLINED)
        is_leaves = not is_outlined and self._dice.chance(0.2)
        ground, canvas, regions = self._ground(rows, columns, is_outlined=is_outlined)
        layers = np.zeros((rows, columns), np.uint8)
        if is_outlined:
            count = int(rng.choice((0, 0, 1, 1, 2, 3)))
        else:
            count = int(rng.integers(5, 12)) if is_leaves else int(rng.choice((1, 2, 2, 3, 3, 4, 5, 6)))
        main = int(rng.integers(max(1, count)))
        last: tuple[Cut, tuple[float, float]] | None = None
        targets: list[Target] = []
        number = 0
        for index in range(count):
            is_alike = last is not None and self._dice.chance(0.18)
            cut = last[0] if last is not None and is_alike else self._layers.cut(is_leaves=is_leaves)
            layer = self._layers.layer(cut, max(rows, columns), ground, is_main=index == main, is_leaves=is_leaves)
            place = self._place(layer, rows, columns, is_main=index == main, kind=cut.kind)
            if last is not None and is_alike and self._dice.chance(0.6):
                # Beside its twin.
                height, width = layer.alpha.shape[:2]
                angle = self._dice.between(0, 6.28)
                place = last[1][0] + 0.7 * width * np.cos(angle), last[1][1] + 0.5 * height * np.sin(angle)
            part_numbers = [number + 2 + part for part in range(len(layer.parts))]
            if self._paste(canvas, layers, layer, place, number + 1, part_numbers):
                weight = 3.0 if cut.kind in REAL else 1.0
                targets.append(Target(frozenset({number + 1, *part_numbers}), weight))
                targets += [Target(frozenset({part}), 0.25) for part in part_numbers]
                number += 1 + len(part_numbers)
            last = cut, place
        if self._dice.chance(0.15):
            number += 1
            self._occlude(canvas, layers, number)
        whole = [target.layers for target in targets if target.weight >= 1]
        if len(whole) > 1 and self._dice.chance(GROUPED):
            masks = [np.isin(layers, list(some)) for some in whole]
            wider = [cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0 for mask in masks]
            numbers = itertools.combinations(range(len(whole)), 2)
            pairs = [(one, other) for one, other in numbers if (wider[one] & masks[other]).any()]
            if pairs:
                first, second = pairs[int(rng.integers(len(pairs)))]
                targets.append(Target(whole[first] | whole[second], GROUP_WEIGHT))
        scene = Scene(self._developed(canvas), layers, regions, self._seen(layers, targets))
        if is_outlined:
            scene.targets += _regions_of(scene)
        return scene

    def _ground(self, rows: int, columns: int, *, is_outlined: bool) -> tuple[ByteArray, FloatArray, RegionArray]:
        """A photo, the piece of it that all is pasted on, and the piece's regions."""
        regions: RegionArray = np.zeros((rows, columns), np.uint16)
        if is_outlined:
            photo, packed = self._library.draw_outlined(self._dice.rng)
            window = self._pieces.window(photo, rows, columns, smallest=0.45)
            canvas = window.cut(photo, rows, columns).astype(np.float32)
            regions = unpack(window.cut(packed, rows, columns, is_photo=False))
        else:
            photo = self._pieces.photo(0.87)
            canvas = self._pieces.crop(photo, rows, columns).astype(np.float32)
        if self._dice.chance(0.25):
            canvas = blurred(canvas, self._dice.between(0.8, 2 if is_outlined else 4))
        if self._dice.chance(0.3):
            canvas = np.clip(self._layers.tinted(canvas, np.ones((rows, columns, 1), np.float32)), 0, 255)
        return photo, canvas, regions

    def _seen(self, layers: ByteArray, targets: list[Target]) -> list[Target]:
        """The targets of which enough is seen; small ones are chosen less often."""
        areas = np.bincount(layers.ravel(), minlength=256) / layers.size
        seen = []
        for target in targets:
            area = float(sum(areas[layer] for layer in target.layers))
            if AREA[0] <= area <= AREA[1]:
                seen.append(Target(target.layers, target.weight * min(1.0, area / 0.03) ** 0.5))
        return seen

    def _place(self, layer: Layer, rows: int, columns: int, *, is_main: bool, kind: str) -> tuple[float, float]:
        """The centre, x and y in pixels; portraits tend to be at the lower edge."""
        low, high = (0.25, 0.75) if is_main else (0.05, 0.95)
        if self._dice.chance(0.12):
            low, high = -0.1, 1.1
        x, y = self._dice.between(low, high) * columns, self._dice.between(low, high) * rows
        height = layer.alpha.shape[0]
        if kind == "painting-large" and self._dice.chance(0.6):
            standing = rows - height / 2 + MARGIN
            y = max(y, standing) if height <= rows else standing + self._dice.between(0, 0.3) * height
        return x, y

    def _paste(
        self,
        canvas: FloatArray,
        layers: ByteArray,
        layer: Layer,
        place: tuple[float, float],
        number: int,
        part_numbers: list[int],
    ) -> bool:
        """Blend a layer in; False when it lies outside."""
        height, width = layer.alpha.shape[:2]
        rows, columns = layers.shape
        x, y = int(place[0] - width / 2), int(place[1] - height / 2)
        left, top, right, bottom = max(0, x), max(0, y), min(columns, x + width), min(rows, y + height)
        if right - left < 4 or bottom - top < 4:
            return False
        inside = np.s_[top - y : bottom - y, left - x : right - x]
        region = np.s_[top:bottom, left:right]
        alpha, colour, below = layer.alpha[inside], layer.colour[inside], canvas[region]
        if self._dice.chance(0.4) and alpha.sum() > 10:
            colour = self._camouflaged(colour, alpha, below)
        colour = np.clip(colour, 0, 255 * alpha)
        if self._dice.chance(0.3):
            shadow = blurred(np.ascontiguousarray(alpha), self._dice.between(2, 10))
            shift = np.array([[1, 0, self._dice.between(-12, 12)], [0, 1, self._dice.between(0, 12)]], np.float32)
            shadow = np.asarray(cv2.warpAffine(shadow, shift, shadow.shape[1::-1]), np.float32)
            below = below * (1 - self._dice.between(0.1, 0.55) * shadow[..., None])
        canvas[region] = colour + below * (1 - alpha)
        opaque = alpha[..., 0] > 0.5
        layers[region][opaque] = number
        for part, part_number in zip(layer.parts, part_numbers, strict=True):
            layers[region][opaque & part[inside]] = part_number
        return True

    def _camouflaged(self, colour: FloatArray, alpha: FloatArray, below: FloatArray) -> FloatArray:
        """Move the mean colour, and maybe the contrast, towards the background's."""
        mass = float(alpha.sum())
        own, ground = colour.sum((0, 1)) / mass, below.mean((0, 1))
        colour = colour + (ground - own) * self._dice.between(0.2, 1) * alpha
        if self._dice.chance(0.4):
            spread = np.sqrt((((colour - ground * alpha) ** 2).sum() / 3 + 1) / mass)
            gain = np.clip((below.std() + 2) / spread, 0.4, 1.6)
            mean = colour.sum((0, 1)) / mass
            colour = mean * alpha + (colour - mean * alpha) * gain
        return np.asarray(colour, np.float32)

    def _occlude(self, canvas: FloatArray, layers: ByteArray, number: int) -> None:
        """Something thin in front of everything."""
        rows, columns = layers.shape
        stretched = np.asarray(cv2.resize(branches(self._dice.rng), (columns, rows)))
        alpha: FloatArray = np.asarray(stretched / 255, np.float32)[..., None]
        surface = self._layers.tinted(
            self._pieces.crop(self._pieces.photo(0.6), rows, columns).astype(np.float32), alpha
        )
        canvas[:] = np.clip(surface, 0, 255) * alpha + canvas * (1 - alpha)
        layers[alpha[..., 0] > 0.5] = number

    def _developed(self, canvas: FloatArray) -> ByteArray:
        """Blur, noise, gamma, grey, and the marks of JPEG, each now and then."""
        rng = self._dice.rng
        rows, columns = canvas.shape[:2]
        if self._dice.chance(0.2):
            canvas = blurred(canvas, self._dice.between(0.4, 1.2))
        if self._dice.chance(0.4):
            y, x = int(rng.integers(800 - rows)), int(rng.integers(800 - columns))
            noise = self._noise[y : y + rows, x : x + columns]
            is_grey = self._dice.chance(0.5)
            canvas = canvas + (
                noise[..., :1] * self._dice.between(1, 10) if is_grey else noise * self._dice.between(1, 7)
            )
        image = np.clip(canvas, 0, 255).astype(np.uint8)
        curve = 255 * np.power(
            np.arange(256) / 255 * self._dice.between(0.85, 1.1) + 0.001, self._dice.between(0.7, 1.4)
        )
        image = np.asarray(cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8)))
        if self._dice.chance(0.08):
            image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
        if self._dice.chance(0.65):
            _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])
            image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
        return np.asarray(image, np.uint8)


def _regions_of(scene: Scene) -> list[Target]:
    """The regions of the background of which enough is seen, in one piece."""
    targets = []
    for region in range(MOST_REGIONS):
        target = Target(frozenset(), REGION_WEIGHT, region)
        mask = scene.mask(target)
        area = float(mask.mean())
        if AREA[0] <= area <= AREA[1]:
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
            if stats[1:, cv2.CC_STAT_AREA].max() >= LARGEST_PIECE * mask.sum():
                targets.append(target)
    return targets
