"""Scenes composed of cut-outs on photographs, with the truth known to the pixel.

Pasting with truth for free: Dwibedi et al., "Cut, Paste and Learn", 2017; surfaces filled with photo texture: the dead
leaves model (Lee et al., 2001). What makes a scene hard on purpose: objects that take the background's colours or are
filled with a piece of it, parts that look unlike the rest of their object, look-alikes beside each other, things cut by
the frame, thin limbs, and whatever stands in front.
"""

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from training.library import ByteArray, Library
from training.outlines import MOST_REGIONS, RegionArray, unpack
from training.shapes import branches, shape

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# How often each kind is pasted, and how often its surface is replaced by a photo's.
KINDS: Final = {
    "photo": (0.32, 0.04),
    "painting-large": (0.18, 0.04),
    "painting": (0.09, 0.25),
    "scratch": (0.05, 0.1),
    "render": (0.07, 0.1),
    "icon": (0.05, 0.1),
    "clipart": (0.12, 0.5),
    "shape": (0.12, 1.0),
}
REAL: Final = frozenset({"photo", "painting-large"})
LEAVES: Final = ("clipart", "painting", "photo", "painting-large")
AREA: Final = (0.004, 0.75)
MOST_ENLARGED: Final = 2.2
MARGIN: Final = 16
OUTLINED: Final = 0.3
REGION_WEIGHT: Final = 1.5
# A region that the crop, or what stands before it, has broken up is none.
LARGEST_PIECE: Final = 0.85


@dataclass
class Target:
    """Something that may be asked for: layers, or what is seen of a region; and how gladly it is chosen."""

    layers: frozenset[int]
    weight: float
    region: int | None = None


