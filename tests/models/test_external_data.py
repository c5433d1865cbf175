from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from osamd.errors import ModelLoadError
from osamd.runtime.sessions import Placement, Session

HERE = Placement(("CPUExecutionProvider",), 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A blob's folder with its weights, beside a file that is not its business, and a link to that."""
    (tmp_path / "secret").write_bytes(np.full(4, 7, np.float32).tobytes())
    blob = tmp_path / "blob"
    blob.mkdir()
    (blob / "weights").write_bytes(np.ones(4, np.float32).tobytes())
    (blob / "link").symlink_to("../secret")
    return blob


def graph(folder: Path, location: str) -> Path:
    """A graph that adds weights which lie in another file."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    whole = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_graph_are_read(folder: Path, tmp_path: Path) -> None:
    """As attachments are; also where the blob's whole folder is a link, as in a cache that is shared."""
    graph(folder, "weights")
    (tmp_path / "linked").symlink_to(folder)
    for place in (folder, tmp_path / "linked"):
        (values,) = Session(place / "graph.onnx", HERE).run({"x": np.zeros(4, np.float32)})
        assert [1.0] * 4 == values.tolist()


@pytest.mark.parametrize("location", ["../secret", "link", "absolute"])
def test_external_weights_outside_the_folder_are_refused(folder: Path, location: str) -> None:
    """A graph cannot have files outside its folder read: not above it, not by a link, not by their whole path."""
    path = graph(folder, str(folder.parent / "secret") if location == "absolute" else location)
    with pytest.raises(ModelLoadError, match="failed to load"):
        Session(path, HERE)
