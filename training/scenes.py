"""Scenes composed of cut-outs on photographs, with the truth known to the pixel.

Pasting with truth for free: Dwibedi et al., "Cut, Paste and Learn", 2017; surfaces filled with photo texture: the dead
leaves model (Lee et al., 2001). What makes a scene hard on purpose: objects that take the background's colours or are
filled with a piece of it, parts that look unlike the rest of their object, look-alikes beside each other, things cut by
the frame, thin limbs, and whatever stands in front.
"""

import itertools
from dataclasses import dataclass, field, replace
from typing import Final

import cv2
import numpy as np

from training.camera import NOISE_SIZE, SPRAY, Camera
from training.dice import Dice
from training.layers import MARGIN, BoolArray, Cut, FloatArray, Layer, LayerMaker
from training.library import ByteArray, Library
from training.outlines import MOST_REGIONS, RegionArray, unpack
from training.pieces import Pieces
from training.shapes import branches
from training.stage import Paster, Stage, Target

WEIGHTS: Final = {"photo": 3.0, "painting-large": 3.0, "emoji": 2.0, "model": 2.0}
AREA: Final = (0.002, 0.75)
LEAST_REGION: Final = 0.004
LEAVES: Final = 0.2
# Scenes in which even the main object is small.
FAR: Final = 0.33
CROWD: Final = 0.12
CROWD_SIZE: Final = (0.12, 0.36)
# How often the object after the main one is put before it, and how much of that it covers.
HIDDEN: Final = 0.35
HIDES: Final = (0.2, 0.6)
# Scenes on a photo whose objects people have outlined, and, of the others, on one with regions.
REAL: Final = 0.5
OUTLINED: Final = 0.4
OBJECT_WEIGHT: Final = 3.0
REGION_WEIGHT: Final = 1.5
# An object of which the crop and what stands before it leave less is not asked for.
LEAST_SEEN: Final = 0.35
# Smaller targets are chosen less often.
SMALL: Final = 0.02
GROUPED: Final = 0.5
GROUP_WEIGHT: Final = 0.8
# A region that the crop, or what stands before it, has broken up is none.
LARGEST_PIECE: Final = 0.85


