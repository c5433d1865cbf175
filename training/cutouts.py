"""Objects with transparent surroundings, taken from packages; too small, soft, full or scattered ones are left out."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from training.emoji import is_thing, with_few_tones
from training.library import ByteArray, Found
from training.sources import Unpacked

LONGEST: Final = 400
SHORTEST_LONG_SIDE: Final = 48
SHORTEST_SIDE: Final = 20
FEWEST_PIXELS: Final = 600
COVERS: Final = (0.12, 0.985)
MOST_SOFT: Final = 0.45
LARGEST_PART: Final = 0.6
OPAQUE: Final = 127
# Alpha between these is neither here nor there.
SOFT: Final = (25, 230)
RGBA: Final = 4

EMOJI: Final = "@lobehub/fluent-emoji-3d"
PHOTO_STAMPS: Final = Path(__file__).with_name("photo_stamps.txt")
# Where cut-outs are, below /usr/share, and their kind.
PATTERNS: Final = {
    "wesnoth-1.16-data": (("portraits/**/*.png", "painting-large"),),
    "oxygen-icon-theme": (("256x256/**/*.png", "icon"),),
    "openclipart-png": (("*.png", "clipart"),),
    "endless-sky-data": tuple((f"images/{part}/**/*.png", "render") for part in ("ship", "outfit", "portrait")),
    "scratch": (("Costumes/**/*.png", "scratch"),),
}
# Flags, playing cards and the like fill their rectangle or are many pieces.
LEFT_OUT: Final = frozenset(
    {"flags", "shapes", "cards", "signs", "computer", "duplicates", "special", "geography", "decorations"}
    # Stop signs of 623 megapixels, for which 10 GB of memory would be needed.
    | {"stop_sign_miguel_s_nchez_.png", "stop_sign_right_font_mig_.png"}
)


def cutouts_of(package: Unpacked, left_out: Counter[str]) -> Iterator[Found]:
    """The cut-outs of one package; why others were left out is counted in ``left_out``."""
    seen: set[bytes] = set()
    for path, kind in _candidates(package):
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.shape[2:] != (RGBA,):
            left_out["opaque or unreadable"] += 1
            continue
        if pixels.dtype != np.uint8:
            pixels = (pixels // 257).astype(np.uint8)
        cut, reason = trimmed(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA).astype(np.uint8))
        if cut is None:
            left_out[reason] += 1
            continue
        signature = cv2.resize(cut, (8, 8), interpolation=cv2.INTER_AREA).tobytes()
        if signature in seen:
            left_out["seen before"] += 1
            continue
        seen.add(signature)
        yield Found(kind, package.source.package, str(path.relative_to(package.folder)), cut)


def trimmed(pixels: ByteArray) -> tuple[ByteArray | None, str]:
    """An RGBA picture cut to its object and reduced to at most 400 pixels, or None and why it is of no use."""
    rows, columns = np.nonzero(pixels[..., 3] > OPAQUE)
    if len(rows) < FEWEST_PIXELS:
        return None, "too small"
    pixels = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    alpha = pixels[..., 3]
    opaque = alpha > OPAQUE
    soft = ((alpha > SOFT[0]) & (alpha < SOFT[1])).sum() / max(1, int((alpha > SOFT[0]).sum()))
    _, _, stats, _ = cv2.connectedComponentsWithStats(opaque.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    reasons = {
        "too small": max(alpha.shape) < SHORTEST_LONG_SIDE or min(alpha.shape) < SHORTEST_SIDE,
        "fills its rectangle, or hardly any of it": not COVERS[0] <= opaque.mean() <= COVERS[1],
        "too soft": soft > MOST_SOFT,
        "many pieces": areas.max() < LARGEST_PART * areas.sum(),
    }
    reason = next((name for name, holds in reasons.items() if holds), "")
    if reason:
        return None, reason
    return reduced(pixels, LONGEST), ""


def reduced(pixels: ByteArray, longest: int) -> ByteArray:
    """An RGBA picture with a long side of at most ``longest``; colours are averaged weighted by alpha."""
    factor = longest / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    values = pixels.astype(np.float32)
    values[..., :3] *= values[..., 3:] / 255
    values = np.asarray(cv2.resize(values, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
    values[..., :3] /= np.maximum(values[..., 3:] / 255, 1e-3)
    return np.clip(values, 0, 255).astype(np.uint8)


def _candidates(package: Unpacked) -> Iterator[tuple[Path, str]]:
    """Files that may be cut-outs, and of which kind they are."""
    name = package.source.package
    share = package.folder / "usr" / "share"
    if name == "tuxpaint-stamps-default":
        photos = set(PHOTO_STAMPS.read_text().split())
        root = share / "tuxpaint" / "stamps"
        for path in sorted(root.rglob("*.png")):
            if "_mirror" not in path.name and "_flip" not in path.name:
                yield path, "photo" if str(path.relative_to(root)) in photos else "painting"
    if name == EMOJI:
        things = [path for path in sorted(package.folder.glob("package/assets/*.webp")) if is_thing(path.stem)]
        for path in with_few_tones(things):
            yield path, "emoji"
    for pattern, kind in PATTERNS.get(name, ()):
        for path in sorted(share.rglob(pattern)):
            if not path.is_symlink() and not LEFT_OUT & set(path.relative_to(share).parts):
                yield path, kind
