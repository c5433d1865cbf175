"""Convert the arguments of ``segment`` and the other methods to HTTP calls. Empty arguments are not dropped."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeAlias, TypedDict, TypeVar
from urllib.parse import quote

from osamd.client.pictures import mask_text, sent_image
from osamd.client.replies import Handle, Segmentation, handle_of, models_of, nothing_of, object_of, segmentation_of
from osamd.client.routing import headers_of_content, headers_of_handle
from osamd.client.streams import ACCEPT_LINES
from osamd.errors import InvalidPromptError, InvalidRequestError

if TYPE_CHECKING:
    import httpx2

Reply = TypeVar("Reply")


class Array(Protocol):
    """The common part of NumPy arrays and Pillow images."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's protocol."""


class BinaryFile(Protocol):
    """An open file, or ``io.BytesIO``."""

    def read(self) -> bytes:
        """Read the rest of the file."""


Image: TypeAlias = str | bytes | bytearray | memoryview | PathLike[str] | BinaryFile | Array


@dataclass(frozen=True, slots=True)
class Call(Generic[Reply]):
    """A request, and how its answer is parsed.

    Attributes:
        method: the HTTP method.
        path: below the server's URL.
        read: parses the answer; raises ``UnreachableError`` if it is not osamd's.
        body: sent as JSON.
        headers: sent with it.
    """

    method: str
    path: str
    read: "Callable[[httpx2.Response], Reply]"
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class SegmentArguments(TypedDict, total=False):
    """The arguments of ``segment`` other than the image.

    NumPy arrays and scalars are accepted wherever sequences and numbers are. None means not given; an empty list is
    rejected, because dropping it would change the request.

    Attributes:
        image_id: a handle from an earlier answer, instead of an image.
        model: a model's name; the server's built-in one by default.
        points: (N, 2) x, y in pixels of the upright image; one point may be given as x, y.
        labels: (N,) one per point, 1 foreground and 0 background; all foreground if omitted.
        box: x1, y1, x2, y2 in pixels.
        texts: words, for models that take them; one may be given as a string.
        mask_input: a mask to refine: a ``mask_id``, or a mask of the image's size: an (H, W) array of bool or uint8, a
            Pillow image, a ``Path`` or the bytes of a greyscale PNG; above 127 for the object.
        everything: find everything: True, or parameters such as ``{"points_per_side": 16, "max_masks": 50}``, instead
            of the five above.
        prompts: several prompts in the API's format, instead of the six above.
        multimask: up to three candidates per prompt, if the model has them.
        mask_layout: ``full`` or ``crop``.
        mask_format: ``png``, ``rle``, ``polygon``, ``cutout`` or ``none``.
        fill_holes: fill holes of at most this many pixels.
        drop_islands: drop separate parts of at most this many pixels; the largest is kept.
        smooth: smooth outlines with a Gaussian blur of this many pixels.
        simplify: for ``polygon``, the tolerance of simplified outlines, in pixels.
        include: ``image_embedding`` or ``image_embedding_compact``; an empty list for neither.
        keep_alive: how long the model stays loaded: ``"5m"``, seconds, 0 not at all, -1 until the server stops.
    """

    image_id: str | None
    model: str | None
    points: Sequence[Sequence[float]] | Sequence[float] | Array | None
    labels: Sequence[int] | int | Array | None
    box: Sequence[float] | Array | None
    texts: Sequence[str] | str | None
    mask_input: "str | bytes | PathLike[str] | BinaryFile | Array | None"
    everything: Mapping[str, Any] | bool | None
    prompts: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None
    multimask: bool | None
    mask_layout: Literal["full", "crop"] | None
    mask_format: Literal["png", "rle", "polygon", "cutout", "none"] | None
    fill_holes: float | None
    drop_islands: float | None
    smooth: float | None
    simplify: float | None
    include: Sequence[str] | str | None
    keep_alive: str | float | None


ONE_PROMPT: Final = ("points", "labels", "box", "texts", "mask_input", "everything")
LISTS: Final = ("points", "labels", "texts", "prompts", "include")
OPTIONS: Final = (
    "prompts",
    "multimask",
    "mask_layout",
    "mask_format",
    "fill_holes",
    "drop_islands",
    "smooth",
    "simplify",
    "include",
    "keep_alive",
)
# Without these, the server would use the model's default prompt, which the caller did not mean.
NEVER_EMPTY: Final = frozenset({"points", "labels", "box", "texts", "prompts"})


