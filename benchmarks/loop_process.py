"""The server that everybody writes: segment-anything's ONNX example behind FastAPI, in one process.

``python loop_process.py PORT ENCODER DECODER``. It remembers the last photo's embedding, as ``SamPredictor`` does.
"""

import base64
import hashlib
import io
import sys
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

SIDE: Final = 1024
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
Array = npt.NDArray[Any]


class Clicks(BaseModel):
    """What a person clicked on, as osam's clients write it."""

    points: list[tuple[float, float]]
    point_labels: list[int]


class Ask(BaseModel):
    """A photo in base64, and clicks."""

    image: str
    prompt: Clicks


class Segmenter:
    """Both graphs, with ONNX Runtime's defaults; one request at a time, as the last photo is shared."""

    def __init__(self, encoder: str, decoder: str) -> None:
        self._encoder, self._decoder = (
            ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (encoder, decoder)
        )
        self._lock = threading.Lock()
        self._known = b""
        self._embedding: Array = np.empty(0)
        self._size = (0, 0)

    def segment(self, ask: Ask) -> bytes:
        """The mask as PNG."""
        data = base64.b64decode(ask.image)
        with self._lock:
            self._set_image(data)
            mask = self._predict(ask.prompt)
        written = io.BytesIO()
        Image.fromarray(mask.view(np.uint8) * np.uint8(255)).save(written, "PNG")
        return written.getvalue()

    def _set_image(self, data: bytes) -> None:
        digest = hashlib.sha256(data).digest()
        if digest == self._known:
            return
        photo = Image.open(io.BytesIO(data)).convert("RGB")
        scale = SIDE / max(photo.size)
        columns, rows = (round(side * scale) for side in photo.size)
        small = np.asarray(photo.resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
        pixels = np.zeros((1, 3, SIDE, SIDE), np.float32)
        pixels[0, :, :rows, :columns] = ((small - MEAN) / STD).transpose(2, 0, 1)
        self._embedding = self._encoder.run(None, {self._encoder.get_inputs()[0].name: pixels})[0]
        self._size, self._known = (photo.height, photo.width), digest

    def _predict(self, prompt: Clicks) -> npt.NDArray[np.bool_]:
        """The decoder as exported, with masks of the photo's size."""
        coordinates = np.array([[*prompt.points, (0, 0)]], np.float32) * np.float32(SIDE / max(self._size))
        masks, *_ = self._decoder.run(
            None,
            {
                "image_embeddings": self._embedding,
                "point_coords": coordinates,
                "point_labels": np.array([[*prompt.point_labels, -1]], np.float32),
                "mask_input": np.zeros((1, 1, 256, 256), np.float32),
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.array(self._size, np.float32),
            },
        )
        return np.asarray(masks[0, 0] > 0)


def main() -> None:
    """Serve until stopped."""
    port, encoder, decoder = sys.argv[1:]
    segmenter = Segmenter(encoder, decoder)
    app = FastAPI()

    @app.post("/api/generate")
    def generate(ask: Ask) -> dict[str, str]:
        return {"mask": base64.b64encode(segmenter.segment(ask)).decode("ascii")}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
