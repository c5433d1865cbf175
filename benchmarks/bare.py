"""ONNX Runtime without a server, to measure the overhead of everything else."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx.utils
import onnxruntime as ort

from benchmarks.servers import EFFICIENTSAM

SIDE = 1024
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# OpenCV's fastest setting for a two-valued picture.
PNG_FLAGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
Array = npt.NDArray[Any]


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """A session on the CPU with that many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cut_decoder(path: Path, folder: Path) -> Path:
    """Write the decoder, cut off after the low-resolution masks, to ``folder``."""
    cut = folder / f"cut_{path.name}"
    if not cut.exists():
        graph = onnx.load(path).graph
        scores, low = graph.output[1].name, graph.output[2].name
        onnx.utils.extract_model(str(path), str(cut), [item.name for item in graph.input], [scores, low])
    return cut


class BareModel:
    """Both graphs of a model, in this process.

    Args:
        name: ``efficientsam:10m`` or ``sam:100m``.
        paths: files by role.
        folder: for the cut decoder.
        threads: of each run.
    """

    def __init__(self, name: str, paths: Mapping[str, Path], folder: Path, *, threads: int) -> None:
        self._is_efficientsam = name == EFFICIENTSAM
        self._encoder = open_session(paths["encoder"], threads)
        self._whole = open_session(paths["decoder"], threads)
        self._cut = open_session(cut_decoder(paths["decoder"], folder), threads)

    def prepare(self, jpeg: bytes) -> tuple[Array, tuple[int, int]]:
        """The encoder's input of 1024 x 1024, and the photo's rows and columns."""
        pixels = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB))
        height, width = pixels.shape[:2]
        if self._is_efficientsam:
            square = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
            return np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / np.float32(255), (height, width)
        scale = SIDE / max(height, width)
        rows, columns = round(height * scale), round(width * scale)
        padded = np.zeros((1, 3, SIDE, SIDE), np.float32)
        resized = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        padded[0, :, :rows, :columns] = ((resized - MEAN) / STD).transpose(2, 0, 1)
        return padded, (height, width)

    def encode(self, pixels: Array) -> Array:
        """The embedding, (1, 256, 64, 64) float32."""
        name = "batched_images" if self._is_efficientsam else "x"
        return np.asarray(self._encoder.run(None, {name: pixels})[0])

    def decode_whole(self, embedding: Array, point: tuple[int, int], size: tuple[int, int]) -> Array:
        """The mask's logits at the photo's size, from the decoder as exported."""
        return np.asarray(self._whole.run(None, self._feeds(self._whole, embedding, point, size))[0])

    def decode_low(self, embedding: Array, point: tuple[int, int], size: tuple[int, int]) -> Array:
        """The best mask's logits, (256, 256), from the cut decoder."""
        scores, low = self._cut.run(None, self._feeds(self._cut, embedding, point, size))
        best: Array = low.reshape(-1, *low.shape[-2:])[int(np.argmax(scores))]
        return best

    def mask_png(self, low: Array, size: tuple[int, int]) -> bytes:
        """The (256, 256) logits as a PNG of the photo's size."""
        height, width = size
        side = low.shape[0]
        if not self._is_efficientsam:
            low = low[: round(side * height / max(size)), : round(side * width / max(size))]
        large = cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR)
        mask = (large > 0).view(np.uint8) * np.uint8(255)
        return cv2.imencode(".png", mask, PNG_FLAGS)[1].tobytes()

    def click(self, embedding: Array, point: tuple[int, int], size: tuple[int, int]) -> bytes:
        """Cut decoder, resize, PNG."""
        return self.mask_png(self.decode_low(embedding, point, size), size)

    def _feeds(
        self, session: ort.InferenceSession, embedding: Array, point: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, Array]:
        if self._is_efficientsam:
            feeds: dict[str, Array] = {
                "image_embeddings": embedding,
                "batched_point_coords": np.array([[[point]]], np.float32),
                "batched_point_labels": np.ones((1, 1, 1), np.float32),
                "orig_im_size": np.array(size, np.int64),
            }
        else:
            scaled = [value * SIDE / max(size) for value in point]
            feeds = {
                "image_embeddings": embedding,
                "point_coords": np.array([[scaled, (0.0, 0.0)]], np.float32),
                "point_labels": np.array([[1, -1]], np.float32),
                "mask_input": np.zeros((1, 1, 256, 256), np.float32),
                "has_mask_input": np.zeros(1, np.float32),
                "orig_im_size": np.array(size, np.float32),
            }
        wanted = {item.name for item in session.get_inputs()}
        return {name: value for name, value in feeds.items() if name in wanted}


def timed(function: Any, *arguments: Any) -> tuple[float, Any]:
    """Seconds a call takes, and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result
