"""A scene in the making, and how layers are pasted into it."""

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np

from training.camera import FloatArray, blurred
from training.dice import Dice
from training.layers import BoolArray, Layer
from training.library import ByteArray
from training.shadows import Shadows

PART_WEIGHT: Final = 0.25
# What holds something, without it, compared to both together.
ALONE: Final = 0.3
# Things held that are asked for by themselves, as a share of the image.
LEAST_HELD: Final = 0.006


@dataclass
class Target:
    """A possible target: layers, or the visible part of an outline; and its weight when targets are drawn.

    ``kind`` is the cut-out's, or ``part``, ``group``, ``region`` or ``object``.
    """

    layers: frozenset[int]
    weight: float
    kind: str
    region: int | None = None


@dataclass
class Stage:
    """What has been pasted so far: (H, W, 3) float32, the layer of each pixel (H, W) uint8, and the targets."""

    canvas: FloatArray
    layers: ByteArray
    targets: list[Target] = field(default_factory=list)
    number: int = 0

    def mask(self, layers: frozenset[int]) -> BoolArray:
        """Where layers are seen, (H, W) bool."""
        return np.isin(self.layers, list(layers))

    def next(self) -> int:
        """A number for another layer."""
        self.number += 1
        return self.number


class Paster:
    """Pastes layers, with what they leave on the ground."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._shadows = Shadows(dice)

    def paste(self, stage: Stage, layer: Layer, place: tuple[float, float], weight: float) -> frozenset[int]:
        """Blend a layer in, its centre at a place (x, y), and add its targets; the whole's numbers, none if outside."""
        height, width = layer.alpha.shape[:2]
        rows, columns = stage.layers.shape
        x, y = int(place[0] - width / 2), int(place[1] - height / 2)
        left, top, right, bottom = max(0, x), max(0, y), min(columns, x + width), min(rows, y + height)
        if right - left < 4 or bottom - top < 4:
            return frozenset()
        inside = np.s_[top - y : bottom - y, left - x : right - x]
        region = np.s_[top:bottom, left:right]
        alpha, colour = layer.alpha[inside], layer.colour[inside]
        if self._dice.chance(0.4) and alpha.sum() > 10:
            colour = self._camouflaged(colour, alpha, stage.canvas[region])
        colour = np.clip(colour, 0, 255 * alpha)
        if self._dice.chance(0.3):
            self._darken(stage.canvas[region], alpha)
        else:
            self._shadows.draw(stage.canvas, layer.colour, layer.alpha, x, y)
        stage.canvas[region] = colour + stage.canvas[region] * (1 - alpha)
        opaque = alpha[..., 0] > 0.5
        seen = stage.layers[region]
        body = [stage.next()]
        seen[opaque] = body[0]
        for part in layer.parts:
            body.append(stage.next())
            seen[opaque & part[inside]] = body[-1]
        whole = frozenset(body)
        if layer.held is not None:
            held = frozenset({stage.next()})
            thing = opaque & layer.held[inside]
            seen[thing] = stage.number
            stage.targets.append(Target(whole, ALONE * weight, "part"))
            if thing.sum() >= LEAST_HELD * stage.layers.size:
                stage.targets.append(Target(held, PART_WEIGHT, "part"))
            whole |= held
        stage.targets.append(Target(whole, weight, layer.kind))
        stage.targets += [Target(frozenset({part}), PART_WEIGHT, "part") for part in body[1:]]
        return whole

    def _darken(self, below: FloatArray, alpha: FloatArray) -> None:
        """A soft shadow close by, as on a wall."""
        shadow = blurred(np.ascontiguousarray(alpha), self._dice.between(2, 10))
        shift = np.array([[1, 0, self._dice.between(-12, 12)], [0, 1, self._dice.between(0, 12)]], np.float32)
        shadow = np.asarray(cv2.warpAffine(shadow, shift, shadow.shape[1::-1]), np.float32)
        below *= 1 - self._dice.between(0.1, 0.55) * shadow[..., None]

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
