"""Results as Label Studio reads them: brush strokes, bitmasks, polygons or rectangles, in percent of the image."""

import base64
import secrets
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final

from pydantic_core import to_json

from osamd.segment_requests import SegmentResult
from osamd.server.asks import Ask, Content
from osamd.server.doors.label_studio.bodies import PERCENT, How
from osamd.server.doors.label_studio.config import Output
from osamd.settings import Settings
from osamd.types import Annotation, Mask
from osamd.wire.json_pieces import ReplyPieces, Room
from osamd.wire.mask_values import crossings
from osamd.wire.pieces import PIECE_BYTES
from osamd.wire.replies import BYTES_PER_CROSSING

# Bytes per pixel of a bitmask while it is written: as pixels, as PNG and as base64.
BITMASK_BYTES_PER_PIXEL: Final = 8
INTEGERS_AT_ONCE: Final = 16_384
# Deviation of polygons from the mask, relative to the sides of its box, and in pixels.
TOLERANCE: Final = 0.002
MOST_TOLERANCE_PX: Final = 2.0
TRIANGLE: Final = 3


def write_results(result: SegmentResult, ask: Ask[How], _: Settings, room: Room) -> Generator[None, None, Content]:
    """The best object of a click, or every object that words have found."""
    output = ask.how.output
    if output is None:
        raise RuntimeError("nothing was to be segmented")
    found = list(result.annotations)
    if ask.how.label is not None or not _is_labelled(found):
        found = found[:1]
    pieces = ReplyPieces(room)
    best = max((item.score or 0.0 for item in found), default=0.0)
    pieces.add(b'{"results":[' + to_json({"model_version": result.image.model, "score": best})[:-1] + b',"result":[')
    is_first = True
    for item in found:
        for region in _regions(item, result, ask.how, output, pieces):
            pieces.add(b"" if is_first else b",")
            is_first = False
            yield from pieces.add_all(region)
    pieces.add(b"]}]}")
    return Content(pieces.all())


def _is_labelled(found: list[Annotation]) -> bool:
    return any(item.text is not None for item in found)


def _regions(
    item: Annotation, result: SegmentResult, how: How, output: Output, pieces: ReplyPieces
) -> Iterator[Iterator[bytes]]:
    """The regions of an object, each in pieces: several if it consists of several polygons."""
    label = how.label if how.label is not None else output.texts.get(item.text or "")
    kind = output.kind.lower()
    common = {
        "from_name": output.name,
        "to_name": output.to_name,
        "type": kind,
        "original_width": result.image.width,
        "original_height": result.image.height,
        "image_rotation": 0,
        "readonly": False,
        "score": item.score,
    }
    labels = {kind: [] if label is None else [label]}
    if output.kind == "RectangleLabels" or item.mask is None:
        yield _region(common, _rectangle(item, result) | labels)
    elif output.kind == "PolygonLabels":
        for points in _polygons(item.mask, pieces):
            yield _region(common, {"points": points, "closed": True} | labels)
    elif output.kind == "BitmaskLabels":
        yield _bitmask(common, labels, item.mask, pieces)
    else:
        yield _brush(common, labels, item.mask, pieces)


def _region(common: Mapping[str, Any], value: Mapping[str, Any]) -> Iterator[bytes]:
    yield to_json({"id": _new_id(), **common, "value": value})


def _new_id() -> str:
    return secrets.token_hex(5)


def _rectangle(item: Annotation, result: SegmentResult) -> dict[str, Any]:
    box, width, height = item.box, result.image.width, result.image.height
    return {
        "x": PERCENT * box.xmin / width,
        "y": PERCENT * box.ymin / height,
        "width": PERCENT * (box.xmax + 1 - box.xmin) / width,
        "height": PERCENT * (box.ymax + 1 - box.ymin) / height,
        "rotation": 0,
    }


def _polygons(mask: Mask, pieces: ReplyPieces) -> Iterator[list[list[float]]]:
    """The outer outlines of the mask's parts; Label Studio's polygons have no holes."""
    import numpy as np

    from osamd.pixels import masks

    pieces.expect(BYTES_PER_CROSSING * crossings(mask))
    box = mask.box
    sides = box.xmax + 1 - box.xmin + box.ymax + 1 - box.ymin
    for part in masks.polygons(mask, tolerance=min(MOST_TOLERANCE_PX, TOLERANCE * sides)):
        if len(part.exterior) >= TRIANGLE:
            centres = (part.exterior + 0.5) * PERCENT / np.array([mask.width, mask.height])
            yield centres.tolist()


def _brush(common: Mapping[str, Any], labels: Mapping[str, Any], mask: Mask, pieces: ReplyPieces) -> Iterator[bytes]:
    from osamd.pixels.brush import encode_brush

    pieces.expect(BYTES_PER_CROSSING * crossings(mask))
    packed = encode_brush(mask)
    yield _begun(common, {"format": "rle", **labels}) + b',"rle":['
    for start in range(0, len(packed), INTEGERS_AT_ONCE):
        yield (b"," if start else b"") + to_json(packed[start : start + INTEGERS_AT_ONCE])[1:-1]
    yield b"]}}"


def _bitmask(common: Mapping[str, Any], labels: Mapping[str, Any], mask: Mask, pieces: ReplyPieces) -> Iterator[bytes]:
    from osamd.pixels.brush import bitmask_png

    pieces.expect(BITMASK_BYTES_PER_PIXEL * mask.height * mask.width)
    png = bitmask_png(mask)
    yield _begun(common, labels) + b',"imageDataURL":"data:image/png;base64,'
    for start in range(0, len(png), PIECE_BYTES):
        yield base64.b64encode(png[start : start + PIECE_BYTES])
    yield b'"}}'


def _begun(common: Mapping[str, Any], value: Mapping[str, Any]) -> bytes:
    """A region up to the last field of its value."""
    return to_json({"id": _new_id(), **common, "value": value})[:-2]
