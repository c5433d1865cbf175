"""Writes the updates of everything mode as JSON lines."""

from collections.abc import Generator
from dataclasses import asdict
from typing import Literal

from pydantic import ConfigDict, Field, RootModel
from pydantic_core import to_json

from osamd.pixels.everything import Progress, Proposal, Stopped
from osamd.segment_requests import ImageHandle
from osamd.settings import Settings
from osamd.wire.fields import ReplyModel
from osamd.wire.json_pieces import ReplyPieces, Room
from osamd.wire.replies import (
    EverythingReport,
    HandleSchema,
    ProgressSchema,
    ProposalSchema,
    handle_schema,
    write_annotation,
)
from osamd.wire.schemas import GenerateBody


class ImageLine(HandleSchema):
    """The first line: the image is encoded."""

    event: Literal["image"] = "image"


class AnnotationLine(ReplyModel):
    """A mask was found."""

    event: Literal["annotation"] = "annotation"
    annotation: ProposalSchema


class DroppedLine(ReplyModel):
    """Masks to forget: better ones of the same objects were found."""

    event: Literal["dropped"] = "dropped"
    numbers: list[int]


class ProgressLine(ProgressSchema):
    """How far it is, every few points."""

    event: Literal["progress"] = "progress"


class DoneLine(EverythingReport):
    """The last line."""

    event: Literal["done"] = "done"


class ErrorLine(ReplyModel):
    """The last line, if it failed after the first."""

    event: Literal["error"] = "error"
    code: str = Field(description="As in an error reply.")
    detail: str


class EverythingLine(RootModel[ImageLine | AnnotationLine | DroppedLine | ProgressLine | DoneLine | ErrorLine]):
    """One line of ``POST /api/generate`` in everything mode with ``Accept: application/x-ndjson``."""

    model_config = ConfigDict(defer_build=True)


def image_line(handle: ImageHandle) -> bytes:
    """The first line."""
    return _line(ImageLine(**dict(handle_schema(handle))))


def found_lines(
    proposals: tuple[Proposal, ...],
    dropped: tuple[int, ...],
    progress: Progress,
    body: GenerateBody,
    settings: Settings,
    room: Room,
) -> Generator[None, None, list[bytes]]:
    """The lines of one update; yields between masks, so that other jobs can run in between.

    Args:
        proposals: new masks.
        dropped: numbers of masks that were replaced.
        progress: how far the search is.
        body: the request's fields.
        settings: defaults for fields that are not given.
        room: called with the bytes the lines take; raises if there is not enough memory.
    """
    pieces = ReplyPieces(room)
    if dropped:
        pieces.add(_line(DroppedLine(numbers=list(dropped))))
    for item in proposals:
        pieces.add(b'{"event":"annotation","annotation":')
        yield from write_annotation(item, body, settings, pieces)
        pieces.add(b"}\n")
        yield
    pieces.add(_line(ProgressLine(**asdict(progress))))
    return pieces.all()


def done_line(progress: Progress, stopped: Stopped) -> bytes:
    """The last line."""
    return _line(DoneLine(**asdict(progress), stopped=stopped))


def error_line(code: str, detail: str) -> bytes:
    """The last line of a stream that failed."""
    return _line(ErrorLine(code=code, detail=detail))


def _line(line: ImageLine | DroppedLine | ProgressLine | DoneLine | ErrorLine) -> bytes:
    # The event comes first, whatever the order of the fields.
    return to_json({"event": line.event} | line.model_dump()) + b"\n"
