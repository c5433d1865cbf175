from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import write_family

from osamd.errors import InferenceError, ModelLoadError
from osamd.library.catalog import Blob, Model
from osamd.library.families import FAMILIES
from osamd.models import build_model
from osamd.runtime.sessions import Placement, Session

HERE = Placement(("CPUExecutionProvider",), 1)
Change = Callable[[onnx.ModelProto], None]


def load(family: str, paths: Mapping[str, Path]) -> object:
    """The family's adapter over these files."""
    return build_model(
        Model("mine:latest", family, {role: Blob(p.as_uri(), "") for role, p in paths.items()}), dict(paths), HERE
    )


def value(graph: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """An input or output by its name."""
    found: list[onnx.ValueInfoProto] = [*graph.graph.input, *graph.graph.output]
    return next(item for item in found if item.name == name)


def rename(old: str, new: str) -> Change:
    """Another name for an input or output."""

    def change(graph: onnx.ModelProto) -> None:
        value(graph, old).name = new
        for node in graph.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return change


def shape(name: str, *sizes: int | str) -> Change:
    """Another shape of an input or output. The graph need not work any more, only load."""

    def change(graph: onnx.ModelProto) -> None:
        kind = value(graph, name).type.tensor_type.elem_type
        value(graph, name).CopyFrom(onnx.helper.make_tensor_value_info(name, kind, sizes))

    return change


def through(name: str, kind: str, **attributes: Any) -> Change:
    """An output that another operator changes at the end."""

    def change(graph: onnx.ModelProto) -> None:
        for node in graph.graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{name}_before" if one == name else one for one in names]
        graph.graph.node.append(onnx.helper.make_node(kind, [f"{name}_before"], [name], **attributes))
        value(graph, name).type.tensor_type.ClearField("shape")

    return change


def more(name: str) -> Change:
    """An input that the adapter knows nothing of."""
    return lambda graph: graph.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "builtin"])
def test_graphs_as_the_families_have_them(family: str, tmp_path: Path) -> None:
    """What the models' own exporters write is accepted."""
    load(family, write_family(family, tmp_path))


@pytest.mark.parametrize(
    ("family", "role", "change", "words"),
    [
        (
            "sam",
            "encoder",
            rename("x", "pixels"),
            r"expected an input x, float \(1, 3, 1024, 1024\); its inputs are: pixels",
        ),
        ("sam", "decoder", rename("point_coords", "points"), r"expected an input point_coords, float \(1, N, 2\)"),
        ("sam", "decoder", more("dense"), "also has dense"),
        ("sam", "decoder", shape("point_labels", 1, 5), r"point_labels to be float \(1, N\); it is float \(1, 5\)"),
        (
            "sam",
            "encoder",
            through("features", "AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
            r"features to be \(1, 256, 64, 64\); it is \(1, 256, 32, 32\)",
        ),
        (
            "sam",
            "decoder",
            through("low", "Flatten", axis=2),
            r"low to be \(1, M, rows, columns\); it is \(1, 65536\)",
        ),
        ("sam2", "decoder", rename("orig_im_size", "size"), r"expected an input orig_im_size, int64 \(2,\)"),
        ("efficientsam", "encoder", shape("batched_images", 1, 3, 512, 512), r"it is float \(1, 3, 512, 512\)"),
        ("sam3", "language_encoder", shape("tokens", 1, 77), r"tokens to be int64 \(1, 32\); it is int64 \(1, 77\)"),
        ("yoloworld", "yolo", rename("scores", "logits"), "expected an output scores"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(family: str, role: str, change: Change, words: str, tmp_path: Path) -> None:
    """A graph with other names, types, ranks or sizes does not load, and the error says what was expected."""
    paths = write_family(family, tmp_path)
    graph = onnx.load(paths[role])
    change(graph)
    paths[role].write_bytes(graph.SerializeToString())
    with pytest.raises(ModelLoadError, match=words) as caught:
        load(family, paths)
    assert str(paths[role]) in str(caught.value)


def divided(path: Path) -> Path:
    """A graph of 0 / x, which is NaN where x is 0."""
    one = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "y", "zero")]
    zero = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [4], [0.0] * 4)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Div", ["zero", "x"], ["y"])], "g", one[:1], one[1:2], [zero])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_nan_is_a_failed_inference(tmp_path: Path) -> None:
    """A value that is no number fails the run, instead of passing for a mask without pixels; infinity is a number."""
    session = Session(divided(tmp_path / "g.onnx"), HERE)
    (values,) = session.run({"x": np.array([1, 2, 3, np.inf], np.float32)})
    assert [0.0] * 4 == values.tolist()
    with pytest.raises(InferenceError, match=r"g.onnx: the output y has NaN values"):
        session.run({"x": np.array([1, 2, 0, 4], np.float32)})
