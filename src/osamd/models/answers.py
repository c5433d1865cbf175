"""What the built-in network answered to earlier prompts, so that one more click costs no repetition of those before."""

from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from osamd.models.builtin_tensors import THRESHOLD, HalfArray
from osamd.models.tensors import FOREGROUND
from osamd.pixels.windows import Window, box_around
from osamd.types import Embedding, Prompt

# For each image; 13 or 25 KB each.
MOST_REMEMBERED: Final = 4
# Of a mask's width and height: a foreground click farther out asks for more than what is around the mask.
REACH: Final = 0.25

Key = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The mask for a prompt, as the next pass gets it.

    Attributes:
        mask: (h, w) float16, the probability that a place belongs to the object.
        window: what the mask shows; None is the whole image.
        windows: how many windows were made for the clicks so far.
    """

    mask: HalfArray
    window: Window | None = None
    windows: int = 0

    def is_extended_by(self, prompt: Prompt) -> bool:
        """Whether the last click asks for more than a window shows: a foreground click well outside the mask's box.

        Any foreground click extends an empty mask, and none a mask of the whole image.
        """
        if self.window is None or prompt.point_labels[-1] != FOREGROUND:
            return False
        box = box_around(self.mask > THRESHOLD, height=self.window.rows, width=self.window.columns)
        if box is None:
            return True
        place = self.window.to_window(prompt.points[-1:])[0]
        # To the edges of pixels, and some of the box's size beyond.
        reach = (box[2:] - box[:2] + 1) * REACH + 0.5
        return bool((place < box[:2] - reach).any() or (place > box[2:] + reach).any())


class Answers:
    """The answers used last for each embedding, latest first, for as long as the embedding exists.

    Threads may overwrite each other's answers, which only costs time.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Embedding, tuple[tuple[Key, Answer], ...]] = WeakKeyDictionary()

    def get(self, embedding: Embedding, prompt: Prompt) -> Answer | None:
        """The answer to exactly this prompt, if it is remembered."""
        key = _key(prompt)
        answer = next((answer for known, answer in self._known.get(embedding, ()) if known == key), None)
        if answer is not None:
            # Previews of a second click at many places all begin with the first one's answer.
            self.put(embedding, prompt, answer)
        return answer

    def put(self, embedding: Embedding, prompt: Prompt, answer: Answer) -> None:
        """Remember an answer, and forget the oldest if there are too many."""
        key = _key(prompt)
        others = [item for item in self._known.get(embedding, ()) if item[0] != key]
        self._known[embedding] = ((key, answer), *others[: MOST_REMEMBERED - 1])


def _key(prompt: Prompt) -> Key:
    return prompt.points.tobytes(), prompt.point_labels.tobytes(), prompt.boxes.tobytes()