@dataclass
class Scene:
    """An image and its possible targets.

    ``image`` is (H, W, 3) uint8 RGB, ``layers`` (H, W) uint8 the layer of each pixel (0: background), ``regions``
    (H, W) uint16 with a bit for each region of the background, or each object of a photo.
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
        self._outlines = {"regions", "objects"} & library.kinds()
        self._dice = Dice(rng)
        self._pieces = Pieces(library, self._dice)
        self._layers = LayerMaker(library, self._pieces, self._dice)
        noise = rng.standard_normal((NOISE_SIZE, NOISE_SIZE, 3)).astype(np.float32)
        self._camera = Camera(self._dice, noise)
        self._paster = Paster(self._dice)

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
        outlines = self._choose_outlines()
        ground, canvas, regions, areas = self._ground(rows, columns, outlines)
        stage = Stage(canvas, np.zeros((rows, columns), np.uint8))
        if outlines or not self._dice.chance(CROWD):
            self._scatter(stage, ground, outlines)
        else:
            self._crowd(stage, ground)
        if self._dice.chance(0.15):
            self._occlude(stage)
        if self._dice.chance(GROUPED):
            self._group(stage)
        if self._dice.chance(SPRAY):
            self._spray(stage)
        scene = Scene(self._camera.developed(stage.canvas), stage.layers, regions, _seen(stage))
        if outlines == "objects":
            scene.targets += _objects_of(scene, areas)
        elif outlines == "regions":
            scene.targets += _regions_of(scene)
        return scene

    def _choose_outlines(self) -> str | None:
        """Which outlines the scene's photo has; None for one without."""
        if "objects" in self._outlines and self._dice.chance(REAL):
            return "objects"
        return "regions" if "regions" in self._outlines and self._dice.chance(OUTLINED) else None

    def _scatter(self, stage: Stage, ground: ByteArray, outlines: str | None) -> None:
        """Things here and there, or leaves all over; the main one is larger, unless all is far away."""
        rng = self._dice.rng
        rows, columns = stage.layers.shape
        is_leaves = not outlines and self._dice.chance(LEAVES)
        is_far = not is_leaves and self._dice.chance(FAR)
        if outlines:
            count = int(rng.choice((0, 0, 0, 0, 1, 1, 2) if outlines == "objects" else (0, 0, 1, 1, 2, 3)))
        elif is_leaves:
            count = int(rng.integers(5, 12))
        else:
            count = int(rng.choice((1, 2, 3, 4, 5, 7) if is_far else (1, 2, 2, 3, 3, 4, 5, 6)))
        main = int(rng.integers(max(1, count)))
        pasted: frozenset[int] = frozenset()
        last: tuple[Cut, tuple[float, float]] | None = None
        for index in range(count):
            is_alike = last is not None and self._dice.chance(0.18)
            cut = last[0] if last is not None and is_alike else self._layers.cut(is_leaves=is_leaves)
            size = self._size(is_main=index == main, is_leaves=is_leaves, is_far=is_far)
            layer = self._layers.layer(cut, size * max(rows, columns), ground, is_leaves=is_leaves)
            place = self._place(layer, rows, columns, is_main=index == main, kind=cut.kind)
            if last is not None and is_alike and self._dice.chance(0.6):
                # Beside its twin.
                height, width = layer.alpha.shape[:2]
                angle = self._dice.between(0, 6.28)
                place = last[1][0] + 0.7 * width * np.cos(angle), last[1][1] + 0.5 * height * np.sin(angle)
            elif pasted and index == main + 1 and self._dice.chance(HIDDEN):
                place = self._before(stage.mask(pasted), layer) or place
            pasted = self._paster.paste(stage, layer, place, WEIGHTS.get(cut.kind, 1.0))
            last = cut, place

    def _crowd(self, stage: Stage, ground: ByteArray) -> None:
        """The same thing and its relatives many times, in a row or a bunch, those lower down in front."""
        rng = self._dice.rng
        rows, columns = stage.layers.shape
        first = self._layers.cut(is_leaves=False)
        size = self._dice.log_between(*CROWD_SIZE) * max(rows, columns)
        count = int(rng.integers(4, 10))
        layers = []
        for _ in range(count):
            cut = self._layers.relative(first) if self._dice.chance(0.3) else first
            layers.append(self._layers.layer(cut, size * self._dice.between(0.75, 1.25), ground, is_leaves=False))
        width, height = (float(np.mean([layer.alpha.shape[axis] for layer in layers])) - 2 * MARGIN for axis in (1, 0))
        middle = self._dice.between(0.3, 0.7) * columns, self._dice.between(0.35, 0.7) * rows
        if self._dice.chance(0.5):
            step = self._dice.between(0.45, 0.95) * width
            x = step * (np.arange(count) - (count - 1) / 2 + rng.normal(0, 0.15, count))
            y = rng.normal(0, 0.12 * height, count)
        else:
            spread = 0.45 * np.sqrt(count)
            x, y = rng.normal(0, spread * width, count), rng.normal(0, 0.6 * spread * height, count)
        feet = y + [layer.alpha.shape[0] / 2 for layer in layers]
        for index in np.argsort(feet):
            place = middle[0] + float(x[index]), middle[1] + float(y[index])
            self._paster.paste(stage, layers[index], place, WEIGHTS.get(first.kind, 1.0))

    def _size(self, *, is_main: bool, is_leaves: bool, is_far: bool) -> float:
        """The long side of an object as a share of the image's."""
        if is_leaves:
            return self._dice.log_between(0.15, 0.8)
        if is_far:
            return self._dice.log_between(0.1 if is_main else 0.08, 0.3)
        return self._dice.log_between(0.28, 1.05) if is_main else self._dice.log_between(0.12, 0.8)

    def _before(self, mask: BoolArray, layer: Layer) -> tuple[float, float] | None:
        """Where a layer covers a fifth to three fifths of a mask; None if nowhere in one direction."""
        y, x = (values[::7] for values in np.nonzero(mask))
        if not len(y):
            return None
        opaque = layer.alpha[..., 0] > 0.5
        height, width = opaque.shape
        angle = self._dice.between(0, 6.28)
        reach = 0.5 * (np.ptp(x) + width) * np.cos(angle), 0.5 * (np.ptp(y) + height) * np.sin(angle)
        for share in self._dice.rng.permutation((0.15, 0.3, 0.45, 0.6, 0.75)):
            place = float(x.mean() + share * reach[0]), float(y.mean() + share * reach[1])
            across, down = x - int(place[0] - width / 2), y - int(place[1] - height / 2)
            is_inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
            if HIDES[0] <= opaque[down[is_inside], across[is_inside]].sum() / len(y) <= HIDES[1]:
                return place
        return None

    def _group(self, stage: Stage) -> None:
        """Two neighbours, as one target."""
        whole = [target.layers for target in stage.targets if target.weight >= 1]
        masks = [stage.mask(some) for some in whole]
        wider = [cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0 for mask in masks]
        numbers = itertools.combinations(range(len(whole)), 2)
        pairs = [(one, other) for one, other in numbers if (wider[one] & masks[other]).any()]
        if pairs:
            first, second = pairs[int(self._dice.rng.integers(len(pairs)))]
            stage.targets.append(Target(whole[first] | whole[second], GROUP_WEIGHT, "group"))

    def _spray(self, stage: Stage) -> None:
        """Around the foot of one of the things."""
        whole = [target.layers for target in stage.targets if target.weight >= 1]
        if whole:
            mask = stage.mask(whole[int(self._dice.rng.integers(len(whole)))])
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if len(rows):
                self._camera.sprayed(
                    stage.canvas, int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
                )

    def _ground(
        self, rows: int, columns: int, outlines: str | None
    ) -> tuple[ByteArray, FloatArray, RegionArray, FloatArray]:
        """A photo, the piece of it that all is pasted on, and the outlines in that piece.

        Last, (16,) float32: the area of each whole object as a share of the piece's area, so it may exceed 1.
        """
        regions: RegionArray = np.zeros((rows, columns), np.uint16)
        areas: FloatArray = np.zeros(MOST_REGIONS, np.float32)
        if outlines:
            photo, packed = self._library.draw_outlined(outlines, self._dice.rng)
            window = self._pieces.window(photo, rows, columns, smallest=0.45)
            canvas = window.cut(photo, rows, columns).astype(np.float32)
            regions = unpack(window.cut(packed, rows, columns, is_photo=False))
            if outlines == "objects":
                bits = unpack(packed)
                areas[:] = [(bits >> number & 1).mean() for number in range(MOST_REGIONS)]
                areas /= window.height * window.width
        else:
            photo = self._pieces.photo(0.87)
            canvas = self._pieces.crop(photo, rows, columns).astype(np.float32)
        canvas = self._camera.surroundings(canvas, is_outlined=outlines is not None)
        if self._dice.chance(0.3):
            canvas = np.clip(self._layers.tinted(canvas, np.ones((rows, columns, 1), np.float32)), 0, 255)
        return photo, canvas, regions, areas

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

    def _occlude(self, stage: Stage) -> None:
        """Something thin in front of everything."""
        rows, columns = stage.layers.shape
        stretched = np.asarray(cv2.resize(branches(self._dice.rng), (columns, rows)))
        alpha: FloatArray = np.asarray(stretched / 255, np.float32)[..., None]
        surface = self._layers.tinted(
            self._pieces.crop(self._pieces.photo(0.6), rows, columns).astype(np.float32), alpha
        )
        stage.canvas[:] = np.clip(surface, 0, 255) * alpha + stage.canvas * (1 - alpha)
        stage.layers[alpha[..., 0] > 0.5] = stage.next()


