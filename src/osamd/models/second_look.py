"""The built-in network's second look at what is small: a window of the image, encoded as if it were one.

The network works at a few hundred pixels a side however large the image is. Around a small box, a window of the picture
kept in the embedding shows it more of them. Later clicks continue in the same window.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from osamd.pixels.windows import Window, cut, onto_image, window_around
from osamd.types import ByteArray, Candidate, Detail, Embedding, MaskLogits, Prompt, SmallPicture

# Of the image: a window that covers more shows little that is new.
MOST_SHARE: Final = 0.35
# Encoded windows that are remembered, of all images together; 4 MB each.
MOST_WINDOWS: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A window of an image, and how to ask about it.

    Attributes:
        embedding: the window, encoded as an image of its own.
        prompt: in the window's pixels.
        mask_input: the mask to refine in the window, or None.
        window: where it is.
        picture: of which it is a part.
    """

    embedding: Embedding
    prompt: Prompt
    mask_input: MaskLogits | None
    window: Window
    picture: SmallPicture

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
        encode: encodes the pixels of a window, (h, w, 3) uint8 RGB.
    """

    def __init__(self, encode: Callable[[ByteArray], Embedding]) -> None:
        self._encode = encode
        self._lock = threading.Lock()
        # By embedding the last window, so that it goes with the image; the least recently used first.
        self._known: WeakKeyDictionary[Embedding, tuple[Window, Embedding]] = WeakKeyDictionary()

    def look(self, embedding: Embedding, prompt: Prompt, mask_input: MaskLogits | None) -> Look | None:
        """The window in which to answer a prompt; None if that is the whole image.

        A small box has a window, and a mask found in a window keeps it, as long as no click is outside.

        Raises:
            InferenceError: the model failed.
        """
        picture = embedding.picture
        if picture is None:
            return None
        window = _window(embedding, picture, prompt, mask_input)
        if window is None or not window.contains(prompt):
            return None
        detail = None if mask_input is None else mask_input.detail
        refined = None
        if detail is not None:
            rows, columns = detail.values.shape
            refined = MaskLogits(detail.values, valid_height=rows, valid_width=columns)
        inner = self._encoded(embedding, picture, window)
        return Look(inner, window.prompt(prompt), refined, window, picture)

    def _encoded(self, embedding: Embedding, picture: SmallPicture, window: Window) -> Embedding:
        with self._lock:
            known = self._known.get(embedding)
            if known is not None and known[0] == window:
                self._put(embedding, known)
                return known[1]
        inner = self._encode(cut(picture, window))
        with self._lock:
            self._put(embedding, (window, inner))
            while len(self._known) > MOST_WINDOWS:
                del self._known[next(iter(self._known))]
        return inner

    def _put(self, embedding: Embedding, encoded: tuple[Window, Embedding]) -> None:
        """Remember a window as the last one used. Call with the lock held."""
        self._known.pop(embedding, None)
        self._known[embedding] = encoded


def _window(
    embedding: Embedding, picture: SmallPicture, prompt: Prompt, mask_input: MaskLogits | None
) -> Window | None:
    height, width = embedding.height, embedding.width
    scale_x, scale_y = picture.columns / width, picture.rows / height
    if mask_input is not None:
        if mask_input.detail is None:
            return None
        left, top, right, bottom = (
            np.rint(np.array(mask_input.detail.window) * (scale_x, scale_y, scale_x, scale_y)).astype(int).tolist()
        )
        return Window(left, top, right, bottom, scale_x, scale_y)
    if not len(prompt.boxes):
        return None
    window = window_around(prompt.boxes[0], picture, height=height, width=width)
    area = (window.right - window.left) * (window.bottom - window.top)
    return window if area < MOST_SHARE * picture.rows * picture.columns else None
