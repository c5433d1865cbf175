"""The values that travel through osamd. Frozen dataclasses; no behaviour beyond what follows from the data.

Coordinates: unless a name says otherwise, x and y are pixels of the upright image (EXIF orientation applied), x to the
right and y down; the centre of the top-left pixel is (0, 0). Boxes are (x1, y1, x2, y2).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]
    ByteArray = npt.NDArray[np.uint8]
    AnyFloatArray = npt.NDArray[np.floating]
else:
    # NumPy and its types take 150 ms to import, which /health must not wait for.
    FloatArray = IntArray = BoolArray = ByteArray = AnyFloatArray = Any


def _no_points() -> FloatArray:
    import numpy as np

    return np.zeros((0, 2), np.float32)


def _no_labels() -> IntArray:
    import numpy as np

    return np.zeros(0, np.int64)


def _no_boxes() -> FloatArray:
    import numpy as np

    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What to segment.

    Attributes:
        points: (N, 2) float32, x and y in image pixels.
        point_labels: (N,) int64, 1 foreground and 0 background.
        boxes: (K, 4) float32, x1, y1, x2, y2 in image pixels, the corners included.
        texts: words, for models that take them.
        mask_id: a mask of an earlier answer to refine, or None.
        iou_threshold: overlap above which non-maximum suppression drops the weaker box, 0..1 (detectors).
        score_threshold: objects below it are left out, 0..1 (detectors).
        max_annotations: at most so many objects, best first (detectors).
        field: how the request spells this prompt, for messages.
    """

    points: FloatArray = dataclass_field(default_factory=_no_points)
    point_labels: IntArray = dataclass_field(default_factory=_no_labels)
    boxes: FloatArray = dataclass_field(default_factory=_no_boxes)
    texts: tuple[str, ...] = ()
    mask_id: str | None = None
    iou_threshold: float = 0.5
    score_threshold: float = 0.1
    max_annotations: int = 100
    field: str = "prompt"


class WantedSize(Protocol):
    """Tells how many rows and columns of an upright image of some size are looked at."""

    def __call__(self, *, height: int, width: int) -> tuple[int, int]:
        """Rows and columns."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded image, perhaps smaller than it was.

    Attributes:
        pixels: (h, w, 3) uint8, RGB, upright, C-contiguous.
        height: rows of the whole image.
        width: columns of the whole image.
        notes: what was done to samples that are not 8-bit RGB, in a few words each.
    """

    pixels: ByteArray
    height: int
    width: int
    notes: tuple[str, ...] = ()


class Decode(Protocol):
    """Turns an encoded image into pixels, here or in another process; see ``osamd.pixels.images.decode_image``."""

    def __call__(self, data: bytes, *, max_pixels: int, wanted: WantedSize | None = None) -> Picture:
        """The pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image as a model's encoder takes it.

    Attributes:
        height: rows of the upright image.
        width: columns of the upright image.
        inputs: what its graph is fed, by names of the adapter's own.
        notes: what was done to the image's samples, as ``Picture`` has them.
    """

    height: int
    width: int
    inputs: "Mapping[str, npt.NDArray[Any]]"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model family takes and gives; everything else is refused with a message made from this."""

    points: bool = False
    boxes: int = 0
    texts: int = 0
    mask_input: bool = False
    multimask: bool = False
    masks: bool = True

    def sentence(self) -> str:
        """The capabilities in words, for error messages and listings."""
        parts = []
        if self.points:
            parts.append("points")
        if self.boxes:
            parts.append("one box" if self.boxes == 1 else f"up to {self.boxes} boxes")
        if self.texts:
            parts.append("one text" if self.texts == 1 else f"up to {self.texts} texts")
        if self.mask_input:
            parts.append("a mask to refine")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Embedding:
    """An encoded image: what the decoder needs, and the size of the image it came from.

    Attributes:
        height: rows of the upright image.
        width: columns of the upright image.
        features: the decoder's image inputs by name, each float (1, C, H, W).
        notes: what was done to the image's samples, as ``Picture`` has them.
    """

    height: int
    width: int
    features: Mapping[str, AnyFloatArray]
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of memory the features take."""
        return sum(feature.nbytes for feature in self.features.values())


