"""A model without weights that a test can watch, hold up and make fail."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from waiting import WAIT_S

from osamd.models.base import Shape
from osamd.pixels.mask_pictures import MaskFrame
from osamd.types import ByteArray, Candidate, Capabilities, Embedding, MaskLogits, Prepared, Prompt

# How far a fake mask reaches from its click on each side, for the first, second and third candidate.
REACHES = (2, 4, 6)
SCORES = (0.9, 0.6, 0.3)


def nothing(_: object) -> None:
    """The hook that does nothing."""


@dataclass
class FakeModel:
    """An adapter whose masks are squares around the clicks, boxes as they are given, and a mask to refine beneath both.

    Attributes:
        capabilities: what it claims to take.
        device: where it claims to run.
        shapes: of its embedding's features, by name.
        on_prepare: called with each image on the worker thread, before anything else; may wait or raise.
        on_encode: the same when it is encoded.
        on_decode: the same for each prompt.
        candidates: answers every prompt with these when set.
        encoded: sizes of the images encoded, as (height, width).
        decoded: the prompts decoded, each with its mask to refine and whether several candidates were wanted.
    """

    capabilities: Capabilities = field(
        default_factory=lambda: Capabilities(points=True, boxes=1, mask_input=True, multimask=True)
    )
    device: str = "fake"
    shapes: Mapping[str, Shape] = field(default_factory=lambda: {"image": (1, 3, "height", "width")})
    on_prepare: Callable[[ByteArray], None] = nothing
    on_encode: Callable[[ByteArray], None] = nothing
    on_decode: Callable[[Prompt], None] = nothing
    candidates: list[Candidate] | None = None
    encoded: list[tuple[int, int]] = field(default_factory=list)
    decoded: list[tuple[Prompt, MaskLogits | None, bool]] = field(default_factory=list)

    def feature_shapes(self, *, height: int, width: int) -> Mapping[str, Shape]:
        """The same for every image."""
        del height, width
        return self.shapes

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """One click in the middle."""
        return click(width // 2, height // 2)

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """All of the image."""
        return height, width

    def mask_frame(self, *, height: int, width: int) -> MaskFrame | None:
        """The image itself."""
        return MaskFrame(height, width, float(height), float(width)) if self.capabilities.mask_input else None

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """The image itself."""
        self.on_prepare(image)
        height, width = size or image.shape[:2]
        return Prepared(height=height, width=width, inputs={"image": image})

    def encode(self, prepared: Prepared) -> Embedding:
        """The image itself as the one feature."""
        image = prepared.inputs["image"]
        self.on_encode(image)
        self.encoded.append((prepared.height, prepared.width))
        features = {"image": image.astype(np.float32).transpose(2, 0, 1)[None]}
        return Embedding(height=prepared.height, width=prepared.width, features=features)

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """Squares around foreground clicks, without those around background clicks; three sizes of them on demand."""
        self.on_decode(prompt)
        self.decoded.append((prompt, mask_input, multimask))
        if self.candidates is not None:
            return self.candidates
        count = 3 if multimask else 1
        return [
            Candidate(logits=_logits(embedding, prompt, mask_input, reach), score=score)
            for reach, score in zip(REACHES[:count], SCORES, strict=False)
        ]


def _logits(embedding: Embedding, prompt: Prompt, mask_input: MaskLogits | None, reach: int) -> MaskLogits:
    height, width = embedding.height, embedding.width
    values = np.full((height, width), -1.0, np.float32) if mask_input is None else mask_input.values.copy()
    for x1, y1, x2, y2 in prompt.boxes.astype(int).tolist():
        values[y1 : y2 + 1, x1 : x2 + 1] = 1.0
    for (x, y), label in zip(prompt.points.astype(int).tolist(), prompt.point_labels.tolist(), strict=True):
        values[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = 1.0 if label else -1.0
    return MaskLogits(values=values, valid_height=float(height), valid_width=float(width))


def click(x: float, y: float, label: int = 1) -> Prompt:
    """A prompt of one point."""
    return Prompt(points=np.array([[x, y]], np.float32), point_labels=np.array([label], np.int64))


class Gate:
    """A hook that holds up a worker until the test opens it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, _: object) -> None:
        """Tell the test that the worker is here, and wait."""
        self.reached.set()
        if not self._opened.wait(WAIT_S):
            raise RuntimeError("nobody opened the gate")

    def open(self) -> None:
        """Let this worker, and everyone who comes later, go on."""
        self._opened.set()
