"""Graphs that compute convolutions in int8: ``python -m training.quantize EXACT FOLDER GRAPHS``.

Static quantization after training (Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", 2018), by ONNX Runtime's own tool. Weights are int8, symmetric, with a scale for
each output channel; activations are uint8, with the ranges that they have on scenes of training. Everything that is not
a feature map stays float32: coordinates of clicks, similarities, attention, predicted IoU. So do the last convolutions
before the outputs, and the first ones after the photo, which gain no speed from int8 and cause two fifths of the
difference between exact and quantized masks.

Processors without VNNI add pairs of products in 16 bits, where the sum of two products of 8-bit numbers can overflow.
So weights use only 7 bits, but for those of depthwise convolutions, which are computed differently.

The encoder rounds its outputs to half precision, in which embeddings are stored and sent. Otherwise the decoder, which
rounds its inputs again, would amplify the loss, and a mask would depend on where its embedding has been.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from osamd.models.builtin_tensors import FEATURES, MEAN, SCALE
from training.library import Library
from training.prompts import correct, first_prompt, packed
from training.scenes import SceneMaker

Feeds = dict[str, Any]

SEED: Final = 22
SCENES: Final = 48
TARGETS: Final = 2
# About the two working areas, in several shapes, (rows, columns).
SIZES: Final = ((320, 320), (256, 384), (384, 256), (448, 448), (384, 512), (512, 384))
# Feature maps that a graph takes as inputs; ``e`` is none, since its similarities need float32.
TAKEN: Final = FEATURES[:3]
# Parts of the names of what reads the photo's own pixels, and of the first block after it.
FIRST: Final = ("/_conv_stem/", "/_blocks.0/", "/colours/")
# What is computed on int8 feature maps as well.
FOLLOWING: Final = ("Add", "Clip", "Concat", "Relu", "Resize")


def quantize(exact: Path, folder: Path, graphs: Path) -> None:
    """Write ``encoder.onnx`` and ``decoder.onnx``.

    Args:
        exact: a folder with the two exact graphs.
        folder: what ``training.prepare`` filled.
        graphs: where to write.
    """
    graphs.mkdir(parents=True, exist_ok=True)
    encoded, decoded = _calibration(exact, Library.load(folder))
    _quantize(exact / "encoder.onnx", encoded, graphs / "encoder.onnx")
    _quantize(exact / "decoder.onnx", decoded, graphs / "decoder.onnx")


def feature_nodes(graph: onnx.GraphProto) -> list[str]:
    """The names of the nodes to compute in int8: convolutions, and what follows them on feature maps alone."""
    constants = {item.name for item in graph.initializer}
    constants |= {output for node in graph.node if node.op_type == "Constant" for output in node.output}
    last = {item.name for item in graph.output}
    maps, names = set(TAKEN), []
    for node in graph.node:
        given = [name for name in node.input if name and name not in constants]
        follows = node.op_type in FOLLOWING and all(name in maps for name in given)
        is_inner = node.op_type == "Conv" and last.isdisjoint(node.output)
        if (follows or is_inner) and not any(part in node.name for part in FIRST):
            maps.update(node.output)
            names.append(node.name)
    return names


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: list[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def _calibration(exact: Path, library: Library) -> tuple[list[Feeds], list[Feeds]]:
    """Inputs of the encoder, and of the decoder: first prompts, and corrections with the answers so far."""
    encoder, decoder = (_session(exact / f"{role}.onnx") for role in ("encoder", "decoder"))
    encoded: list[Feeds] = []
    decoded: list[Feeds] = []
    for image, shown, rng in _scenes(library):
        pixels = ((image.astype(np.float32) - MEAN) / SCALE).transpose(2, 0, 1)[None]
        encoded.append({"x": np.ascontiguousarray(pixels)})
        embedding = dict(zip(FEATURES, encoder.run(FEATURES, encoded[-1]), strict=True))
        for truth in shown:
            clicks, box = first_prompt(truth, rng)
            previous = np.zeros_like(box)
            for _ in range(3):
                maps = np.stack([box, previous])[None]
                decoded.append({**embedding, "pts": packed([clicks]), "maps": maps})
                (logits,) = decoder.run(["logits"], decoded[-1])
                previous = 1 / (1 + np.exp(-logits[0, 0]))
                clicks = correct(truth, logits[0, 0] > 0, clicks, rng)
    return encoded, decoded


def _scenes(library: Library) -> Iterator[tuple[Any, list[Any], np.random.Generator]]:
    """Images, masks of some targets at a quarter of their size, and the generator that draws their prompts."""
    rng = np.random.default_rng(SEED)
    maker = SceneMaker(library, rng)
    for number in range(SCENES):
        scene = maker.make(*SIZES[number % len(SIZES)])
        chosen = rng.permutation(len(scene.targets))[:TARGETS]
        yield scene.image, [scene.mask(scene.targets[index])[2::4, 2::4] for index in chosen], rng


def _session(path: Path, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _fold_casts(exact: Path, path: Path) -> None:
    """Write the graph without casts of weights in half precision, which ONNX Runtime's tool does not look through."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    _session(exact, options)


def _quantize(exact: Path, feeds: list[Feeds], path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        _fold_casts(exact, plain)
        graph = onnx.load(plain).graph
        quantize_static(
            plain,
            path,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["Conv", *FOLLOWING],
            nodes_to_quantize=feature_nodes(graph),
            extra_options={"TensorQuantOverrides": _depthwise_in_eight_bits(graph)},
        )
    model = onnx.load(path)
    _round_features(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _round_features(graph: onnx.GraphProto) -> None:
    """Round outputs that are feature maps to half precision; they stay float32."""
    for output in graph.output:
        if output.name in FEATURES:
            node = next(node for node in graph.node if output.name in node.output)
            exact, half = f"{output.name}_exact", f"{output.name}_half"
            node.output[list(node.output).index(output.name)] = exact
            graph.node.append(helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16))
            graph.node.append(helper.make_node("Cast", [half], [output.name], to=TensorProto.FLOAT))


def _depthwise_in_eight_bits(graph: onnx.GraphProto) -> dict[str, list[dict[str, Any]]]:
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    weights = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    eight = {"quant_type": QuantType.QInt8, "axis": 0, "symmetric": True, "reduce_range": False}
    return {name: [eight] for name in weights if values[name].shape[1] == 1}


def main() -> None:
    """Quantize two graphs."""
    parser = argparse.ArgumentParser(description="Quantize the built-in network's convolutions to int8.")
    parser.add_argument("exact", type=Path, help="a folder with the exact encoder.onnx and decoder.onnx")
    parser.add_argument("folder", type=Path, help="what training.prepare filled")
    parser.add_argument("graphs", type=Path, help="where to write the quantized ones")
    arguments = parser.parse_args()
    quantize(arguments.exact, arguments.folder, arguments.graphs)


if __name__ == "__main__":
    main()
