"""Exact graphs as a network that can be trained on: what ``export`` and ``answering`` did, undone.

Normalisation was folded into the convolutions and cannot be told apart again, so it comes back as the identity with a
bias. It has to stay in evaluation mode: statistics of a batch would undo what the weights have learned.
"""

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from training.network import Decoder, Encoder

ROLES: Final = ("encoder", "decoder")
# Which normalisation of a block follows which convolution; elsewhere it is the next layer of the same sequence.
NORM_AFTER: Final = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
# Convolutions that ``answering`` divided: their parts in the order of the input's channels, and the one with the bias.
DIVIDED: Final = {
    "merge4": (("decoder", "merge4"), ("encoder", "merge4")),
    "merge8": (("decoder", "merge8"), ("encoder", "merge8"), ("decoder", "merge8_alike")),
    "merge16": (("decoder", "merge16"), ("encoder", "merge16")),
}
# Convolutions that ``answering`` took out of their sequences.
MOVED: Final = ("up16", "up8", "up4")


def restore(graphs: Path) -> tuple[Encoder, Decoder]:
    """The network of a folder with ``encoder.onnx`` and ``decoder.onnx``, up to the half precision of their weights.

    Raises:
        ValueError: the graphs are of another architecture.
    """
    found = {role: _weights(graphs / f"{role}.onnx") for role in ROLES}
    for name, parts in DIVIDED.items():
        pieces = [found[role].pop(part) for role, part in parts]
        found["decoder"][f"{name}.0"] = torch.cat([weight for weight, _ in pieces], 1), pieces[0][1]
    for name in MOVED:
        found["decoder"][f"{name}.0"] = found["decoder"].pop(name)
    encoder, decoder = Encoder(), Decoder()
    networks: tuple[tuple[str, nn.Module], ...] = ("encoder", encoder), ("decoder", decoder)
    for role, network in networks:
        _fill(network, {path.removeprefix("encoder."): values for path, values in found[role].items()})
    return encoder.eval(), decoder.eval()


def digest(graphs: Path) -> str:
    """SHA-256 in hexadecimal of a folder's encoder and decoder, one after the other."""
    return hashlib.sha256(b"".join((graphs / f"{role}.onnx").read_bytes() for role in ROLES)).hexdigest()


def keep_norms(network: nn.Module) -> None:
    """Leave normalisation in evaluation mode, while the rest trains."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _fill(network: nn.Module, weights: dict[str, tuple[Tensor, Tensor | None]]) -> None:
    """Give each layer its weight and bias, or the bias to the normalisation after it."""
    layers = dict(network.named_modules())
    holders = {path for path, layer in layers.items() if isinstance(layer, nn.Conv2d | nn.Linear | nn.LayerNorm)}
    if holders != set(weights):
        raise ValueError(f"the graph's layers differ from the network's: {sorted(holders ^ set(weights))[:3]}")
    with torch.no_grad():
        for path, (weight, bias) in weights.items():
            layer = layers[path]
            layer.weight.copy_(weight)
            norm = layers.get(_norm_after(path))
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
                norm.weight.fill_(1)
                norm.bias.copy_(bias)
            else:
                layer.bias.copy_(bias)


def _norm_after(path: str) -> str:
    """The name of the layer that normalises what a convolution gives."""
    parent, _, name = path.rpartition(".")
    following = NORM_AFTER.get(name) or (str(int(name) + 1) if name.isdigit() else "")
    return f"{parent}.{following}" if parent else following


def _weights(file: Path) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Weight and bias of each layer of a graph, by the layer's name."""
    graph = onnx.load(file).graph
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    names = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    biases = {name.removesuffix("_half").removesuffix(".bias").removeprefix("decoder."): value
              for name, value in values.items() if name.removesuffix("_half").endswith(".bias")}  # fmt: skip
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for node in graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul", "LayerNormalization"}:
            continue
        given = [values[name] for name in (names.get(item, item) for item in node.input) if name in values]
        if not given:
            continue
        path = _path(node.name)
        weight = given[0].T if node.op_type == "MatMul" else given[0]
        bias = given[1] if len(given) > 1 else biases.get(path)
        found[path] = _tensor(weight), None if bias is None else _tensor(bias)
    return found


def _path(node: str) -> str:
    """``/body8/first/first.0/Conv`` to ``body8.first.0``."""
    parts = node.strip("/").split("/")[:-1]
    kept = [
        part for part, following in zip(parts, [*parts[1:], ""], strict=True) if not following.startswith(f"{part}.")
    ]
    return ".".join(kept)


def _tensor(values: "np.ndarray[tuple[int, ...], np.dtype[np.floating]]") -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))
