"""``review/index.html``: thumbnails with the masks drawn, worst first. Opens from disk, without a server or scripts."""

import contextlib
import heapq
import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Final
from urllib.parse import quote

import cv2
import numpy as np

from osamd.dataset.formats import AllPhotos
from osamd.dataset.plan import Header
from osamd.dataset.rows import Photo, mask_of
from osamd.dataset.urls import Place, place_of, way_to
from osamd.dataset.whole_files import whole_file, write_whole
from osamd.errors import OsamdError
from osamd.pixels.careful_decoder import CarefulDecoder
from osamd.pixels.masks import mask_from_array, overlay
from osamd.plurals import counted
from osamd.types import ByteArray, Decode, Mask

# The longer side of a thumbnail, in pixels: twice as sharp as it is shown.
SIDE: Final = 480
QUALITY: Final = 80
# On the page; more would be slow to open, and nobody looks at the best ones.
MOST_SHOWN: Final = 10_000
# Categories named under a thumbnail.
MOST_NAMES: Final = 4
# Of a pixel of the thumbnail that is covered by a mask.
HALF: Final = 128


@dataclass(frozen=True, slots=True, order=True)
class _Entry:
    """What the page says about a photo, ordered worst first: failed, nothing found, then by the lowest score."""

    rank: int
    score: float
    index: int
    name: str
    path: str
    text: str
    size: tuple[int, int]


class Review:
    """The review page and its thumbnails.

    Args:
        out: the output folder.
        header: the run's.
    """

    def __init__(self, out: Place, header: Header) -> None:
        self._folder = out / "review"
        self._header = header
        self._names = header.names()

    def write_shard(self, shard: int, photos: Iterable[Photo]) -> None:  # noqa: ARG002 - one file per photo
        """Write the thumbnails."""
        with CarefulDecoder() as decode:
            for photo in photos:
                if not photo.row.code:
                    path = self._folder / self._thumbnail(photo.item.index)
                    write_whole(path, _jpeg(_drawn(photo, decode)), is_durable=False)

    def finish(self, photos: AllPhotos) -> None:
        """Write the page."""
        entries = heapq.nsmallest(MOST_SHOWN, (self._entry(photo) for photo in photos()))
        page = resources.files("osamd.dataset").joinpath("review.html").read_text("utf-8")
        before, _, after = page.partition("<!-- PHOTOS -->")
        count = counted(self._header.count, "photo")
        shown = count if len(entries) == self._header.count else f"the worst {len(entries):,} of {count}"
        with whole_file(self._folder / "index.html") as file:
            file.write(
                before.replace("<!-- MODEL -->", html.escape(self._header.model))
                .replace("<!-- COUNT -->", shown)
                .encode()
            )
            for entry in entries:
                file.write(self._figure(entry).encode())
            file.write(after.encode())

    def _thumbnail(self, index: int) -> str:
        # A folder per shard: ten thousand files in one are slow to list.
        return f"{index // self._header.shard_size:05d}/{index:07d}.jpg"

    def _entry(self, photo: Photo) -> _Entry:
        item, row = photo.item, photo.row
        if row.code:
            rank, score, text = 0, 0.0, f"failed: {row.message}"
        elif not row.instances:
            rank, score, text = 1, 0.0, "nothing found"
        else:
            rank, score = 2, 1.0 if row.worst is None else row.worst
            text = " · ".join(self._parts(photo))
        return _Entry(
            rank, score, item.index, item.name, item.path, text, _thumbnail_size(height=row.height, width=row.width)
        )

    def _parts(self, photo: Photo) -> Iterator[str]:
        row = photo.row
        if row.worst is not None:
            yield f"worst {row.worst:.2f}" if len(row.instances) > 1 else f"{row.worst:.2f}"
        if len(row.instances) > 1:
            yield counted(len(row.instances), "object")
        if len(self._names) > 1:
            names = list(dict.fromkeys(self._names[one.category] for one in row.instances))
            yield ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else "")

    def _figure(self, entry: _Entry) -> str:
        name, text = html.escape(entry.name), html.escape(entry.text)
        original = quote(way_to(entry.path, self._folder), errors="surrogateescape")
        height, width = entry.size
        picture = '<div class="none"></div>'
        if entry.rank:
            source = self._thumbnail(entry.index)
            picture = (
                f'<img loading="lazy" decoding="async" src="{source}" width="{width}" height="{height}" alt="{name}">'
            )
        caption = f"<figcaption><b>{name}</b> {text}</figcaption>"
        return f'<figure class="rank{entry.rank}"><a href="{original}">{picture}</a>{caption}</figure>\n'


def _thumbnail_size(*, height: int, width: int) -> tuple[int, int]:
    """Rows and columns; images smaller than a thumbnail keep their size."""
    scale = min(1.0, SIDE / max(1, height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _drawn(photo: Photo, decode: Decode) -> ByteArray:
    """The thumbnail with the masks: (h, w, 3) uint8 RGB."""
    row = photo.row
    height, width = _thumbnail_size(height=row.height, width=row.width)
    small = np.full((height, width, 3), 128, np.uint8)
    # One that has been removed since, or that now takes too much memory, is shown as masks on grey.
    with contextlib.suppress(OSError, OsamdError, MemoryError):
        pixels = decode(
            place_of(photo.item.path).read_bytes(),
            max_pixels=max(1, row.height * row.width),
            wanted=_thumbnail_size,
        ).pixels
        small = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    masks = (_shrunk(mask_of(row, one), height, width) for one in row.instances)
    return overlay(small, [mask for mask in masks if mask is not None])


def _shrunk(mask: Mask, height: int, width: int) -> Mask | None:
    """The mask at the thumbnail's size; None if nothing of it is left."""
    box = mask.box
    left, top = box.xmin * width // mask.width, box.ymin * height // mask.height
    right, bottom = -(-(box.xmax + 1) * width // mask.width), -(-(box.ymax + 1) * height // mask.height)
    inside = mask.inside.view(np.uint8) * np.uint8(255)
    resized = cv2.resize(inside, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return mask_from_array(np.asarray(resized) >= HALF, offset=(left, top), height=height, width=width)


def _jpeg(pixels: ByteArray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError("OpenCV failed to encode a JPEG")
    return data.tobytes()
