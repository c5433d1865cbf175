"""Write a checkpoint's averaged weights as two ONNX graphs: ``python -m training.export CHECKPOINT FOLDER``.

The graphs are those of ``answering``, which are compared with the network. Weights are stored in half precision and
cast when the graph is loaded; all is computed in float32.
"""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from training.answering import AnsweringDecoder, AnsweringEncoder
from training.network import Decoder, Encoder
from training.restored import digest, restore

OPSET: Final = 17
HALFWAY: Final = 0.5
LARGEST_DIFFERENCE: Final = 1e-2
# Smaller tensors stay as they are: shapes, and numbers that a cast would cost more than it saves.
SMALLEST_HALVED: Final = 256
INPUTS: Final = ("p4", "p8", "p16", "e", "pts", "maps")
OUTPUTS: Final = ("logits", "iou")
SIDES: Final = {"p4": ("h4", "w4"), "p8": ("h8", "w8"), "p16": ("h16", "w16"), "e": ("h8", "w8"), "maps": ("h4", "w4")}


def load(checkpoint: Path, start: Path | None = None) -> tuple[Encoder, Decoder, int]:
    """The averaged network of a checkpoint, ready to answer, and after how many steps.

    Args:
        checkpoint: what ``training.train`` left.
        start: the graphs that tuning began with. If given, weights are halfway between theirs and the tuned ones, which
            keeps more of what was known before (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).

    Raises:
        ValueError: tuning began with other weights than those of ``start``.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    encoder, decoder = Encoder(), Decoder()
    encoder.load_state_dict(state["averaged encoder"])
    decoder.load_state_dict(state["averaged decoder"])
    if start is not None:
        if state["plan"]["start"] != digest(start):
            raise ValueError(f"{checkpoint} did not begin with the weights in {start}")
        tuned: tuple[nn.Module, nn.Module] = encoder, decoder
        first: tuple[nn.Module, nn.Module] = restore(start)
        for network, before in zip(tuned, first, strict=True):
            for value, other in zip(network.state_dict().values(), before.state_dict().values(), strict=True):
                if value.dtype.is_floating_point:
                    value.lerp_(other, HALFWAY)
    return encoder.eval(), decoder.eval(), int(state["step"])


def export(checkpoint: Path, folder: Path, start: Path | None = None) -> int:
    """Write ``encoder.onnx`` and ``decoder.onnx``; after how many steps they are. ``start`` is as for ``load``."""
    encoder, decoder, steps = load(checkpoint, start)
    folder.mkdir(parents=True, exist_ok=True)
    answering = AnsweringEncoder(encoder, decoder), AnsweringDecoder(decoder)
    photo = torch.randn(1, 3, 256, 384)
    with torch.no_grad():
        embedding = answering[0](photo)
    points = torch.tensor([[[0.5, 0.5, 1.0], [0.2, 0.3, 0.0]], [[0.4, 0.7, 1.0], [0.0, 0.0, -1.0]]])
    maps = torch.rand(2, 2, 64, 96)
    sizes = {name: dict(zip((2, 3), sides, strict=True)) for name, sides in SIDES.items()}
    axes = sizes | {"pts": {0: "b", 1: "k"}, "maps": {0: "b", **sizes["maps"]}}
    files = folder / "encoder.onnx", folder / "decoder.onnx"
    _write(answering[0], (photo,), files[0], ("x",), INPUTS[:4], {"x": {2: "h", 3: "w"}})
    _write(answering[1], (*embedding, points, maps), files[1], INPUTS, OUTPUTS, axes)
    _compare(encoder, decoder, files, photo, points, maps)
    for file in files:
        model = onnx.load(file)
        _halve(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, file)
    return steps


def _write(
    network: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    path: Path,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
    axes: dict[str, dict[int, str]],
) -> None:
    torch.onnx.export(
        network.eval(),
        inputs,
        path,
        input_names=list(names),
        output_names=list(outputs),
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )


def _compare(
    encoder: Encoder,
    decoder: Decoder,
    files: tuple[Path, Path],
    photo: torch.Tensor,
    points: torch.Tensor,
    maps: torch.Tensor,
) -> None:
    """Refuse graphs that compute something else than the network."""
    sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in files]
    features = dict(zip(INPUTS, sessions[0].run(INPUTS[:4], {"x": photo.numpy()}), strict=False))
    found = sessions[1].run(OUTPUTS, {**features, "pts": points.numpy(), "maps": maps.numpy()})
    with torch.no_grad():
        embedding = encoder(photo.expand(len(points), -1, -1, -1))
        wanted = decoder(*embedding, points, maps)
    for name, one, other in zip(OUTPUTS, found, wanted, strict=True):
        difference = float(np.abs(one - other.numpy()).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(f"{files[1].name} computes {name} with a difference of {difference:.2g}")


def _halve(graph: onnx.GraphProto) -> None:
    """Store large float32 tensors in half precision, cast back before use."""
    kept, casts = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= SMALLEST_HALVED:
            half = f"{tensor.name}_half"
            kept.append(numpy_helper.from_array(values.astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [tensor.name], to=TensorProto.FLOAT))
        else:
            kept.append(tensor)
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description="Write a checkpoint as ONNX graphs.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.folder)


if __name__ == "__main__":
    main()
