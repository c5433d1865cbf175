"""What ``Segmenter`` found in one image."""

from dataclasses import dataclass

from osamd.errors import OsamdError
from osamd.types import Annotation, BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The objects found in one image, or why it failed.

    Attributes:
        height: rows of the upright image; 0 if it failed.
        width: columns of the upright image; 0 if it failed.
        annotations: the objects, in the order of the prompts, best first within each; empty if it failed.
        error: why this image failed, or None; other images are not affected.
    """

    height: int
    width: int
    annotations: tuple[Annotation, ...]
    error: OsamdError | None = None

    @property
    def masks(self) -> BoolArray:
        """(N, height, width) bool, one per annotation, in the same order; all False for objects without a mask.

        Raises:
            OsamdError: the image failed.
        """
        import numpy as np

        masks = np.zeros((len(self._found()), self.height, self.width), np.bool_)
        for canvas, annotation in zip(masks, self.annotations, strict=True):
            box = annotation.box
            if annotation.mask is not None:
                canvas[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = annotation.mask.inside
        return masks

    @property
    def boxes(self) -> IntArray:
        """(N, 4) int64: xmin, ymin, xmax, ymax in whole image pixels, both corners included.

        Raises:
            OsamdError: the image failed.
        """
        import numpy as np

        boxes = [(item.box.xmin, item.box.ymin, item.box.xmax, item.box.ymax) for item in self._found()]
        return np.array(boxes, np.int64).reshape(-1, 4)

    @property
    def scores(self) -> FloatArray:
        """(N,) float32: the model's confidence, 0..1; NaN if it has none.

        Raises:
            OsamdError: the image failed.
        """
        import numpy as np

        return np.array([np.nan if item.score is None else item.score for item in self._found()], np.float32)

    def _found(self) -> tuple[Annotation, ...]:
        if self.error is not None:
            raise self.error
        return self.annotations
