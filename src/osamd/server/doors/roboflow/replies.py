"""Replies as inference-sdk and supervision read them."""

import io
import time
import zipfile
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

from osamd.segment_requests import SegmentResult
from osamd.server.asks import Ask, Content
from osamd.server.doors.roboflow.bodies import Format, How
from osamd.settings import Settings
from osamd.types import Annotation, ByteArray, Mask
from osamd.wire.json_pieces import ReplyPieces, Room, json_pieces
from osamd.wire.mask_fields import CANVAS_FACTOR
from osamd.wire.mask_values import crossings
from osamd.wire.replies import BYTES_PER_CROSSING, check_canvases, no_limit

BINARY: Final = "application/octet-stream"
ROWS_AT_ONCE: Final = 1024


def write_clicks(
    result: SegmentResult, ask: Ask[How], settings: Settings, room: Room
) -> Generator[None, None, Content]:
    """One prediction per prompt, the best; one without masks where nothing was found."""
    best: list[Annotation | None] = [None] * ask.how.count
    for item in result.annotations:
        if best[item.prompt_index] is None:
            best[item.prompt_index] = item
    if ask.how.format == "binary":
        return (yield from _binary(best, result, settings, room))
    predictions = yield from _predictions(best, ask.how.format, result, settings, room)
    return (yield from _json({"predictions": predictions, "time": _taken_s(ask.how), "model": result.image.model}))


def write_sam(result: SegmentResult, ask: Ask[How], settings: Settings, room: Room) -> Generator[None, None, Content]:
    """All candidates, as SAM 1 has it: polygons by mask."""
    found = list(result.annotations)
    if ask.how.format == "binary":
        return (yield from _binary(found, result, settings, room))
    predictions = yield from _predictions(found, ask.how.format, result, settings, room)
    masks = [prediction["masks"] for prediction in predictions]
    return (yield from _json({"masks": masks, "low_res_masks": [], "time": _taken_s(ask.how)}))


def write_concepts(
    result: SegmentResult, ask: Ask[How], settings: Settings, room: Room
) -> Generator[None, None, Content]:
    """All objects of each prompt, best first."""
    found = list(result.annotations)
    if ask.how.nms is not None:
        check_canvases(result, most=CANVAS_FACTOR * settings.max_mask_pixels)
        found = yield from _suppressed(found, ask.how.nms)
    if ask.how.format == "binary":
        return (yield from _binary(found, result, settings, room))
    predictions = yield from _predictions(found, ask.how.format, result, settings, room)
    results: list[dict[str, Any]] = [
        {"prompt_index": index, "echo": echo, "predictions": []} for index, echo in enumerate(ask.how.echoes)
    ]
    for item, prediction in zip(found, predictions, strict=True):
        results[item.prompt_index]["predictions"].append(prediction)
    taken = _taken_s(ask.how)
    return (yield from _json({"prompt_results": results, "time": taken, "model": result.image.model}))


def _taken_s(how: How) -> float:
    """Seconds since parsing began; the clocks of two machines may differ a little."""
    return max(0.0, time.time() - how.begun)


def _json(content: Mapping[str, Any]) -> Generator[None, None, Content]:
    pieces = ReplyPieces(no_limit)
    yield from pieces.add_all(json_pieces(content))
    return Content(pieces.all())


def _predictions(
    found: Sequence[Annotation | None], form: Format, result: SegmentResult, settings: Settings, room: Room
) -> Generator[None, None, list[dict[str, Any]]]:
    from osamd.pixels import masks, run_lengths

    if form == "rle":
        check_canvases(result, most=CANVAS_FACTOR * settings.max_mask_pixels)
    nbytes = 0
    written = []
    for item in found:
        yield
        mask = None if item is None else item.mask
        value: Any
        if form == "rle":
            size = result.image.height, result.image.width
            runs = run_lengths.no_runs(*size) if mask is None else run_lengths.runs_at_image_size(mask)
            value = {"size": size, "counts": runs.counts}
            nbytes += len(runs.counts)
        else:
            crossed = 0 if mask is None else crossings(mask)
            room(nbytes + BYTES_PER_CROSSING * crossed)
            value = [] if mask is None else [part.exterior for part in masks.polygons(mask)]
            nbytes += BYTES_PER_CROSSING * sum(map(len, value))
        room(nbytes)
        score = 0.0 if item is None else item.score
        written.append(
            {
                "masks": value,
                "confidence": 1.0 if score is None else score,
                "format": "rle" if form == "rle" else "polygon",
            }
        )
    return written


def _canvas(mask: Mask | None, result: SegmentResult) -> ByteArray:
    import numpy as np

    from osamd.pixels import masks

    if mask is None:
        return np.zeros((result.image.height, result.image.width), np.uint8)
    return masks.full_array(mask)


def _binary(
    found: Sequence[Annotation | None], result: SegmentResult, settings: Settings, room: Room
) -> Generator[None, None, Content]:
    """NumPy's npz: ``masks``, (N, height, width) bool, and ``low_res_masks``, (N, h, w) float32, the logits."""
    import numpy as np

    check_canvases(result, most=CANVAS_FACTOR * settings.max_mask_pixels)
    height, width = result.image.height, result.image.width
    logits = [item.logits.values for item in found if item is not None and item.logits is not None]
    low = np.stack(logits) if len({values.shape for values in logits}) == 1 else np.zeros((0, 0, 0), np.float32)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("masks.npy", "w", force_zip64=True) as file:
            header = {"descr": "|b1", "fortran_order": False, "shape": (len(found), height, width)}
            np.lib.format.write_array_header_1_0(file, header)
            for item in found:
                canvas = _canvas(None if item is None else item.mask, result) > 0
                for start in range(0, height, ROWS_AT_ONCE):
                    yield
                    file.write(canvas[start : start + ROWS_AT_ONCE].tobytes())
                    room(buffer.tell())
        with archive.open("low_res_masks.npy", "w") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(low, np.float32), allow_pickle=False)
    return Content([buffer.getvalue()], media_type=BINARY)


def _suppressed(found: Sequence[Annotation], most: float) -> Generator[None, None, list[Annotation]]:
    """The objects without those that overlap a better one of any prompt by more than ``most``, in their order."""
    from osamd.pixels.run_lengths import overlaps, runs_at_image_size

    runs = []
    for item in found:
        yield
        runs.append(None if item.mask is None else runs_at_image_size(item.mask))
    kept: list[int] = []
    for index in sorted(range(len(found)), key=lambda index: -(found[index].score or 0.0)):
        yield
        mine = runs[index]
        others = [run for other in kept if (run := runs[other]) is not None]
        if mine is None or not any(overlap > most for overlap in overlaps(mine, others)):
            kept.append(index)
    return [found[index] for index in sorted(kept)]
