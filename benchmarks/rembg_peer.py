"""rembg's own server with its ``sam`` session: its folder, with the files that the others get, and its requests."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

REMBG = Path(__file__).resolve().parents[1] / ".venv-tools" / "rembg" / "bin" / "rembg"
NOT_INSTALLED = "not installed (make bench-rembg)"
BOUNDARY = secrets.token_hex(16)
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
PATH = "/api/remove"
ENCODER, DECODER = "sam_vit_b_01ec64.encoder.onnx", "sam_vit_b_01ec64.decoder.onnx"
# Its encoders take a photo that fits into this, rows and columns, and do the rest in the graph.
INPUT_SIZE = (684, 1024)
SIDE = 1024
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def write_files(folder: Path, paths: Mapping[str, Path]) -> None:
    """Its folder of models: the same decoder, and the same encoder with what it expects a graph to do before."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(with_preparation(onnx.load(paths["encoder"])), folder / ENCODER)
    (folder / DECODER).symlink_to(paths["decoder"].resolve())


def with_preparation(model: onnx.ModelProto) -> onnx.ModelProto:
    """An encoder of (1, 3, 1024, 1024) that takes (684, 1024, 3) pixels, 0 to 255, and scales and pads them itself."""
    graph = model.graph
    (taken,) = graph.input
    rows, columns = INPUT_SIZE
    constants: dict[str, npt.NDArray[Any]] = {
        "rembg_mean": np.array(MEAN, np.float32),
        "rembg_std": np.array(STD, np.float32),
        "rembg_first": np.array([0], np.int64),
        "rembg_pads": np.array([0, 0, 0, 0, 0, 0, SIDE - rows, SIDE - columns], np.int64),
    }
    steps = [
        helper.make_node("Sub", ["rembg_pixels", "rembg_mean"], ["rembg_centred"]),
        helper.make_node("Div", ["rembg_centred", "rembg_std"], ["rembg_scaled"]),
        helper.make_node("Transpose", ["rembg_scaled"], ["rembg_planes"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["rembg_planes", "rembg_first"], ["rembg_batch"]),
        helper.make_node("Pad", ["rembg_batch", "rembg_pads"], [taken.name]),
    ]
    nodes = [*steps, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info("rembg_pixels", onnx.TensorProto.FLOAT, [rows, columns, 3]))
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def click_form(jpeg: bytes, point: tuple[int, int]) -> bytes:
    """A request for the mask alone: one foreground click, and the photo."""
    prompt = [{"type": "point", "data": list(point), "label": 1}]
    fields = {"model": "sam", "om": "true", "extras": json.dumps({"sam_prompt": prompt})}
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n\r\n'
    return b"".join([*parts, head.encode(), jpeg, f"\r\n--{BOUNDARY}--\r\n".encode()])
