"""Cut-outs of rendered 3-D models, and the masks of their named parts: whole things made of unlike parts."""

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from training.cutouts import LONGEST, reduced, trimmed
from training.library import ByteArray, Found
from training.meshes import Mesh, UnreadableModelError, read_meshes
from training.outlines import MOST_REGIONS, pack
from training.renderer import Renderer, drawn_view
from training.sources import Unpacked

BoolArray = npt.NDArray[np.bool_]

SEED: Final = 21
KIND: Final = "model"
PARTS: Final = "model parts"
# A part is worth asking for if it covers so much of what is seen.
PART_COVERS: Final = (0.05, 0.7)
TEXTURES: Final = (".png", ".jpg", ".jpeg", ".tga", ".rgb", ".rgba", ".bmp", ".dds")
# A speck is a component that covers less of what is seen.
SPECK: Final = 0.02
FLATTEST: Final = 0.05
LEAST_TEXTURED: Final = 0.4
FEWEST_COLOURED_PARTS: Final = 4
BRIGHTNESS: Final = (35, 225)


@dataclass(frozen=True)
class Models:
    """Which models are drawn, below /usr/share/games, from how many sides each, and how many of a folder at most."""

    patterns: tuple[str, ...]
    sides: int
    of_folder: int = 1000


MODELS: Final = {
    "flightgear-data-models": Models(
        tuple(
            f"flightgear/Models/{part}/**/*.ac"
            for part in ("Aircraft", "Airport", "Geometry", "Maritime", "Military", "Transport")
        ),
        sides=3,
    ),
    "torcs-data": Models(("torcs/cars/*/*.acc",), sides=4),
    "megaglest-data": Models(
        ("megaglest/techs/*/factions/*/units/*/models/*.g3d", "megaglest/tilesets/*/models/*.g3d"), sides=2, of_folder=2
    ),
    "openarena-081-players": Models(("models/players/*/lower.md3",), sides=8),
    "ufoai-data": Models(
        tuple(
            f"models/{part}/**/*.md2" for part in ("aircraft", "aliens", "animals", "characters", "objects", "weapons")
        ),
        sides=2,
    ),
}
# Coarse copies, ground, weather, wreckage, what only gives light, and heads apart from their bodies. Assimp crashes on
# one of the players and loses the body of another.
LEFT_OUT: Final = (
    "lod",
    "crater",
    "rubbish",
    "crash",
    "cloud",
    "light",
    "particle",
    "ground",
    "pier",
    "shadow",
    "dying",
    "head",
    "players/tony",
    "players/merman",
)
# Water behind ships, which is no part of them.
LEFT_OUT_MESHES: Final = ("wake", "sillage")


def models_of(package: Unpacked, left_out: Counter[str]) -> Iterator[Found]:
    """The cut-outs of one package's models, each followed by its parts if it has some; what is left out is counted."""
    rng = np.random.default_rng([SEED, zlib.crc32(package.source.package.encode())])
    chosen = MODELS.get(package.source.package)
    if chosen is None:
        return
    share = _unzipped(package)
    files = {path.stem.lower(): path for path in sorted(share.rglob("*")) if path.suffix.lower() in TEXTURES}
    of_folder: Counter[Path] = Counter()
    for path in _candidates(share, chosen, rng):
        if of_folder[path.parent] >= chosen.of_folder:
            continue
        name = str(path.relative_to(package.folder))
        try:
            found = read_meshes(path, files, rng)
        except UnreadableModelError:
            left_out["unreadable model"] += 1
            continue
        meshes = [mesh for mesh in found if not any(word in mesh.name.lower() for word in LEFT_OUT_MESHES)]
        if not meshes:
            left_out["no meshes"] += 1
            continue
        corners = np.concatenate([mesh.points[mesh.triangles.ravel()] for mesh in meshes])
        extent = np.sort(np.ptp(corners, axis=0))
        if not np.isfinite(corners).all() or extent[0] < FLATTEST * extent[2]:
            left_out["flat model"] += 1
            continue
        of_folder[path.parent] += 1
        renderer = Renderer(meshes)
        for side in range(chosen.sides):
            colours, numbers = renderer.draw(drawn_view(rng))
            cut, reason = cutout(colours, numbers, meshes)
            if cut is None:
                left_out[reason] += 1
                continue
            pixels, parts = cut
            yield Found(KIND, package.source.package, f"{name}#{side}", pixels)
            if parts:
                yield Found(PARTS, package.source.package, f"{name}#{side}", pack(parts))
        renderer.close()


