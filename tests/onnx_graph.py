"""Build ONNX graphs node by node."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
FLOAT, INT64, BOOL, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8
DTYPES: Mapping[Any, Any] = {np.dtype("float64"): np.float32, np.dtype("int32"): np.int64}

Shape = Sequence[int | str]


def floats(*values: float) -> npt.NDArray[np.float32]:
    """A float32 vector."""
    return np.array(values, np.float32)


class Graph:
    """Collects nodes; every method returns the name of a value."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._count = 0

    def op(self, kind: str, *inputs: str | Any, name: str | None = None, **attributes: Any) -> str:
        """A node with one output; inputs that are not names become constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = name or self._name(kind)
        self._nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        """A constant: float32 or int64 unless it is an array of another type."""
        array = np.asarray(value)
        array = array.astype(DTYPES.get(array.dtype, array.dtype))
        name = self._name("constant")
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def save(
        self,
        path: Path,
        inputs: Mapping[str, tuple[int, Shape]],
        outputs: Mapping[str, tuple[int, Shape]],
    ) -> Path:
        """Check the graph and write it."""
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))
        return path

    def resize(self, values: str, sizes: str | Any, name: str | None = None) -> str:
        """PyTorch's bilinear ``interpolate``; ``sizes`` are the four of the result, int64."""
        return self.op("Resize", values, "", "", sizes, name=name, mode="linear")

    def channels(self, image: str, count: int, name: str | None = None) -> str:
        """``count`` different mixtures of three colour planes."""
        mixture = np.cos(np.arange(count)[:, None] * 0.7 + np.arange(3) * 2.1).reshape(count, 3, 1, 1)
        return self.op("Conv", image, mixture.astype(np.float32), name=name)

    def pool(self, image: str, stride: int) -> str:
        """Means over squares."""
        return self.op("AveragePool", image, kernel_shape=[stride, stride], strides=[stride, stride])

    def total(self, values: str, *axes: int) -> str:
        """The sum over axes, which stay as 1."""
        return self.op("ReduceSum", values, list(axes), keepdims=1)

    def mixed(self, features: str, count: int) -> str:
        """One plane in -1..1 of (1, count, h, w)."""
        weights = np.sin(np.arange(count) + 1.0).reshape(1, count, 1, 1) / np.sqrt(count)
        return self.op("Tanh", self.total(self.op("Mul", features, weights), 1))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"
