"""The built-in network's second look at what is small: a window of the image, encoded as if it were one.

The network works at a few hundred pixels a side however large the image is. Around a small box, or something small
that was clicked, a window of the picture kept in the embedding shows it more of them. Later clicks continue there.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from osamd.models.builtin_tensors import grid_of
from osamd.pixels.windows import Window, box_around, cut, from_image, onto_image, window_around
from osamd.types import BoolArray, ByteArray, Candidate, Detail, Embedding, FloatArray, MaskLogits, Prompt, SmallPicture

# Of the image: a window around a box that covers more shows little that is new.
MOST_SHARE: Final = 0.35
# The same around the mask of a click, which may be only a part of what is meant: the rest should be in sight.
MOST_CLICKED_SHARE: Final = 0.2
# Encoded windows that are remembered, of all images together: around a box 4 MB each, around what was clicked 1.3.
MOST_WINDOWS: Final = 8
# Working sizes at which a window is encoded, by that which answers in it. The large one needs a look at the small.
SIZES: Final = {"small": ("small",), "large": ("small", "large")}


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A window of an image, and how to ask about it.

    Attributes:
        embedding: the window, encoded as an image of its own, at ``size`` or at both.
        prompt: in the window's pixels.
        mask_input: the mask to refine in the window, or None.
        window: where it is.
        picture: of which it is a part.
        size: the working size at which it is answered.
    """

    embedding: Embedding
    prompt: Prompt
    mask_input: MaskLogits | None
    window: Window
    picture: SmallPicture
    size: str

    @property
    def asked(self) -> tuple[Embedding, Prompt]:
        """What is asked in the window."""
        return self.embedding, self.prompt

    def mask_before(self, values: FloatArray) -> FloatArray:
        """A mask of the whole image, (h, w) float32, as the previous mask in the window, on the grid of its size."""
        rows, columns = grid_of(self.size, height=self.embedding.height, width=self.embedding.width)
        return from_image(values, self.window, rows=rows, columns=columns, picture=self.picture)

    def onto_image(self, found: Candidate, *, rows: int, columns: int) -> Candidate:
        """An answer in the window as one on the whole image.

        Args:
            found: the answer.
            rows: of the logits of a whole image.
            columns: the same.
        """
        if found.logits is None:
            raise RuntimeError("the built-in network answers with masks")
        fine = found.logits.values
        coarse = onto_image(fine, self.window, rows=rows, columns=columns, picture=self.picture)
        detail = Detail(fine, self.window.edges)
        return replace(found, logits=MaskLogits(coarse, valid_height=rows, valid_width=columns, detail=detail))


class SecondLook:
    """Finds the window of a prompt and remembers the last few, which saves time and changes no answer.

    Args:
        encode: encodes the pixels of a window, (h, w, 3) uint8 RGB, at the working sizes that it is given.
    """

    def __init__(self, encode: Callable[[ByteArray, Sequence[str]], Embedding]) -> None:
        self._encode = encode
        self._lock = threading.Lock()
        # By embedding, so that they go with the image; images and windows from the least recently used to the last.
        self._known: WeakKeyDictionary[Embedding, dict[Window, Embedding]] = WeakKeyDictionary()

    def look(self, embedding: Embedding, prompt: Prompt, mask_input: MaskLogits | None) -> Look | None:
        """The window in which to answer a box or refine a mask; None if that is the whole image.

        A small box has a window, and a mask found in a window keeps it, as long as no click is outside.

        Raises:
            InferenceError: the model failed.
        """
        if mask_input is None:
            if not len(prompt.boxes):
                return None
            return self._small_look(embedding, prompt, prompt.boxes[0], most=MOST_SHARE, size="large")
        picture, detail = embedding.picture, mask_input.detail
        if picture is None or detail is None:
            return None
        window = _window_of(detail, embedding, picture)
        rows, columns = detail.values.shape
        is_clicked = (rows, columns) == grid_of("small", height=window.rows, width=window.columns)
        refined = MaskLogits(detail.values, valid_height=rows, valid_width=columns)
        size = "small" if is_clicked else "large"
        return self._in_window(embedding, prompt, window, size=size, mask_input=refined)

    def around(self, embedding: Embedding, prompt: Prompt, found: BoolArray) -> Look | None:
        """The window around the mask that clicks found, (h, w) over the whole image; None if it is not small.

        Raises:
            InferenceError: the model failed.
        """
        box = box_around(found, height=embedding.height, width=embedding.width)
        if box is None:
            return None
        return self._small_look(embedding, prompt, box, most=MOST_CLICKED_SHARE, size="small")

    def again(self, embedding: Embedding, prompt: Prompt, window: Window) -> Look | None:
        """A window in which earlier clicks were answered; None if a click is outside.

        Raises:
            InferenceError: the model failed.
        """
        return self._in_window(embedding, prompt, window, size="small")

    def _small_look(
        self, embedding: Embedding, prompt: Prompt, box: FloatArray, *, most: float, size: str
    ) -> Look | None:
        picture = embedding.picture
        if picture is None:
            return None
        window = window_around(box, picture, height=embedding.height, width=embedding.width)
        if window.rows * window.columns >= most * picture.rows * picture.columns:
            return None
        return self._in_window(embedding, prompt, window, size=size)

    def _in_window(
        self,
        embedding: Embedding,
        prompt: Prompt,
        window: Window,
        *,
        size: str,
        mask_input: MaskLogits | None = None,
    ) -> Look | None:
        picture = embedding.picture
        if picture is None or not window.contains(prompt):
            return None
        inner = self._encoded(embedding, picture, window, SIZES[size])
        return Look(inner, window.prompt(prompt), mask_input, window, picture, size)

    def _encoded(self, embedding: Embedding, picture: SmallPicture, window: Window, sizes: Sequence[str]) -> Embedding:
        with self._lock:
            known = self._known.get(embedding, {}).get(window)
            if known is not None and all(f"{size}.e" in known.features for size in sizes):
                self._put(embedding, window, known)
                return known
        inner = self._encode(cut(picture, window), sizes)
        with self._lock:
            known = self._known.get(embedding, {}).get(window)
            # Another thread may have encoded it at more sizes meanwhile.
            is_finer = known is not None and known.features.keys() >= inner.features.keys()
            self._put(embedding, window, known if known is not None and is_finer else inner)
            self._drop_oldest()
        return inner

    def _put(self, embedding: Embedding, window: Window, encoded: Embedding) -> None:
        """Remember a window as the last one used. Call with the lock held."""
        windows = self._known.pop(embedding, {})
        windows.pop(window, None)
        windows[window] = encoded
        self._known[embedding] = windows

    def _drop_oldest(self) -> None:
        """Forget windows beyond ``MOST_WINDOWS``, the oldest of the image that has most. Call with the lock held."""
        # A copy made at once: images may go at any time.
        images = [image for reference in self._known.keyrefs() if (image := reference()) is not None]
        counts = {image: len(self._known[image]) for image in images}
        while sum(counts.values()) > MOST_WINDOWS:
            image = max(images, key=counts.__getitem__)
            windows = self._known[image]
            del windows[next(iter(windows))]
            counts[image] -= 1
            if not windows:
                del self._known[image]


def _window_of(detail: Detail, embedding: Embedding, picture: SmallPicture) -> Window:
    scale_x, scale_y = picture.columns / embedding.width, picture.rows / embedding.height
    left, top, right, bottom = (
        np.rint(np.array(detail.window) * (scale_x, scale_y, scale_x, scale_y)).astype(int).tolist()
    )
    return Window(left, top, right, bottom, scale_x, scale_y)
