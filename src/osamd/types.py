"""Core value types: frozen dataclasses without behaviour beyond simple derived values.

Coordinates: unless a name says otherwise, x and y are pixels of the upright image (EXIF orientation applied), x to the
right and y down; the centre of the top-left pixel is (0, 0). Boxes are (x1, y1, x2, y2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
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
    # Importing NumPy takes 150 ms, which /health must not wait for.
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
        boxes: (K, 4) float32, x1, y1, x2, y2 in image pixels, both corners included.
        texts: text prompts, for models that support them.
        mask_id: a mask of an earlier answer to refine, or None.
        mask_png: a mask to refine, as a greyscale PNG of the image's size, or None.
        iou_threshold: IoU above which non-maximum suppression drops the lower-scoring box, 0..1 (detectors).
        score_threshold: objects with a lower score are dropped, 0..1 (detectors).
        max_annotations: maximum number of objects, best first (detectors).
        field: path of this prompt in the request, for messages.
        parts: paths of its points, boxes or texts in the request where they are not below ``field``: one for each, or
            one for all.
    """

    points: FloatArray = dataclass_field(default_factory=_no_points)
    point_labels: IntArray = dataclass_field(default_factory=_no_labels)
    boxes: FloatArray = dataclass_field(default_factory=_no_boxes)
    texts: tuple[str, ...] = ()
    mask_id: str | None = None
    mask_png: bytes | None = None
    iou_threshold: float = 0.5
    score_threshold: float = 0.1
    max_annotations: int = 100
    field: str = "prompt"
    parts: Mapping[str, str | Sequence[str]] = dataclass_field(default_factory=dict)

    def path(self, part: str, index: int | None = None) -> str:
        """Path in the request, for messages.

        Args:
            part: ``points``, ``point_labels``, ``box``, ``boxes``, ``texts`` or ``mask_input``.
            index: which of them; None for all.
        """
        paths = self.parts.get("boxes" if part == "box" else part)
        if isinstance(paths, str):
            return paths
        if paths is not None and len(paths) == 1:
            return paths[0]
        if paths is not None:
            return self.field if index is None else paths[index]
        return f"{self.field}.{part}" if index is None else f"{self.field}.{part}[{index}]"


class WantedSize(Protocol):
    """Returns the size at which an upright image is used by the model."""

    def __call__(self, *, height: int, width: int) -> tuple[int, int]:
        """Rows and columns."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded image, possibly downscaled.

    Attributes:
        pixels: (h, w, 3) uint8, RGB, upright, C-contiguous.
        height: rows of the original image.
        width: columns of the original image.
        notes: conversions applied to samples that are not 8-bit RGB, in a few words each.
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
    """An image preprocessed for a model's encoder.

    Attributes:
        height: rows of the upright image.
        width: columns of the upright image.
        inputs: the encoder's input arrays, by the adapter's own names.
        notes: conversions applied to the image's samples, as in ``Picture``.
        picture: goes into the ``Embedding``.
    """

    height: int
    width: int
    inputs: "Mapping[str, npt.NDArray[Any]]"
    notes: tuple[str, ...] = ()
    picture: "SmallPicture | None" = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model family supports; other prompts are refused with a message made from this."""

    points: bool = False
    boxes: int = 0
    texts: int = 0
    mask_input: bool = False
    multimask: bool = False
    masks: bool = True

    def sentence(self) -> str:
        """The supported prompts in words, for error messages and listings."""
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


@dataclass(frozen=True, slots=True, eq=False)
class SmallPicture:
    """A picture of an image, reduced and compressed, of which a model looks at parts again.

    Attributes:
        jpeg: (N,) uint8, a JPEG file in RGB.
        rows: of the picture.
        columns: of the picture.
    """

    jpeg: ByteArray
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Embedding:
    """An encoded image: the decoder's inputs and the size of the original image.

    Attributes:
        height: rows of the upright image.
        width: columns of the upright image.
        features: the decoder's image inputs by name, each float (1, C, H, W).
        notes: conversions applied to the image's samples, as in ``Picture``.
        picture: the image, for models that look at small objects again, or None.
    """

    height: int
    width: int
    features: Mapping[str, AnyFloatArray]
    notes: tuple[str, ...] = ()
    picture: SmallPicture | None = None

    @property
    def nbytes(self) -> int:
        """Size of the features and of the picture in bytes."""
        kept = 0 if self.picture is None else self.picture.jpeg.nbytes
        return kept + sum(feature.nbytes for feature in self.features.values())


@dataclass(frozen=True, slots=True, eq=False)
class Detail:
    """A finer mask of a window of the image, with nothing of the object outside it.

    Attributes:
        values: (h, w) float32, all of which show the window.
        window: left, top, right and bottom edge in image pixels; those of the whole image are 0, 0, width and height.
    """

    values: FloatArray
    window: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class MaskLogits:
    """One candidate mask at the model's low resolution.

    Attributes:
        values: (h, w) float32; values above ``threshold`` belong to the object.
        valid_height: rows of ``values``, from the top, that show the image and not padding; may be fractional.
        valid_width: the same for columns, from the left.
        threshold: the logit above which a pixel belongs to the object.
        detail: the same mask, finer, if the model looked at a window of the image; otherwise None.
    """

    values: FloatArray
    valid_height: float
    valid_width: float
    threshold: float = 0.0
    detail: Detail | None = None

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return self.values.nbytes + (0 if self.detail is None else self.detail.values.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One answer of a model to one prompt: a mask, a box, or both.

    Attributes:
        logits: the mask, or None for detectors, which return boxes only.
        box: x1, y1, x2, y2 in image pixels as predicted by the model, or None if it is derived from the mask.
        score: the model's confidence, 0..1, or None if it has none.
        text: the text prompt this object matches, or None.
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
    """A mask, stored as its bounding box and the pixels inside it.

    Attributes:
        inside: (box height, box width) bool; every border row and column has at least one True.
        box: position of ``inside`` in the image.
        height: rows of the image.
        width: columns of the image.
    """

    inside: BoolArray
    box: Box
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Postprocessing of masks before they are written; none by default.

    Attributes:
        smooth: standard deviation, in pixels, of the blur that smooths outlines.
        fill_holes: area, in pixels, up to which holes are filled.
        drop_islands: area, in pixels, up to which separate parts are dropped; the largest part always stays.
        simplify: maximum deviation of polygon outlines, in pixels.
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
        mask: the mask, or None for detectors, which return boxes only.
        score: the model's confidence, 0..1, or None.
        text: the text prompt it matches, or None.
        prompt_index: index of the prompt in the request, from 0.
        mask_index: rank among the candidates of that prompt, best first, from 0.
        mask_id: handle for refining this mask; None if the model cannot refine masks, or until it is assigned.
        logits: the logits the mask was made from, until its ``mask_id`` is assigned.
        predicted_iou: the segmenter's estimate of the mask's IoU with the object, 0..1, if ``score`` is that of a
            detector before it; otherwise None.
    """

    box: Box
    mask: Mask | None
    score: float | None
    text: str | None
    prompt_index: int
    mask_index: int
    mask_id: str | None = None
    logits: MaskLogits | None = None
    predicted_iou: float | None = None
