"""Pictures packed in one file that many processes map into memory: cut-outs, backgrounds and textures."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]

PIXELS: Final = "library.bin"
INDEX: Final = "library.json"
# One in so many pictures is never drawn in training: validation is composed of them.
HELD_BACK: Final = 20
# Photos are drawn in proportion to their outlined objects, of which up to so many count.
MOST_COUNTED: Final = 4
# Variants of one picture, an emoji's skin tones and a model's sides, are held back together.
VARIANT: Final = re.compile(r"-1f3f[b-f]|#.*")


@dataclass(frozen=True)
class Picture:
    """Where a picture lies in the file.

    ``kind`` says what it shows: ``photo``, ``painting``, ``painting-large``, ``scratch``, ``render``, ``emoji``,
    ``icon`` and ``clipart`` are cut-outs (RGBA); ``background``, ``scene`` and ``texture`` are opaque (RGB);
    ``regions`` are outlines in the background of the same name, ``objects`` in the scene, ``model parts`` in the
    ``model``, which is a cut-out.
    """

    kind: str
    package: str
    name: str
    rows: int
    columns: int
    channels: int
    offset: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.rows * self.columns * self.channels

    @property
    def is_held_back(self) -> bool:
        """Whether it is kept for validation; decided by package and name, so a background's regions go with it."""
        digest = hashlib.sha256(f"{self.package} {VARIANT.sub('', self.name)}".encode()).digest()
        return int.from_bytes(digest[:8]) % HELD_BACK == 0


@dataclass(frozen=True)
class Found:
    """A picture that was taken from a package: (rows, columns, 3 or 4) uint8, RGB or RGBA."""

    kind: str
    package: str
    name: str
    pixels: ByteArray


class Library:
    """Pictures by kind."""

    def __init__(self, pictures: Sequence[Picture], pixels: ByteArray) -> None:
        self.pictures = pictures
        self._pixels = pixels
        self._by_kind: dict[str, list[Picture]] = {}
        for picture in pictures:
            self._by_kind.setdefault(picture.kind, []).append(picture)
        self._parts = {(item.package, item.name): item for item in self._by_kind.get("model parts", ())}
        grounds = (*self._by_kind.get("background", ()), *self._by_kind.get("scene", ()))
        self._grounds = {(item.package, item.name): item for item in grounds}
        self._objects = [item for item in self._by_kind.get("objects", ()) for _ in range(self._counted(item))]

    @classmethod
    def load(cls, folder: Path, *, held_back: bool = False) -> "Library":
        """Memory-map what ``write`` wrote; pixels are read on access, but those of objects' outlines once before.

        Args:
            folder: where they are.
            held_back: take the twentieth that is kept for validation instead of the others.
        """
        listed = [Picture(**row) for row in json.loads((folder / INDEX).read_text())]
        listed = [picture for picture in listed if picture.is_held_back == held_back]
        return cls(listed, np.memmap(folder / PIXELS, np.uint8, mode="r"))

    def kinds(self) -> set[str]:
        """The kinds of which there is at least one picture."""
        return set(self._by_kind)

    def draw(self, kind: str, rng: np.random.Generator) -> ByteArray:
        """The pixels of one picture of a kind, read-only."""
        return self.draw_with_parts(kind, rng)[0]

    def draw_with_parts(self, kind: str, rng: np.random.Generator) -> tuple[ByteArray, ByteArray | None]:
        """A picture and its packed parts, (h, w, 2) uint8 of a size of their own, if it has some; read-only."""
        pictures = self._by_kind[kind]
        picture = pictures[int(rng.integers(len(pictures)))]
        parts = self._parts.get((picture.package, picture.name))
        return self._read(picture), None if parts is None else self._read(parts)

    def draw_outlined(self, kind: str, rng: np.random.Generator) -> tuple[ByteArray, ByteArray]:
        """A background and its packed ``regions``, or a scene and its ``objects``, (h, w, 2) uint8 of another size."""
        outlines = self._objects if kind == "objects" else self._by_kind[kind]
        outline = outlines[int(rng.integers(len(outlines)))]
        return self._read(self._grounds[outline.package, outline.name]), self._read(outline)

    def _counted(self, outlines: Picture) -> int:
        """How many objects it has, at least one."""
        used = np.bitwise_or.reduce(self._read(outlines).view(np.uint16), axis=None)
        return max(1, min(MOST_COUNTED, int(np.bitwise_count(used))))

    def _read(self, picture: Picture) -> ByteArray:
        flat = self._pixels[picture.offset : picture.offset + picture.nbytes]
        return np.asarray(flat).reshape(picture.rows, picture.columns, picture.channels)


def write(found: Iterable[Found], folder: Path) -> list[Picture]:
    """Pack pictures into a folder; both files are replaced when they are whole, the index last."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Picture] = []
    offset = 0
    pixels, index = folder / f"{PIXELS}.partial", folder / f"{INDEX}.partial"
    with pixels.open("wb") as file:
        for item in found:
            rows, columns, channels = item.pixels.shape
            picture = Picture(item.kind, item.package, item.name, rows, columns, channels, offset)
            file.write(np.ascontiguousarray(item.pixels).tobytes())
            offset += picture.nbytes
            pictures.append(picture)
    index.write_text(json.dumps([asdict(picture) for picture in pictures]))
    pixels.replace(folder / PIXELS)
    index.replace(folder / INDEX)
    return pictures