@dataclass
class Scene:
    """An image and what may be asked for.

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


@dataclass
class _Cut:
    """A cut-out as drawn: its kind, RGBA pixels, and whether its surface is replaced."""

    kind: str
    pixels: ByteArray
    is_textured: bool


@dataclass
class _Layer:
    """Something ready to paste: premultiplied (h, w, 3) and alpha (h, w, 1), float32; and parts of it, (h, w) bool."""

    colour: FloatArray
    alpha: FloatArray
    parts: list[BoolArray]


@dataclass(frozen=True)
class _Window:
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


class SceneMaker:
    """Makes scenes from a library; a generator of the same seed makes the same ones."""

    def __init__(self, library: Library, rng: np.random.Generator) -> None:
        self._library = library
        self._rng = rng
        kinds = {kind: values for kind, values in KINDS.items() if kind in library.kinds() or kind == "shape"}
        self._kinds = list(kinds)
        self._shares = np.array([share for share, _ in kinds.values()])
        self._shares /= self._shares.sum()
        self._noise = rng.standard_normal((800, 800, 3)).astype(np.float32)

    def draw_from(self, rng: np.random.Generator) -> None:
        """Let another generator decide from now on."""
        self._rng = rng

    def make(self, rows: int, columns: int) -> Scene:
        """A scene with at least one target."""
        while True:
            scene = self._compose(rows, columns)
            if scene.targets:
                return scene

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _between(self, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))

    def _compose(self, rows: int, columns: int) -> Scene:
        rng = self._rng
        is_outlined = "regions" in self._library.kinds() and self._chance(OUTLINED)
        is_leaves = not is_outlined and self._chance(0.2)
        ground, canvas, regions = self._ground(rows, columns, is_outlined=is_outlined)
        layers = np.zeros((rows, columns), np.uint8)
        if is_outlined:
            count = int(rng.choice((0, 0, 1, 1, 2, 3)))
        else:
            count = int(rng.integers(5, 12)) if is_leaves else int(rng.choice((1, 2, 2, 3, 3, 4, 5, 6)))
        main = int(rng.integers(max(1, count)))
        last: tuple[_Cut, tuple[float, float]] | None = None
        targets: list[Target] = []
        number = 0
        for index in range(count):
            is_alike = last is not None and self._chance(0.18)
            cut = last[0] if last is not None and is_alike else self._cut(is_leaves=is_leaves)
            layer = self._layer(cut, max(rows, columns), ground, is_main=index == main, is_leaves=is_leaves)
            place = self._place(layer, rows, columns, is_main=index == main, kind=cut.kind)
            if last is not None and is_alike and self._chance(0.6):
                # Beside its twin.
                height, width = layer.alpha.shape[:2]
                angle = self._between(0, 6.28)
                place = last[1][0] + 0.7 * width * np.cos(angle), last[1][1] + 0.5 * height * np.sin(angle)
            part_numbers = [number + 2 + part for part in range(len(layer.parts))]
            if self._paste(canvas, layers, layer, place, number + 1, part_numbers):
                weight = 3.0 if cut.kind in REAL else 1.0
                targets.append(Target(frozenset({number + 1, *part_numbers}), weight))
                targets += [Target(frozenset({part}), 0.25) for part in part_numbers]
                number += 1 + len(part_numbers)
            last = cut, place
        if self._chance(0.15):
            number += 1
            self._occlude(canvas, layers, number)
        whole = [target.layers for target in targets if target.weight >= 1]
        if len(whole) > 1 and self._chance(0.15):
            first, second = rng.choice(len(whole), 2, replace=False)
            if _touch(np.isin(layers, list(whole[first])), np.isin(layers, list(whole[second]))):
                targets.append(Target(whole[first] | whole[second], 0.3))
        scene = Scene(self._developed(canvas), layers, regions, self._seen(layers, targets))
        if is_outlined:
            scene.targets += _regions_of(scene)
        return scene

    def _ground(self, rows: int, columns: int, *, is_outlined: bool) -> tuple[ByteArray, FloatArray, RegionArray]:
        """A photo, the piece of it that all is pasted on, and the piece's regions."""
        regions: RegionArray = np.zeros((rows, columns), np.uint16)
        if is_outlined:
            photo, packed = self._library.draw_outlined(self._rng)
            window = self._window(photo, rows, columns, smallest=0.45)
            canvas = window.cut(photo, rows, columns).astype(np.float32)
            regions = unpack(window.cut(packed, rows, columns, is_photo=False))
        else:
            photo = self._photo(0.87)
            canvas = self._crop(photo, rows, columns).astype(np.float32)
        if self._chance(0.25):
            canvas = _blurred(canvas, self._between(0.8, 2 if is_outlined else 4))
        if self._chance(0.3):
            canvas = np.clip(self._tinted(canvas, np.ones((rows, columns, 1), np.float32)), 0, 255)
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

    def _photo(self, share: float) -> ByteArray:
        return self._library.draw("background" if self._chance(share) else "texture", self._rng)

    def _crop(self, photo: ByteArray, rows: int, columns: int) -> ByteArray:
        return self._window(photo, rows, columns).cut(photo, rows, columns)

    def _window(self, photo: ByteArray, rows: int, columns: int, smallest: float = 0.12) -> "_Window":
        """A piece of a photo at a random scale and place, maybe mirrored."""
        rng = self._rng
        height, width = photo.shape[:2]
        fit = min(height / rows, width / columns)
        scale = fit * (self._between(smallest, 1) if fit <= 1 else max(min(1, 1 / fit), self._between(smallest, 1)))
        high, wide = min(height, max(8, int(rows * scale))), min(width, max(8, int(columns * scale)))
        y, x = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        return _Window(
            top=y / height,
            left=x / width,
            height=high / height,
            width=wide / width,
            is_mirrored=self._chance(0.5),
            is_upside_down=self._chance(0.15),
        )

    def _cut(self, *, is_leaves: bool) -> _Cut:
        kind = str(self._rng.choice(self._kinds, p=self._shares))
        textured = KINDS[kind][1]
        if is_leaves:
            wanted = str(self._rng.choice(LEAVES)) if self._chance(0.4) else "shape"
            kind, textured = wanted if wanted in self._kinds else "shape", 0.85
        if kind == "shape":
            alpha = branches(self._rng) if self._chance(0.25) else shape(self._rng)
            pixels = np.dstack([np.full((*alpha.shape, 3), 128, np.uint8), alpha])
            return _Cut(kind, pixels, is_textured=True)
        return _Cut(kind, self._library.draw(kind, self._rng), self._chance(textured))

    def _layer(self, cut: _Cut, longest: int, ground: ByteArray, *, is_main: bool, is_leaves: bool) -> _Layer:
        """Resize, mirror, texture, colour, add parts, turn, blur and shade."""
        if is_leaves:
            size = self._log_between(0.15, 0.8)
        else:
            size = self._log_between(0.28, 1.05) if is_main else self._log_between(0.12, 0.8)
        factor = size * longest / max(cut.pixels.shape[:2]) * self._rng.uniform(0.88, 1.12, 2)
        factor *= min(1.0, MOST_ENLARGED / factor.max())
        height, width = (max(6, int(cut.pixels.shape[axis] * factor[axis])) for axis in (0, 1))
        how = cv2.INTER_AREA if factor.max() < 1 else cv2.INTER_LINEAR
        # Colours weighted by alpha before they are blended, or whatever transparent pixels hide becomes a halo.
        pixels = cut.pixels.astype(np.float32)
        pixels[..., :3] *= pixels[..., 3:] / 255
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=how))
        if self._chance(0.5):
            pixels = pixels[:, ::-1]
        # Room for soft rims and shadows.
        pixels = np.pad(pixels, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
        height, width = pixels.shape[:2]
        alpha: FloatArray = np.ascontiguousarray(pixels[..., 3:] / 255)
        colour: FloatArray = np.ascontiguousarray(pixels[..., :3])
        if cut.is_textured:
            surface = self._crop(ground if self._chance(0.25) else self._photo(0.8), height, width).astype(np.float32)
            if self._chance(0.5) and cut.kind != "shape":
                light = colour.mean(2, keepdims=True) / np.maximum(alpha, 0.02) / 255
                surface *= 0.35 + self._between(0.6, 1) * light
            colour = np.asarray(surface * alpha, np.float32)
        colour = self._tinted(colour, alpha)
        parts: list[BoolArray] = []
        if self._chance(0.25):
            colour, parts = self._with_part(colour, alpha)
        colour, alpha, parts = self._turned(colour, alpha, parts, is_leaves=is_leaves)
        if self._chance(0.3):
            sigma = self._between(0.4, 1.3)
            colour, alpha = _blurred(colour, sigma), _blurred(alpha, sigma)
        if self._chance(0.3):
            colour = colour * self._slope(*alpha.shape[:2])
        return _Layer(colour, alpha, parts)

    def _log_between(self, low: float, high: float) -> float:
        return float(np.exp(self._between(np.log(low), np.log(high))))

    def _tinted(self, colour: FloatArray, alpha: FloatArray) -> FloatArray:
        """Other light, another camera, or hardly any colour."""
        rng = self._rng
        chance = rng.random()
        if chance < 0.12:
            colour = colour.mean(2, keepdims=True) * rng.uniform(0.8, 1.1, 3).astype(np.float32)
        elif chance < 0.45:
            colour = colour @ (np.eye(3) + 0.12 * rng.standard_normal((3, 3))).astype(np.float32)
        gain = (self._between(0.65, 1.3) * rng.uniform(0.88, 1.12, 3)).astype(np.float32)
        return np.asarray(colour * gain + self._between(-25, 25) * alpha, np.float32)

    def _with_part(self, colour: FloatArray, alpha: FloatArray) -> tuple[FloatArray, list[BoolArray]]:
        """Give a part of the object, cut off by a line or a shape, another colour or surface."""
        height, width = alpha.shape[:2]
        if self._chance(0.5):
            y, x = np.mgrid[:height, :width].astype(np.float32)
            angle = self._between(0, 6.28)
            across = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
            where = across > self._between(-0.15, 0.3)
        else:
            inner = cv2.resize(shape(self._rng), (max(4, width * 2 // 3), max(4, height * 2 // 3)))
            where = np.zeros((height, width), np.bool_)
            y0, x0 = (
                int(self._rng.integers(height - len(inner) + 1)),
                int(self._rng.integers(width - inner.shape[1] + 1)),
            )
            where[y0 : y0 + inner.shape[0], x0 : x0 + inner.shape[1]] = np.asarray(inner) > 127
        where &= alpha[..., 0] > 0.5
        share = where.sum() / max(1.0, float((alpha > 0.5).sum()))
        if not 0.08 < share < 0.7:
            return colour, []
        if self._chance(0.5):
            other = self._crop(self._photo(0.7), height, width).astype(np.float32) * alpha
        else:
            other = self._tinted(colour, alpha) * self._rng.uniform(0.3, 1.5, 3).astype(np.float32)
        return np.where(where[..., None], other, colour).astype(np.float32), [where]

    def _turned(
        self, colour: FloatArray, alpha: FloatArray, parts: list[BoolArray], *, is_leaves: bool
    ) -> tuple[FloatArray, FloatArray, list[BoolArray]]:
        chance = self._rng.random()
        if chance < 0.5:
            angle = float(self._rng.standard_normal()) * 10
        else:
            angle = self._between(-180, 180) if self._chance(0.7 if is_leaves else 0.12) else 0.0
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

    def _slope(self, height: int, width: int) -> FloatArray:
        """Light that falls off across the object, (height, width, 1)."""
        angle, strength = self._between(0, 6.28), self._between(0.1, 0.4)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        slope = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
        return np.asarray(1 + 2 * strength * slope, np.float32)[..., None]

    def _place(self, layer: _Layer, rows: int, columns: int, *, is_main: bool, kind: str) -> tuple[float, float]:
        """The centre, x and y in pixels; portraits like to stand on the lower edge."""
        low, high = (0.25, 0.75) if is_main else (0.05, 0.95)
        if self._chance(0.12):
            low, high = -0.1, 1.1
        x, y = self._between(low, high) * columns, self._between(low, high) * rows
        height = layer.alpha.shape[0]
        if kind == "painting-large" and self._chance(0.6):
            standing = rows - height / 2 + MARGIN
            y = max(y, standing) if height <= rows else standing + self._between(0, 0.3) * height
        return x, y

    def _paste(
        self,
        canvas: FloatArray,
        layers: ByteArray,
        layer: _Layer,
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
        if self._chance(0.4) and alpha.sum() > 10:
            colour = self._camouflaged(colour, alpha, below)
        colour = np.clip(colour, 0, 255 * alpha)
        if self._chance(0.3):
            shadow = _blurred(np.ascontiguousarray(alpha), self._between(2, 10))
            shift = np.array([[1, 0, self._between(-12, 12)], [0, 1, self._between(0, 12)]], np.float32)
            shadow = np.asarray(cv2.warpAffine(shadow, shift, shadow.shape[1::-1]), np.float32)
            below = below * (1 - self._between(0.1, 0.55) * shadow[..., None])
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
        colour = colour + (ground - own) * self._between(0.2, 1) * alpha
        if self._chance(0.4):
            spread = np.sqrt((((colour - ground * alpha) ** 2).sum() / 3 + 1) / mass)
            gain = np.clip((below.std() + 2) / spread, 0.4, 1.6)
            mean = colour.sum((0, 1)) / mass
            colour = mean * alpha + (colour - mean * alpha) * gain
        return np.asarray(colour, np.float32)

    def _occlude(self, canvas: FloatArray, layers: ByteArray, number: int) -> None:
        """Something thin in front of everything."""
        rows, columns = layers.shape
        stretched = np.asarray(cv2.resize(branches(self._rng), (columns, rows)))
        alpha: FloatArray = np.asarray(stretched / 255, np.float32)[..., None]
        surface = self._tinted(self._crop(self._photo(0.6), rows, columns).astype(np.float32), alpha)
        canvas[:] = np.clip(surface, 0, 255) * alpha + canvas * (1 - alpha)
        layers[alpha[..., 0] > 0.5] = number

    def _developed(self, canvas: FloatArray) -> ByteArray:
        """Blur, noise, gamma, grey, and the marks of JPEG, each now and then."""
        rng = self._rng
        rows, columns = canvas.shape[:2]
        if self._chance(0.2):
            canvas = _blurred(canvas, self._between(0.4, 1.2))
        if self._chance(0.4):
            y, x = int(rng.integers(800 - rows)), int(rng.integers(800 - columns))
            noise = self._noise[y : y + rows, x : x + columns]
            is_grey = self._chance(0.5)
            canvas = canvas + (noise[..., :1] * self._between(1, 10) if is_grey else noise * self._between(1, 7))
        image = np.clip(canvas, 0, 255).astype(np.uint8)
        curve = 255 * np.power(np.arange(256) / 255 * self._between(0.85, 1.1) + 0.001, self._between(0.7, 1.4))
        image = np.asarray(cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8)))
        if self._chance(0.08):
            image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
        if self._chance(0.65):
            _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])
            image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
        return np.asarray(image, np.uint8)


def _blurred(values: FloatArray, sigma: float) -> FloatArray:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32).reshape(values.shape)


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


def _touch(one: BoolArray, other: BoolArray) -> bool:
    wider = cv2.dilate(one.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return bool((wider & other).any())
