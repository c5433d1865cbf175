"""What a camera and the air before it do to a scene: motion, focus, haze, spray, darkness, noise, compression.

What is blurred are premultiplied colours and alpha alike, so that the truth, alpha above one half, is what is seen.
Everything else changes the image alone.
"""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from training.dice import Dice
from training.library import ByteArray

FloatArray = npt.NDArray[np.float32]

PANNED: Final = 0.06
OUT_OF_FOCUS: Final = 0.1
SPRAY: Final = 0.05
HAZE: Final = 0.06
DARK: Final = 0.06
VIDEO: Final = 0.18
STILL: Final = 0.5
NOISE_SIZE: Final = 800


class Camera:
    """Takes pictures of scenes; canvases are (H, W, 3) float32 from 0 to 255."""

    def __init__(self, dice: Dice, noise: FloatArray) -> None:
        self._dice = dice
        self._noise = noise

    def surroundings(self, canvas: FloatArray, *, is_outlined: bool) -> FloatArray:
        """A background out of focus, or one that moved past while the camera followed something.

        Where the background's own regions may be asked for it stays nearly sharp.
        """
        chance = self._dice.rng.random()
        if is_outlined:
            return blurred(canvas, self._dice.between(0.8, 2)) if chance < 0.25 else canvas
        if chance < PANNED:
            length = self._dice.between(6, 26)
            # Mostly from side to side.
            angle = self._dice.between(-0.25, 0.25) if self._dice.chance(0.75) else self._dice.between(0, 3.14)
            return moved(canvas, length, angle)
        if chance < PANNED + OUT_OF_FOCUS:
            return _out_of_focus(canvas, self._dice.between(4, 9))
        if chance < PANNED + OUT_OF_FOCUS + 0.2:
            return blurred(canvas, self._dice.between(0.8, 4))
        return canvas

    def sprayed(self, canvas: FloatArray, top: int, bottom: int, left: int, right: int) -> None:
        """Water, dust or snow, half transparent, around the lower part of what stands in a box."""
        height, width = bottom - top, right - left
        rows, columns = canvas.shape[:2]
        y1, y2 = max(0, int(bottom - 0.6 * height)), min(rows, int(bottom + 0.15 * height) + 2)
        x1, x2 = max(0, int(left - 0.25 * width)), min(columns, int(right + 0.25 * width) + 2)
        if y2 - y1 < 6 or x2 - x1 < 6:
            return
        veil = np.zeros((y2 - y1, x2 - x1), np.uint8)
        rng = self._dice.rng
        count = int(rng.integers(25, 110))
        x = np.clip(rng.normal((left + right) / 2 - x1, 0.35 * width, count), 0, x2 - x1 - 1).astype(int)
        # Thickest at the foot.
        y = (bottom - y1 - np.abs(rng.normal(0, 0.22 * height, count))).astype(int)
        largest = max(2.0, 0.05 * max(height, width))
        radius = np.maximum(1, largest * rng.random(count) ** 3).astype(int)
        strength = rng.integers(90, 230, count)
        for index in range(count):
            cv2.circle(veil, (int(x[index]), int(y[index])), int(radius[index]), int(strength[index]), -1, cv2.LINE_AA)
        soft = cv2.GaussianBlur(veil, (0, 0), self._dice.between(0.6, 1.6)).astype(np.float32)
        mist = cv2.GaussianBlur(veil, (0, 0), max(2.0, 1.5 * largest)).astype(np.float32)
        alpha = np.minimum(0.7, (0.7 * soft + 0.8 * mist) / 255)[..., None]
        tone = self._light(185, 250)
        region = canvas[y1:y2, x1:x2]
        region += (tone - region) * alpha

    def developed(self, canvas: FloatArray) -> ByteArray:
        """Haze, blur, darkness, noise, gamma, grey, and the marks of compression, each now and then."""
        rng = self._dice.rng
        if self._dice.chance(HAZE):
            canvas = self._hazy(canvas)
        if self._dice.chance(0.2):
            canvas = blurred(canvas, self._dice.between(0.4, 1.2))
        is_dark = self._dice.chance(DARK)
        if is_dark:
            canvas = self._dark(canvas)
        elif self._dice.chance(0.4):
            noise = self._grain(*canvas.shape[:2])
            is_grey = self._dice.chance(0.5)
            canvas = canvas + (
                noise[..., :1] * self._dice.between(1, 10) if is_grey else noise * self._dice.between(1, 7)
            )
        image = np.clip(canvas, 0, 255).astype(np.uint8)
        gamma = self._dice.between(0.7, 1 if is_dark else 1.4)
        curve = 255 * np.power(np.arange(256) / 255 * self._dice.between(0.85, 1.1) + 0.001, gamma)
        image = np.asarray(cv2.LUT(image, np.clip(curve, 0, 255).astype(np.uint8)), np.uint8)
        if self._dice.chance(0.08):
            image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
        chance = rng.random()
        if chance < VIDEO:
            return self._frame_of_video(image)
        return compressed(image, int(rng.integers(30, 96))) if chance < VIDEO + STILL else image

    def _hazy(self, canvas: FloatArray) -> FloatArray:
        """Light air before everything, thickest at the horizon."""
        rows = canvas.shape[0]
        horizon = self._dice.between(-0.1, 0.5)
        away = np.abs(np.linspace(0, 1, rows, dtype=np.float32) - horizon)
        share = (self._dice.between(0.25, 0.65) * (1 - 0.7 * np.minimum(1, away)))[:, None, None]
        return np.asarray(canvas + (self._light(150, 235) - canvas) * share.astype(np.float32), np.float32)

    def _dark(self, canvas: FloatArray) -> FloatArray:
        """Too little light: a cast of colour, and much noise, coarse if the sensor's pixels were merged."""
        rows, columns = canvas.shape[:2]
        gain = (self._dice.between(0.3, 0.7) * self._dice.rng.uniform(0.7, 1.25, 3)).astype(np.float32)
        if self._dice.chance(0.4):
            noise = np.asarray(cv2.resize(self._grain((rows + 1) // 2, (columns + 1) // 2), (columns, rows)))
        else:
            noise = self._grain(rows, columns)
        return np.asarray(canvas * gain + noise * self._dice.between(3, 11), np.float32)

    def _frame_of_video(self, image: ByteArray) -> ByteArray:
        """Made smaller, compressed hard, and made larger again."""
        rows, columns = image.shape[:2]
        factor = self._dice.between(0.45, 0.9)
        size = max(32, round(columns * factor)), max(32, round(rows * factor))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        small = compressed(small, int(self._dice.rng.integers(15, 41)), sampling=cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411)
        how = cv2.INTER_CUBIC if self._dice.chance(0.5) else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(small, (columns, rows), interpolation=how), np.uint8)

    def _grain(self, rows: int, columns: int) -> FloatArray:
        y, x = (int(self._dice.rng.integers(NOISE_SIZE - length)) for length in (rows, columns))
        return self._noise[y : y + rows, x : x + columns]

    def _light(self, low: float, high: float) -> FloatArray:
        """Nearly white, (3,)."""
        return (self._dice.between(low, high) * self._dice.rng.uniform(0.92, 1.03, 3)).astype(np.float32)


def blurred(values: FloatArray, sigma: float) -> FloatArray:
    """A Gaussian blur that keeps the shape, (h, w, c)."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32).reshape(values.shape)


def moved(values: FloatArray, length: float, angle: float) -> FloatArray:
    """What moves by ``length`` pixels while the shutter is open, (h, w, c), beyond its rim as at its rim."""
    reach = int(length / 2) + 1
    path = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    x, y = 0.5 * length * np.cos(angle), 0.5 * length * np.sin(angle)
    # In sixteenths of a pixel.
    ends = [(round(16 * (reach + side * x)), round(16 * (reach + side * y))) for side in (-1, 1)]
    cv2.line(path, ends[0], ends[1], 255, 1, cv2.LINE_AA, shift=4)
    kernel = path.astype(np.float32) / max(1, int(path.sum()))
    smeared = cv2.filter2D(np.ascontiguousarray(values), -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smeared, np.float32).reshape(values.shape)


def compressed(image: ByteArray, quality: int, sampling: int | None = None) -> ByteArray:
    """An (H, W, 3) uint8 image after JPEG compression."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if sampling is not None:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", image, options)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _out_of_focus(canvas: FloatArray, sigma: float) -> FloatArray:
    """A strong blur, made at a third of the size."""
    rows, columns = canvas.shape[:2]
    small = cv2.resize(canvas, (columns // 3, rows // 3), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / 3), (columns, rows)), np.float32)
