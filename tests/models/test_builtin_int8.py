"""The packaged graphs against the exact ones in ``training/exact``."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from pictures import iou
from PIL import Image
from training.evaluate import loaded, mask_of

from osamd.models.base import Adapter, encode_pixels
from osamd.types import Embedding, Prompt

ROOT = Path(__file__).parents[2]
EXACT = ROOT / "training" / "exact"
PACKAGED = ROOT / "src" / "osamd" / "models" / "builtin_net"
ROLES = ("encoder", "decoder")
# The cat's head, its body, the wall, and boxes, in a photo of 451 x 300 pixels.
PROMPTS = (
    [(225.0, 150.0, 1)],
    [(225.0, 150.0, 1), (40.0, 40.0, 0)],
    [(40.0, 40.0, 1)],
    [(40.0, 40.0, 1), (225.0, 150.0, 0), (400.0, 60.0, 1)],
)
BOXES = ((100.0, 20.0, 400.0, 299.0), (150.0, 30.0, 300.0, 180.0))


def prompts() -> list[Prompt]:
    """Clicks and boxes."""
    clicks = [
        Prompt(
            points=np.array([(x, y) for x, y, _ in some], np.float32),
            point_labels=np.array([label for _, _, label in some], np.int64),
        )
        for some in PROMPTS
    ]
    return clicks + [Prompt(boxes=np.array([box], np.float32)) for box in BOXES]


def masks(adapter: Adapter, embedding: Embedding) -> list[npt.NDArray[np.bool_]]:
    """What an adapter answers to all prompts."""
    found = (adapter.decode(embedding, prompt, mask_input=None, multimask=False)[0] for prompt in prompts())
    return [mask_of(candidate, embedding) for candidate in found]


def test_masks_are_those_of_the_exact_graphs() -> None:
    """On a real photo; a photo saved again as JPEG changes them as much."""
    photo = np.asarray(Image.open(ROOT / "examples" / "cat.jpg").convert("RGB"))
    expected, found = ([*masks(one, encode_pixels(one, photo))] for one in map(loaded, (EXACT, PACKAGED)))

    assert all(mask.any() for mask in [*expected, *found])
    ious = [iou(mask, exact) for mask, exact in zip(found, expected, strict=True)]
    assert min(ious) > 0.9
    assert np.mean(ious) > 0.95


@pytest.mark.parametrize("role", ROLES)
def test_no_sum_of_two_products_overflows(role: str) -> None:
    """Without VNNI two products are added in 16 bits; only depthwise convolutions are computed in another way."""
    graph = onnx.load(PACKAGED / f"{role}.onnx").graph
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    quantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [quantized[node.input[1]] for node in graph.node if node.op_type == "Conv" and node.input[1] in quantized]

    assert len(weights) > 15
    for name in weights:
        assert values[name].dtype == np.int8
        assert np.abs(values[name].astype(int)).max() <= (127 if values[name].shape[1] == 1 else 64)


def test_what_is_no_feature_map_stays_exact() -> None:
    """Coordinates of clicks would move by several pixels, and logits and predicted IoU would have 256 values."""
    graph = onnx.load(PACKAGED / "decoder.onnx").graph
    made_by = {output: node for node in graph.node for output in node.output}
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert len(rounded) > 20
    assert rounded.isdisjoint({"pts", "e"})
    for name in rounded & set(made_by):
        node = made_by[name]
        assert node.op_type not in {"Sub", "Pow", "Range", "Exp"}
        assert not any(made_by[given].op_type in {"Range", "Pow"} for given in node.input if given in made_by)
    for output in graph.output:
        assert made_by[output.name].op_type not in {"DequantizeLinear", "QuantizeLinear"}


def test_features_survive_half_precision() -> None:
    """So a mask does not depend on whether its embedding was on disk, or sent in the compact form."""
    photo = np.asarray(Image.open(ROOT / "examples" / "cat.jpg").convert("RGB"))
    for values in encode_pixels(loaded(PACKAGED), photo).features.values():
        np.testing.assert_array_equal(values, values.astype(np.float16).astype(np.float32))