@dataclass(frozen=True, slots=True, eq=False)
class MaskLogits:
    """One candidate mask at the model's low resolution.

    Attributes:
        values: (h, w) float32; above ``threshold`` means object.
        valid_height: how many rows of ``values``, from the top and not always whole, show the image and not padding.
        valid_width: the same for columns, from the left.
        threshold: where object begins.
    """

    values: FloatArray
    valid_height: float
    valid_width: float
    threshold: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One answer of a model to one prompt: a mask, a box, or both.

    Attributes:
        logits: the mask, or None for models that only find boxes.
        box: x1, y1, x2, y2 in image pixels as the model gave it, or None where it follows from the mask.
        score: the model's own confidence, 0..1, or None where it has none.
        text: the words this object answers, or None.
    """

    logits: MaskLogits | None = None
    box: tuple[float, float, float, float] | None = None
    score: float | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A bounding box in whole image pixels, both corners included."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A mask kept as its bounding box and what is inside.

    Attributes:
        inside: (box height, box width) bool; every border row and column has at least one True.
        box: where ``inside`` lies in the image.
        height: rows of the image.
        width: columns of the image.
    """

    inside: BoolArray
    box: Box
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What is done to masks before they are written; nothing by default.

    Attributes:
        smooth: standard deviation, in pixels, of the blur that outlines are smoothed with.
        fill_holes: holes of at most so many pixels are filled.
        drop_islands: parts of at most so many pixels are dropped; the largest stays.
        simplify: outlines of polygons may be off by so many pixels.
    """

    smooth: float = 0.0
    fill_holes: float = 0.0
    drop_islands: float = 0.0
    simplify: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One object found.

    Attributes:
        box: bounding box.
        mask: the mask, or None for models that only find boxes.
        score: the model's confidence, 0..1, or None.
        text: the words it answers, or None.
        prompt_index: which prompt of the request it answers, from 0.
        mask_index: which candidate of that prompt it is, best first, from 0.
        mask_id: handle for refining this mask; None where the model cannot, and until it is made.
        logits: what the mask was made of, until its ``mask_id`` is made.
    """

    box: Box
    mask: Mask | None
    score: float | None
    text: str | None
    prompt_index: int
    mask_index: int
    mask_id: str | None = None
    logits: MaskLogits | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ImageSource:
    """Where the pixels come from: exactly one of the first four is set.

    Attributes:
        data: an encoded image.
        pixels: (height, width, 3) uint8, RGB, upright, C-contiguous.
        image_id: a handle from an earlier answer.
        exchanged: an embedding that a caller kept.
        sha256: of the content, 64 hex digits; empty beside a handle.
    """

    data: bytes | None = None
    pixels: ByteArray | None = None
    image_id: str | None = None
    exchanged: "ExchangedEmbedding | None" = None
    sha256: str = ""

    @classmethod
    def of_bytes(cls, data: bytes) -> "ImageSource":
        """An encoded image. Hashes it (1 ms for 2 MB), so not on an event loop."""
        return cls(data=data, sha256=hashlib.sha256(data).hexdigest())

    @classmethod
    def of_pixels(cls, pixels: ByteArray) -> "ImageSource":
        """A decoded image. Hashes it, as ``of_bytes`` does."""
        digest = hashlib.sha256(f"pixels {pixels.shape[1]}x{pixels.shape[0]} ".encode())
        digest.update(pixels.data.cast("B"))
        return cls(pixels=pixels, sha256=digest.hexdigest())

    @classmethod
    def of_embedding(cls, exchanged: "ExchangedEmbedding") -> "ImageSource":
        """An embedding that a caller kept. Hashes it, as ``of_bytes`` does."""
        import numpy as np

        digest = hashlib.sha256(f"embedding {exchanged.width}x{exchanged.height}".encode())
        for array in exchanged.arrays:
            digest.update(f" {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B"))
        return cls(exchanged=exchanged, sha256=digest.hexdigest())


@dataclass(frozen=True, slots=True, eq=False)
class ExchangedEmbedding:
    """An embedding as it travels outside: without the decoder's names, in osam's order.

    Attributes:
        height: rows of the upright image.
        width: columns of the upright image.
        arrays: each (C, H, W) float32; osam's ``embedding`` first, then its ``extra_features``.
    """

    height: int
    width: int
    arrays: tuple[FloatArray, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRequest:
    """One call of the engine.

    Attributes:
        image: the image or its handle.
        model: a name or alias of the catalogue; None means the handle's model, or the built-in one.
        prompts: what to segment; None lets the model's default prompt decide.
        multimask: whether to return up to three candidates for each prompt.
        keep_alive: how long the model stays loaded afterwards, as in ``osamd.keep_alive``; None for the default.
        by_operator: whether ``keep_alive`` may change how long a preloaded model stays, or one an operator gave a time.
        owner: whose embeddings and handles these are (the key's name).
        with_embedding: whether the result carries the embedding.
        with_pixels: whether the result carries the image at its whole size, for which it must be given as such.
        refinable: whether masks get a ``mask_id`` where the model can refine them.
        needs_masks: whether a model that finds boxes only is refused.
    """

    image: ImageSource
    model: str | None = None
    prompts: tuple[Prompt, ...] | None = None
    multimask: bool = False
    keep_alive: float | None = None
    by_operator: bool = True
    owner: str = ""
    with_embedding: bool = False
    with_pixels: bool = False
    refinable: bool = True
    needs_masks: bool = False


@dataclass(frozen=True, slots=True)
class ImageHandle:
    """A server-made name of an embedded image.

    Attributes:
        image_id: the handle.
        model: full name of the model it belongs to.
        width: columns of the upright image.
        height: rows of the upright image.
        expires_at: when it is forgotten at the latest, if not used before; UTC.
        notes: what was done to the image's samples, as ``Picture`` has them.
    """

    image_id: str
    model: str
    width: int
    height: int
    expires_at: datetime
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SegmentResult:
    """What the engine found.

    Attributes:
        image: the handle of the image.
        annotations: objects in the order of the prompts, best first within one.
        embedding: what the masks were decoded from, where it was asked for.
        cache_hit: whether the embedding was known before this request.
        device: where inference ran, such as ``cpu``.
        license: SPDX expression of the model's licence.
        pixels: (height, width, 3) uint8, RGB, upright, where they were asked for.
    """

    image: ImageHandle
    annotations: tuple[Annotation, ...]
    embedding: Embedding | None
    cache_hit: bool
    device: str
    license: str
    pixels: ByteArray | None = None
