"""Who answers: the engine in this process, or a server. Both give the same rows for the same photos."""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from osamd.dataset.failures_in_a_row import FailuresInARow, is_unclear
from osamd.dataset.plan import Header, Item, Target
from osamd.dataset.rows import SCORE_DIGITS, Instance, Row, box_and_area, counts_of
from osamd.dataset.urls import Place, place_of
from osamd.errors import (
    EmbeddingExpiredError,
    InvalidImageError,
    OsamdError,
    OutOfMemoryError,
    RequestError,
    StorageError,
)
from osamd.pixels.formats import is_heic
from osamd.pixels.images import upright_size
from osamd.types import Annotation, Decode

if TYPE_CHECKING:
    from osamd.batch import Segmenter
    from osamd.client import Client, Segmentation

# A prompt, as in the body of /api/generate.
Asked = Mapping[str, Any]
# The largest that Segmenter takes; a server may take less.
MOST_IMAGE_PIXELS: Final = 170_000_000
# A server takes no more in one request.
MOST_PROMPTS: Final = 64
# As many as can be asked for.
MOST_OBJECTS: Final = 1000
# Without a time limit, so that the result does not depend on how busy the machine is.
EVERYTHING: Final = {"everything": {"max_seconds": 1e8, "max_masks": MOST_OBJECTS}}
# A server has a time limit of its own.
EVERYTHING_REMOTE: Final = {"max_masks": MOST_OBJECTS}
# For a failure that may pass.
ATTEMPTS: Final = 3
# Request errors that every photo would get.
FATAL_CODES: Final = frozenset({"unknown_model", "pull_forbidden", "not_found", "method_not_allowed"})
# Why one photo cannot be read. Everything else may be its volume's fault.
OF_THE_PHOTO: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
)


@dataclass(frozen=True, slots=True)
class Found:
    """An object as answered.

    Attributes:
        prompt_index: the prompt it answers.
        text: the words it matches, or None.
        score: the model's confidence, 0..1, or None.
        counts: COCO's compressed run lengths, at the image's size.
    """

    prompt_index: int
    text: str | None
    score: float | None
    counts: str


class Answers(Protocol):
    """Answers the prompts of one photo. Called from several threads."""

    def __call__(self, data: bytes, prompts: Sequence[Asked]) -> list[Found]:
        """The objects, in the order of the prompts.

        Args:
            data: the encoded image.
            prompts: at least one.

        Raises:
            OsamdError: it failed.
        """


class LocalAnswers:
    """Answers by the engine in this process.

    Args:
        segmenter: closed by its owner.
    """

    def __init__(self, segmenter: "Segmenter") -> None:
        self._segmenter = segmenter

    def __call__(self, data: bytes, prompts: Sequence[Asked]) -> list[Found]:
        """See ``Answers``."""
        asked = EVERYTHING if "everything" in prompts[0] else list(prompts)
        (result,) = self._segmenter([data], [asked])
        if result.error is not None:
            raise result.error
        return [_found(annotation) for annotation in result.annotations if annotation.mask is not None]


class RemoteAnswers:
    """Answers by a server.

    Args:
        client: closed by its owner.
        model: the model's name.
    """

    def __init__(self, client: "Client", model: str) -> None:
        self._client = client
        self._model = model

    def __call__(self, data: bytes, prompts: Sequence[Asked]) -> list[Found]:
        """See ``Answers``; more prompts than one request takes are sent in several, with the image once."""
        if "everything" in prompts[0]:
            return _told(self._send(data, everything=EVERYTHING_REMOTE), first=0)
        found: list[Found] = []
        image_id: str | None = None
        for first in range(0, len(prompts), MOST_PROMPTS):
            some = prompts[first : first + MOST_PROMPTS]
            try:
                reply = self._send(data if image_id is None else None, image_id=image_id, prompts=some)
            except EmbeddingExpiredError:
                reply = self._send(data, prompts=some)
            image_id = reply.image_id
            found += _told(reply, first=first)
        return found

    def _send(self, data: bytes | None, **asked: Any) -> "Segmentation":
        """Ask, and ask again after a failure that may pass; the client itself waits for a server that is down."""
        for attempt in range(ATTEMPTS):
            try:
                return self._client.segment(
                    data, model=self._model, mask_format="rle", mask_layout="full", include=[], **asked
                )
            except OsamdError as error:
                if not is_unclear(error) or attempt == ATTEMPTS - 1:
                    raise
        raise RuntimeError("the last attempt has an outcome")


def _told(reply: "Segmentation", *, first: int) -> list[Found]:
    """The objects of a reply whose first prompt has this index."""
    return [
        Found(first + one.prompt_index, one.text, one.score, str(one.mask["counts"]))
        for one in reply.annotations
        if one.mask is not None
    ]


def _found(annotation: Annotation) -> Found:
    if annotation.mask is None:
        raise RuntimeError("only annotations with a mask have run lengths")
    return Found(annotation.prompt_index, annotation.text, annotation.score, counts_of(annotation.mask))


