"""Who answers: the engine in this process, or a server. Both give the same rows for the same photos."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from osamd.dataset.plan import Header, Item, Target
from osamd.dataset.rows import SCORE_DIGITS, Instance, Row, box_and_area, counts_of
from osamd.dataset.urls import place_of
from osamd.errors import (
    EmbeddingExpiredError,
    HungError,
    InferenceError,
    InvalidImageError,
    OsamdError,
    OutOfMemoryError,
    RequestError,
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
# Without a time limit, so that the result does not depend on how busy the machine is.
EVERYTHING: Final = {"everything": {"max_seconds": 1e8}}
# Of this photo; everything else, such as a server that is down, stops the run, which can be continued.
PHOTO_FAILURES: Final = (RequestError, InferenceError, HungError, OutOfMemoryError)
# Request errors that every photo would get.
FATAL_CODES: Final = frozenset({"unknown_model", "pull_forbidden", "not_found", "method_not_allowed"})


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
            return _told(self._send(data, everything=True), first=0)
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
        return self._client.segment(data, model=self._model, mask_format="rle", mask_layout="full", include=[], **asked)


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


def row_maker(header: Header, answers: Answers, decode: Decode) -> Callable[[Item], Row]:
    """How a photo becomes a row.

    Args:
        header: what to find.
        answers: who answers.
        decode: decodes images whose header is not read in this process.

    Returns:
        A function for any thread. It raises only what stops the run: an error that is not of one photo.
    """
    by_text = {category.name: category.id for category in header.categories}

    def category_of(item: Item, found: Found) -> int:
        if item.targets:
            return item.targets[found.prompt_index].category
        return by_text.get(found.text or "", header.categories[0].id)

    def row_of(item: Item) -> Row:
        try:
            data = _read(item)
            height, width = _size(data, decode)
            prompts = _prompts(header, item, height=height, width=width)
            found = answers(data, prompts) if prompts else []
        except MemoryError as error:
            # Of a decoder, here or in a process that was killed.
            return _failed(item, OutOfMemoryError(str(error) or "out of memory"))
        except PHOTO_FAILURES as error:
            if error.code in FATAL_CODES:
                raise
            return _failed(item, error)
        size = (height, width)
        return Row(item.index, width, height, tuple(_instance(one, category_of(item, one), size) for one in found))

    return row_of


def _failed(item: Item, error: OsamdError) -> Row:
    return Row(item.index, 0, 0, code=error.code, message=str(error))


def _read(item: Item) -> bytes:
    try:
        return place_of(item.path).read_bytes()
    except OSError as error:
        raise InvalidImageError(error.strerror or type(error).__name__) from None


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