def cutout(
    colours: ByteArray, numbers: ByteArray, meshes: Sequence[Mesh]
) -> tuple[tuple[ByteArray, list[BoolArray]] | None, str]:
    """RGBA pixels of what a renderer drew, and the masks of its parts at half the size; or None and why not."""
    seen = _without_specks(numbers > 0)
    if seen[0].any() or seen[-1].any() or seen[:, 0].any() or seen[:, -1].any():
        return None, "cut off"
    pixels = np.dstack([colours, np.where(seen, np.uint8(255), np.uint8(0))])
    cut, reason = trimmed(pixels)
    if cut is None:
        return None, reason
    areas = np.bincount(numbers[seen], minlength=len(meshes) + 1) / seen.sum()
    textured = sum(area for area, mesh in zip(areas[1:], meshes, strict=False) if mesh.texture is not None)
    if textured < LEAST_TEXTURED and (areas[1:] > 0.01).sum() < FEWEST_COLOURED_PARTS:  # noqa: PLR2004
        return None, "untextured"
    if not BRIGHTNESS[0] <= colours[seen].mean() <= BRIGHTNESS[1]:
        return None, "dark or glaring"
    rows, columns = np.nonzero(seen)
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    cut = reduced(pixels[box], min(LONGEST, max(seen[box].shape) // 2))
    return (cut, list(_parts(numbers[box], seen[box], meshes, (cut.shape[1] // 2, cut.shape[0] // 2)))), ""


def _parts(numbers: ByteArray, seen: BoolArray, meshes: Sequence[Mesh], size: tuple[int, int]) -> Iterator[BoolArray]:
    """What is seen of meshes of one name, in that size (columns, rows)."""
    names: dict[str, list[int]] = {}
    for number, mesh in enumerate(meshes, 1):
        if mesh.name:
            names.setdefault(mesh.name, []).append(number)
    found = 0
    for same in names.values():
        part = np.isin(numbers, same) & seen
        if found < MOST_REGIONS and PART_COVERS[0] <= part.sum() / seen.sum() <= PART_COVERS[1]:
            small = cv2.resize(part.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            found += 1
            yield np.asarray(small) > 0.5  # noqa: PLR2004


def _without_specks(seen: BoolArray) -> BoolArray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(seen.astype(np.uint8))
    large = stats[:, cv2.CC_STAT_AREA] >= SPECK * seen.sum()
    large[0] = False
    return np.asarray(large[labels])


def _candidates(share: Path, chosen: Models, rng: np.random.Generator) -> Iterator[Path]:
    """The package's models, shuffled so that of a crowded folder any may be among the few that are drawn."""
    paths = sorted({path for pattern in chosen.patterns for path in share.glob(pattern) if not path.is_symlink()})
    for index in rng.permutation(len(paths)):
        path = paths[int(index)]
        within = "/".join(path.relative_to(share).parts[1:]).lower()
        if not any(word in within for word in LEFT_OUT):
            yield path


def _unzipped(package: Unpacked) -> Path:
    """Where the package's games lie; archives in it are unpacked there first."""
    share = package.folder / "usr" / "share" / "games"
    for archive in sorted(share.rglob("*.pk3")):
        with zipfile.ZipFile(archive) as file:
            for member in file.namelist():
                if member.startswith("models/") and not (share / member).exists():
                    file.extract(member, share)
    return share
