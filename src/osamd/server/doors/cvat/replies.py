"""Masks as CVAT reads them: a 0 or 1 for each pixel of the bounding box, as JSON, compressed."""

from collections.abc import Generator, Iterator
from typing import Final

from pydantic_core import to_json

from osamd.segment_requests import SegmentResult
from osamd.server.asks import Ask, Content
from osamd.settings import Settings
from osamd.types import Annotation, Box, IntArray, Mask
from osamd.wire.json_pieces import Room, pairs
from osamd.wire.mask_values import crossings
from osamd.wire.replies import BYTES_PER_CROSSING

# Pixels that are written at once.
PIXELS_AT_ONCE: Final = 500_000
GZIP_LEVEL: Final = 1
# What zlib needs to write gzip.
GZIP_WINDOW: Final = 31
# Deviation of outlines, in pixels: people edit their points by hand.
TOLERANCE_PX: Final = 1.0
# Points of CVAT's smallest polygon.
TRIANGLE: Final = 3


class _Body:
    """A body that is compressed while it is written.

    Args:
        room: called with its size in bytes so far.
        is_compressed: whether the client accepts gzip.
    """

    def __init__(self, room: Room, *, is_compressed: bool) -> None:
        from zlib_ng import zlib_ng

        self._room = room
        self._stream = zlib_ng.compressobj(GZIP_LEVEL, wbits=GZIP_WINDOW) if is_compressed else None
        self._pieces: list[bytes] = []
        self._nbytes = 0

    def add(self, piece: bytes) -> None:
        """Append to the text."""
        self._keep(piece if self._stream is None else self._stream.compress(piece))

    def content(self) -> Content:
        """The whole."""
        headers = {"Vary": "Accept-Encoding"}
        if self._stream is not None:
            self._keep(self._stream.flush())
            headers["Content-Encoding"] = "gzip"
        return Content(self._pieces, headers=headers)

    def expect(self, nbytes: int) -> None:
        """Reserve more bytes while a piece is created."""
        self._room(self._nbytes + nbytes)

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._nbytes += len(piece)
            self._room(self._nbytes)


def write_mask(
    result: SegmentResult, _: Ask[None], __: Settings, room: Room, *, is_compressed: bool
) -> Generator[None, None, Content]:
    """The best mask as an interactor answers it; an empty one, which CVAT reports, if nothing was found."""
    body = _Body(room, is_compressed=is_compressed)
    mask = next((item.mask for item in result.annotations if item.mask is not None), None)
    body.add(b'{"mask":[')
    if mask is None:
        body.add(b'],"bounds":[0,0,0,0],"points":[]}')
        return body.content()
    for index, rows in enumerate(_rows(mask, are_lists=True)):
        if index:
            yield
            body.add(b",")
        body.add(rows)
    body.add(b'],"bounds":' + to_json(_bounds(mask.box)) + b',"points":')
    for piece in pairs(_outline(mask, body)):
        yield
        body.add(piece)
    body.add(b"}")
    return body.content()


def write_objects(
    result: SegmentResult, _: Ask[None], __: Settings, room: Room, *, is_compressed: bool
) -> Generator[None, None, Content]:
    """All objects as a detector answers them: masks, or rectangles if the model has none."""
    body = _Body(room, is_compressed=is_compressed)
    body.add(b"[")
    for index, item in enumerate(result.annotations):
        if index:
            yield
            body.add(b",")
        yield from _object(item, body)
    body.add(b"]")
    return body.content()


def _object(item: Annotation, body: _Body) -> Generator[None, None, None]:
    confidence = "1" if item.score is None else f"{item.score:.4f}"
    common = {"confidence": confidence, "label": item.text or ""}
    if item.mask is None:
        box = item.box
        # CVAT's rectangles end where the last pixel ends.
        corners = [box.xmin, box.ymin, box.xmax + 1, box.ymax + 1]
        body.add(to_json({**common, "type": "rectangle", "points": corners}))
        return
    body.add(to_json({**common, "type": "mask"})[:-1] + b',"points":[')
    for piece in pairs(_outline(item.mask, body)):
        yield
        # One flat list.
        body.add(piece.translate(None, b"[]"))
    body.add(b'],"mask":[')
    for rows in _rows(item.mask, are_lists=False):
        body.add(rows + b",")
        yield
    body.add(b",".join(b"%d" % number for number in _bounds(item.mask.box)) + b"]}")


def _rows(mask: Mask, *, are_lists: bool) -> Iterator[bytes]:
    """The pixels of the bounding box, some rows at a time: ``[0,1],[1,1]``, or flat ``0,1,1,1``."""
    import numpy as np

    height, width = mask.inside.shape
    edge = int(are_lists)
    step = max(1, PIXELS_AT_ONCE // width)
    for start in range(0, height, step):
        inside = mask.inside[start : start + step]
        # Digits and commas in turn, within brackets.
        text = np.full((len(inside), 2 * width + 2 * edge), ord(","), np.uint8)
        text[:, edge : edge + 2 * width : 2] = inside.view(np.uint8) + ord("0")
        if are_lists:
            text[:, 0] = ord("[")
            text[:, -2] = ord("]")
        yield text.tobytes()[:-1]


def _outline(mask: Mask, body: _Body) -> IntArray:
    """The outline of the largest part, for those who want a polygon."""
    from osamd.pixels import masks

    body.expect(BYTES_PER_CROSSING * crossings(mask))
    outline = masks.polygons(mask, tolerance=TOLERANCE_PX)[0].exterior
    return outline if len(outline) >= TRIANGLE else _corners(mask.box)


def _corners(box: Box) -> IntArray:
    import numpy as np

    return np.array([(box.xmin, box.ymin), (box.xmax, box.ymin), (box.xmax, box.ymax), (box.xmin, box.ymax)])


def _bounds(box: Box) -> tuple[int, int, int, int]:
    return box.xmin, box.ymin, box.xmax, box.ymax