def _seen(stage: Stage) -> list[Target]:
    """The targets of which enough is seen; small ones are chosen a little less often."""
    areas = np.bincount(stage.layers.ravel(), minlength=256) / stage.layers.size
    seen = []
    for target in stage.targets:
        area = float(sum(areas[layer] for layer in target.layers))
        if AREA[0] <= area <= AREA[1]:
            seen.append(_weighted(target, area))
    return seen


def _weighted(target: Target, area: float) -> Target:
    """A target with less weight if it is small."""
    return replace(target, weight=target.weight * min(1.0, area / SMALL) ** 0.5)


def _objects_of(scene: Scene, areas: FloatArray) -> list[Target]:
    """The outlined objects of which enough is seen; ``areas`` are those of the whole objects."""
    targets = []
    for number in range(MOST_REGIONS):
        target = Target(frozenset(), OBJECT_WEIGHT, "object", number)
        area = float(scene.mask(target).mean())
        if LEAST_REGION <= area <= AREA[1] and area >= LEAST_SEEN * areas[number]:
            targets.append(_weighted(target, area))
    return targets


def _regions_of(scene: Scene) -> list[Target]:
    """The regions of the background of which enough is seen, in one piece."""
    targets = []
    for region in range(MOST_REGIONS):
        target = Target(frozenset(), REGION_WEIGHT, "region", region)
        mask = scene.mask(target)
        area = float(mask.mean())
        if LEAST_REGION <= area <= AREA[1]:
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
            if stats[1:, cv2.CC_STAT_AREA].max() >= LARGEST_PIECE * mask.sum():
                targets.append(target)
    return targets
