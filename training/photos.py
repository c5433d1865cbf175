"""Opaque pictures, taken from packages: backgrounds (mostly photographs) and textures."""

import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from training.library import ByteArray, Found
from training.sources import Unpacked

LONGEST_BACKGROUND: Final = 1400
SHORTEST_BACKGROUND: Final = 200
LONGEST_TEXTURE: Final = 512
SHORTEST_TEXTURE: Final = 128
LEAST_CONTRAST: Final = 12
TEXTURES_A_PACKAGE: Final = 220

ARCHIVES: Final = {
    "nexuiz-textures": "usr/share/games/nexuiz/data/textures.pk3",
    "ufoai-textures": "usr/share/games/ufoai/base/0textures.pk3",
}
# Parts of the names of normal maps, gloss maps, skies and such, which are no surfaces.
NO_SURFACE: Final = (
    "_nm", "_norm", "_bump", "_glow", "_gloss", "_sm.", "_gm", "_spec", "_pants", "_shirt", "sky", "_luma", "_rm",
    "_s.",
)  # fmt: skip
# The photographs among Plasma's wallpapers; the others are drawings.
PLASMA: Final = (
    "Autumn", "BytheWater", "ColorfulCups", "EveningGlow", "FallenLeaf", "Grey", "OneStandsOut", "Path", "PastelHills",
    "DarkestHour", "Altai", "Canopee", "Kite", "ColdRipple", "SafeLanding", "Patak", "FlyingKonqui",
)  # fmt: skip
PUZZLES: Final = (
    "cincinnati-bridge", "european-honey-bee", "panther-chameleon-female", "castle-maintenon", "citrus-fruits",
)  # fmt: skip
DRAWINGS: Final = ("warty", "analogpattern")


def photos_of(package: Unpacked, left_out: Counter[str], rng: np.random.Generator) -> Iterator[Found]:
    """The backgrounds or textures of one package; why others were left out is counted in ``left_out``."""
    name = package.source.package
    if name in ARCHIVES:
        yield from _textures(package, left_out, rng)
        return
    for path in _candidates(package):
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            left_out["unreadable"] += 1
        elif min(pixels.shape[:2]) < SHORTEST_BACKGROUND:
            left_out["too small"] += 1
        else:
            yield Found("background", name, str(path.relative_to(package.folder)), _rgb(pixels, LONGEST_BACKGROUND))


def _candidates(package: Unpacked) -> Iterator[Path]:
    share = package.folder / "usr" / "share"
    name = package.source.package
    if name.startswith("lomiri-wallpapers"):
        found = sorted(share.glob("backgrounds/*.jpg"))
        yield from (path for path in found if not any(word in path.name for word in DRAWINGS))
    elif name == "ukui-wallpapers":
        yield from sorted(share.glob("backgrounds/*.jpg"))
    elif name == "mate-backgrounds":
        yield from sorted(share.glob("backgrounds/mate/nature/*.jpg"))
    elif name == "plasma-workspace-wallpapers":
        for title in PLASMA:
            sizes = sorted(share.glob(f"wallpapers/{title}/contents/images/*"))
            yield from [path for path in sizes if path.stem in {"2560x1600", "3840x2160", "5120x2880"}][:1]
    elif name == "tuxpaint-data":
        yield from sorted(share.glob("tuxpaint/templates/*.jpg"))
        yield from sorted(share.glob("tuxpaint/starters/*.jpeg"))
    elif name == "palapeli-data":
        yield from (share / "palapeli" / "collection" / f"{title}.jpg" for title in PUZZLES)
    elif name == "endless-sky-data":
        yield from sorted(share.rglob("images/land/*.jpg"))
    elif name == "scratch":
        yield from sorted(share.rglob("Backgrounds/**/*.jpg"))


def _textures(package: Unpacked, left_out: Counter[str], rng: np.random.Generator) -> Iterator[Found]:
    name = package.source.package
    taken = 0
    with zipfile.ZipFile(package.folder / ARCHIVES[name]) as archive:
        entries = [entry for entry in archive.namelist() if entry.endswith((".jpg", ".png"))]
        for index in rng.permutation(len(entries)):
            entry = entries[index]
            if taken >= TEXTURES_A_PACKAGE:
                left_out["more than enough"] += 1
            elif any(part in entry for part in NO_SURFACE):
                left_out["no surface"] += 1
            else:
                pixels = cv2.imdecode(np.frombuffer(archive.read(entry), np.uint8), cv2.IMREAD_COLOR)
                if pixels is None or min(pixels.shape[:2]) < SHORTEST_TEXTURE or pixels.std() < LEAST_CONTRAST:
                    left_out["too small or plain"] += 1
                    continue
                taken += 1
                yield Found("texture", name, entry, _rgb(pixels, LONGEST_TEXTURE))


def reduced(pixels: ByteArray, longest: int) -> ByteArray:
    """An opaque picture with a long side of at most ``longest``."""
    factor = longest / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def _rgb(pixels: cv2.typing.MatLike, longest: int) -> ByteArray:
    return np.asarray(cv2.cvtColor(reduced(np.asarray(pixels, np.uint8), longest), cv2.COLOR_BGR2RGB), np.uint8)
