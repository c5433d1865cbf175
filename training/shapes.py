"""Random outlines: polygons, blobs, ellipses, rectangles, and things with thin limbs. (n, n) uint8 alpha."""

from typing import Final

import cv2
import numpy as np

from training.library import ByteArray

SIZE: Final = 220


def shape(rng: np.random.Generator) -> ByteArray:
    """A compact outline, one piece."""
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    chance = rng.random()
    half = SIZE // 2
    if chance < 0.35:
        corners = int(rng.integers(5, 25))
        angle = np.sort(rng.random(corners)) * 2 * np.pi
        radius = SIZE * (0.25 + 0.24 * rng.random(corners) * rng.uniform(0.2, 1))
        outline = np.stack([half + radius * np.cos(angle), half + radius * np.sin(angle)], 1)
        if rng.random() < 0.6:
            outline = _rounded(outline)
        cv2.fillPoly(alpha, [outline.astype(np.int32)], 255)
    elif chance < 0.55:
        axes = int(SIZE * 0.46), int(SIZE * rng.uniform(0.15, 0.46))
        cv2.ellipse(alpha, (half, half), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    elif chance < 0.7:
        size = 2 * SIZE * rng.uniform(0.2, 0.46), 2 * SIZE * float(np.exp(rng.uniform(np.log(0.04), np.log(0.46))))
        corners_of = cv2.boxPoints(((half, half), size, float(rng.uniform(0, 45))))
        cv2.fillPoly(alpha, [corners_of.astype(np.int32)], 255)
    else:
        alpha = _blob(rng)
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), 0.7), np.uint8)


def branches(rng: np.random.Generator) -> ByteArray:
    """A body with thin, bent limbs, or only limbs."""
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    centre = np.array([SIZE / 2, SIZE / 2])
    if rng.random() < 0.6:
        axes = int(SIZE * rng.uniform(0.08, 0.25)), int(SIZE * rng.uniform(0.06, 0.2))
        cv2.ellipse(alpha, (SIZE // 2, SIZE // 2), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    for _ in range(int(rng.integers(2, 8))):
        angle = rng.uniform(0, 2 * np.pi)
        width = rng.uniform(2, 14)
        place = centre.copy()
        for _ in range(int(rng.integers(3, 9))):
            angle += rng.normal(0, 0.5)
            step = place + SIZE * 0.08 * np.array([np.cos(angle), np.sin(angle)])
            start, end = tuple(place.astype(int).tolist()), tuple(step.astype(int).tolist())
            cv2.line(alpha, start, end, 255, max(1, int(width)))
            place, width = step, width * 0.88
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), 0.7), np.uint8)


def _blob(rng: np.random.Generator) -> ByteArray:
    while True:
        noise = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)).astype(np.float32), (0, 0), rng.uniform(12, 28))
        y, x = np.mgrid[:SIZE, :SIZE]
        height = noise / noise.std() + 2.2 - rng.uniform(4.5, 7) * np.hypot(y - SIZE / 2, x - SIZE / 2) / SIZE
        count, parts, stats, _ = cv2.connectedComponentsWithStats((height > 0).astype(np.uint8))
        if count > 1:
            largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
            return np.asarray((parts == largest) * 255, np.uint8)


def _rounded(
    outline: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Chaikin's corner cutting, three times."""
    for _ in range(3):
        after, before = np.roll(outline, -1, 0), np.roll(outline, 1, 0)
        outline = np.stack([0.75 * outline + 0.25 * before, 0.75 * outline + 0.25 * after], 1).reshape(-1, 2)
    return outline