class RowMaker:
    """Turns photos into rows. Called from several threads.

    Args:
        header: what to find.
        answers: who answers.
        decode: decodes images whose header is not read in this process.
    """

    def __init__(self, header: Header, answers: Answers, decode: Decode) -> None:
        self._header = header
        self._answers = answers
        self._decode = decode
        self._by_text = {category.name: category.id for category in header.categories}
        self._in_a_row = FailuresInARow()

    def __call__(self, item: Item) -> Row:
        """The row of a photo.

        Raises:
            OsamdError: what stops the run: an error that is not of one photo, or one of too many photos in a row.
        """
        try:
            data = _read(item)
        except InvalidImageError as error:
            return _failed(item, error)
        except StorageError as error:
            return self._unclear(item, error)
        try:
            size = height, width = _size(data, self._decode)
            prompts = _prompts(self._header, item, height=height, width=width)
            found = self._answers(data, prompts) if prompts else []
        except MemoryError as error:
            # Of a decoder, here or in a process that was killed.
            return self._unclear(item, OutOfMemoryError(str(error) or "out of memory"))
        except OsamdError as error:
            return self._failed(item, error)
        if prompts:
            self._in_a_row.end()
        return Row(
            item.index, width, height, tuple(_instance(one, self._category_of(item, one), size) for one in found)
        )

    def _failed(self, item: Item, error: OsamdError) -> Row:
        """The row of a photo that could not be segmented, unless the error stops the run."""
        # A server whose disk is full fails every photo.
        if is_unclear(error) and not isinstance(error, StorageError):
            return self._unclear(item, error)
        if isinstance(error, RequestError) and error.code not in FATAL_CODES:
            return _failed(item, error)
        raise error

    def _unclear(self, item: Item, error: OsamdError) -> Row:
        self._in_a_row.add(error)
        return _failed(item, error)

    def _category_of(self, item: Item, found: Found) -> int:
        if item.targets:
            return item.targets[found.prompt_index].category
        return self._by_text.get(found.text or "", self._header.categories[0].id)


def _failed(item: Item, error: OsamdError) -> Row:
    return Row(item.index, 0, 0, code=error.code, message=str(error))


def _read(item: Item) -> bytes:
    """The photo's bytes.

    Raises:
        InvalidImageError: it cannot be read.
        StorageError: the same, but that may be its volume's fault.
    """
    place = place_of(item.path)
    try:
        return place.read_bytes()
    except OSError as error:
        message = error.strerror or type(error).__name__
        raise (InvalidImageError if _is_of_the_photo(error, place) else StorageError)(message) from None


def _is_of_the_photo(error: OSError, place: Place) -> bool:
    if not isinstance(place, Path):
        # Credentials expire, for all photos.
        return error.errno == errno.ENOENT
    if error.errno != errno.ENOENT:
        return error.errno in OF_THE_PHOTO
    # A folder that is gone or empty was on a volume that is not mounted any more.
    try:
        with os.scandir(place.parent) as found:
            return next(found, None) is not None
    except OSError:
        return False


def _size(data: bytes, decode: Decode) -> tuple[int, int]:
    """Rows and columns of the upright image."""
    if is_heic(data):
        picture = decode(data, max_pixels=MOST_IMAGE_PIXELS)
        return picture.height, picture.width
    return upright_size(data, max_pixels=MOST_IMAGE_PIXELS)


def _prompts(header: Header, item: Item, *, height: int, width: int) -> list[Asked]:
    if header.ask == "text":
        return [{"texts": list(header.texts)}]
    if header.ask == "everything":
        return [{"everything": True}]
    return [_prompt(target, height=height, width=width) for target in item.targets]


def _prompt(target: Target, *, height: int, width: int) -> Asked:
    if target.box is None:
        return {"points": [list(point) for point in target.points], "point_labels": list(target.point_labels)}
    x1, y1, x2, y2 = target.box
    if target.is_fraction:
        # Edges in fractions of the size to the first and the last pixel, counted from their centres.
        x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width - 1, y2 * height - 1
    # Thinner than a pixel.
    x2, y2 = max(x1, x2), max(y1, y2)
    if x1 >= width or y1 >= height or x2 <= -1 or y2 <= -1:
        # Outside: the engine refuses it, and says so.
        return {"box": [x1, y1, x2, y2]}
    # Boxes of data sets often reach a little over the edge.
    corners = zip((x1, y1, x2, y2), (width, height, width, height), strict=True)
    return {"box": [min(max(corner, 0.0), size - 1.0) for corner, size in corners]}


def _instance(found: Found, category: int, size: tuple[int, int]) -> Instance:
    box, area = box_and_area(size, found.counts)
    score = None if found.score is None else round(found.score, SCORE_DIGITS)
    return Instance(category, score, box, area, found.counts)