def segment_call(image: object, arguments: Mapping[str, Any]) -> Call[Segmentation]:
    """``POST /api/generate``.

    Raises:
        TypeError: unknown arguments, or not exactly one of image and ``image_id``.
        InvalidRequestError: an argument cannot be sent as JSON.
        InvalidPromptError: one is empty.
        InvalidImageError: the image cannot be sent.
    """
    unknown = set(arguments) - set(SegmentArguments.__annotations__)
    if unknown:
        raise TypeError(f"segment() got unexpected keyword arguments: {', '.join(sorted(unknown))}")
    mask = arguments.get("mask_input")
    if mask is not None and not isinstance(mask, str):
        arguments = {**arguments, "mask_input": mask_text(mask)}
    given = {name: _plain(value, name) for name, value in arguments.items() if value is not None}
    if given.get("everything") is False:
        del given["everything"]
    for name in NEVER_EMPTY & set(given):
        if given[name] in ([], {}):
            raise InvalidPromptError(f"must not be empty; omit {name} to use the model's default prompt", field=name)
    given |= {name: _one_as_list(name, given[name]) for name in LISTS if name in given}
    prompt = {name: given[name] for name in ONE_PROMPT if name in given}
    if "points" in prompt:
        prompt.setdefault("labels", [1] * len(prompt["points"]))
    body, headers = _model_and_image(image, given.get("image_id"), given.get("model"))
    if prompt:
        body["prompt"] = {WIRE_NAMES.get(name, name): value for name, value in prompt.items()}
    body |= {name: given[name] for name in OPTIONS if name in given}
    return Call("POST", "/api/generate", segmentation_of, body, headers)


def everything_call(image: object, arguments: Mapping[str, Any]) -> Call[Segmentation]:
    """``POST /api/generate`` in everything mode; raises as ``segment_call`` does."""
    call = segment_call(image, {**arguments, "everything": arguments.get("everything") or True})
    return replace(call, headers={**call.headers, **ACCEPT_LINES})


WIRE_NAMES: Final = {"labels": "point_labels"}


def embed_call(image: object, model: str | None) -> Call[Handle]:
    """``POST /api/embed``; raises as ``segment_call`` does."""
    return Call("POST", "/api/embed", handle_of, *_model_and_image(image, None, model))


def forget_call(image_id: str) -> Call[None]:
    """``DELETE /api/images/{image_id}``."""
    path = f"/api/images/{quote(image_id, safe='')}"
    return Call("DELETE", path, nothing_of, headers=headers_of_handle(image_id))


def running_models_call() -> Call[list[dict[str, Any]]]:
    """``GET /api/ps``."""
    return Call("GET", "/api/ps", models_of)


def show_model_call(model: str) -> Call[dict[str, Any]]:
    """``POST /api/show``."""
    return Call("POST", "/api/show", object_of, {"model": model})


def ready_call() -> Call[None]:
    """``GET /ready``."""
    return Call("GET", "/ready", nothing_of)


def _model_and_image(
    image: object, image_id: str | None, model: str | None
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The beginning of a body, and the headers that route it."""
    if (image is None) == (image_id is None):
        raise TypeError("expected either image or image_id")
    fields: dict[str, Any] = {} if model is None else {"model": model}
    if image_id is not None:
        return fields | {"image_id": image_id}, headers_of_handle(str(image_id))
    sent = sent_image(image)
    return fields | dict(sent.fields), headers_of_content(sent.content)


def _plain(value: Any, field: str) -> Any:
    """Convert a value for JSON: arrays, tuples and iterators to lists, NumPy's numbers to Python's."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequestError("expected finite numbers", field=field)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(item, f"{field}.{name}") for name, item in value.items()}
    if callable(getattr(value, "tolist", None)):
        return _plain(value.tolist(), field)
    # Unordered collections would pair the wrong coordinates.
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | set | frozenset):
        return [_plain(item, field) for item in value]
    raise InvalidRequestError(f"cannot be sent as JSON: {type(value).__name__}", field=field)


def _one_as_list(name: str, value: Any) -> Any:
    """Wrap a single point, label, text or prompt in a list."""
    if name != "points":
        return value if isinstance(value, list) else [value]
    if not isinstance(value, list):
        raise InvalidRequestError("expected x, y or a list of points", field=name)
    return value if isinstance(value[0], list) else [value]
