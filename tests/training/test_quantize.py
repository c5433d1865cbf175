from pathlib import Path

import onnx
import pytest
from training.quantize import feature_nodes

EXACT = Path(__file__).parents[2] / "training" / "exact"


@pytest.mark.parametrize(
    ("role", "rounded", "exact"),
    [
        ("encoder", {"/encoder/fuse16/fuse16.0/Conv"}, {"/encoder/backbone/_conv_stem/Conv", "/encoder/colours/Conv"}),
        ("decoder", {"/body8/first/first.0/Conv", "/body8/Add", "/Add_3"}, {"/out/Conv", "/Add", "/attention/Add"}),
    ],
)
def test_feature_maps_are_rounded_and_nothing_else(role: str, rounded: set[str], exact: set[str]) -> None:
    """Convolutions and what adds their results; not the first and the last ones, coordinates and attention."""
    graph = onnx.load(EXACT / f"{role}.onnx").graph
    names = {node.name for node in graph.node}
    found = set(feature_nodes(graph))
    assert (rounded | exact) <= names
    assert rounded <= found
    assert found.isdisjoint(exact)
