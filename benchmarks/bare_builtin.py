"""The built-in model without a server: its own adapter in a plain loop, in the process that measures."""

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from osamd.models.builtin import Builtin
from osamd.runtime.sessions import Placement
from osamd.types import Candidate, Embedding, Prepared, Prompt

NETWORK = Path(str(resources.files("osamd.models") / "builtin_net"))


@dataclass
class BareBuiltin:
    """Encoder and decoder.

    Attributes:
        threads: of each run.
    """

    threads: int
    _adapter: Builtin = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Load both graphs."""
        paths = {role: NETWORK / f"{role}.onnx" for role in ("encoder", "decoder")}
        self._adapter = Builtin(paths, Placement(("CPUExecutionProvider",), threads=self.threads))

    def prepare(self, jpeg: bytes) -> tuple[Prepared, tuple[int, int]]:
        """The encoder's input, and the photo's rows and columns."""
        pixels = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB))
        return self._adapter.prepare(pixels), (pixels.shape[0], pixels.shape[1])

    def encode(self, prepared: Prepared) -> Embedding:
        """The embedding."""
        return self._adapter.encode(prepared)

    def decode_low(self, embedding: Embedding, point: tuple[int, int], size: tuple[int, int]) -> Candidate:
        """The mask for a first click, at the model's resolution; the size is in the embedding."""
        del size
        prompt = Prompt(points=np.array([point], np.float32), point_labels=np.ones(1, np.int64))
        return self._adapter.decode(embedding, prompt, mask_input=None, multimask=False)[0]
