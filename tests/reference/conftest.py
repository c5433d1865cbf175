"""SAM ViT-B from its authors' package, with random weights, exported by their exporter and served by a real server.

Opt-in (``make test-reference``): needs PyTorch, the package segment-anything-py and two gigabytes of memory. No
weights are downloaded: what is compared is everything around them.
"""

import copy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serving import KEY, RunningServer, run_server

from osamd.pixels.images import decode_image
from osamd.types import ByteArray

OPSET = 17


def _box_area(boxes: Any) -> Any:
    """Areas of (N, 4) boxes."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _batched_nms(boxes: Any, scores: Any, _: Any, iou_threshold: float) -> Any:
    """Non-maximum suppression, as torchvision documents it; all boxes are of one category here."""
    import torch  # noqa: PLC0415

    kept: list[int] = []
    areas = _box_area(boxes)
    for index in torch.argsort(scores, descending=True, stable=True).tolist():
        low = torch.maximum(boxes[kept, :2], boxes[index, :2])
        high = torch.minimum(boxes[kept, 2:], boxes[index, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        if not (shared / (areas[kept] + areas[index] - shared) > iou_threshold).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


def _stand_in_for_torchvision() -> None:
    """The functions of torchvision that the package uses, as torchvision has them for pictures of PIL."""
    try:
        import torchvision  # noqa: F401, PLC0415
    except ImportError:
        names = ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms")
        modules = {name: types.ModuleType(name) for name in (*names, "torchvision.transforms.functional")}
        functional: Any = modules["torchvision.transforms.functional"]
        functional.to_pil_image = Image.fromarray
        functional.resize = lambda picture, size: picture.resize(size[::-1], Image.Resampling.BILINEAR)
        boxes: Any = modules["torchvision.ops.boxes"]
        boxes.batched_nms, boxes.box_area = _batched_nms, _box_area
        sys.modules.update(modules)


@pytest.fixture(scope="session")
def authors() -> Any:
    """Their model, on the CPU."""
    torch = pytest.importorskip("torch")
    _stand_in_for_torchvision()
    registry = pytest.importorskip("segment_anything").sam_model_registry
    # Of the seeds tried, the one whose masks are neither nearly empty nor nearly full for all prompts.
    torch.manual_seed(1)
    model = registry["vit_b"]().eval()
    with torch.no_grad():
        for layer in model.mask_decoder.output_upscaling:
            # Random kernels would draw a chequerboard that is all border; even ones leave the picture's own shapes.
            if isinstance(layer, torch.nn.ConvTranspose2d):
                layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight))
    return model


@pytest.fixture(scope="session")
def local_authors(authors: Any) -> Any:
    """The same model with masks near their clicks, as trained ones are; with random weights all cover the picture.

    A pixel attends to the click by how near it is: queries and keys are made by the same weights, and the encoding of
    positions varies slowly.
    """
    import torch  # noqa: PLC0415

    model = copy.deepcopy(authors)
    with torch.no_grad():
        model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(0.3)
        for layer in model.mask_decoder.transformer.layers:
            attention = layer.cross_attn_image_to_token
            attention.q_proj.weight.mul_(2)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.q_proj.bias.zero_()
            attention.k_proj.bias.zero_()
            attention.v_proj.weight.mul_(2.7)
    return model


@pytest.fixture(scope="session")
def predictor(authors: Any, picture: ByteArray) -> Any:
    """Their predictor, with the picture set."""
    from segment_anything import SamPredictor  # noqa: PLC0415

    made = SamPredictor(authors)
    made.set_image(picture)
    return made


@pytest.fixture(scope="session")
def picture(photo: bytes) -> ByteArray:
    """The example photo's pixels, (300, 451, 3) uint8."""
    return decode_image(photo, max_pixels=10**7).pixels


@pytest.fixture(scope="session")
def graphs(authors: Any, local_authors: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The encoder, the decoder as ``export_onnx_model.py --return-single-mask`` writes it, and one of three masks."""
    import torch  # noqa: PLC0415
    from segment_anything.utils.onnx import SamOnnxModel  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("reference")
    paths = {name: folder / f"{name}.onnx" for name in ("encoder", "decoder", "three")}
    _export(
        authors.image_encoder,
        (torch.zeros(1, 3, 1024, 1024),),
        paths["encoder"],
        inputs=["x"],
        outputs=["image_embeddings"],
        axes={},
    )
    example = {
        "image_embeddings": torch.randn(1, 256, 64, 64),
        "point_coords": torch.randint(0, 1024, (1, 5, 2)).float(),
        "point_labels": torch.randint(0, 4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, 256, 256),
        "has_mask_input": torch.tensor([1.0]),
        "orig_im_size": torch.tensor([1500.0, 2250.0]),
    }

    # PyTorch is not installed where types are checked.
    class Three(torch.nn.Module):  # type: ignore[misc]
        """The three masks of an ambiguous click, without the one that is meant for clear prompts."""

        def __init__(self) -> None:
            super().__init__()
            self.all = SamOnnxModel(local_authors, return_single_mask=False)

        def forward(self, *inputs: Any) -> Any:
            return tuple(values[:, 1:] for values in self.all(*inputs))

    for name, module in (("decoder", SamOnnxModel(authors, return_single_mask=True)), ("three", Three())):
        _export(
            module,
            tuple(example.values()),
            paths[name],
            inputs=list(example),
            outputs=["masks", "iou_predictions", "low_res_masks"],
            axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        )
    return paths


def _export(
    module: Any,
    example: tuple[Any, ...],
    path: Path,
    *,
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> None:
    import torch  # noqa: PLC0415

    with torch.no_grad():
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


@pytest.fixture(scope="session")
def reference_server(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with that model as ``sam-authors``, and with three masks a click as ``sam-three``, as users' rows."""
    folder = tmp_path_factory.mktemp("served")
    rows = []
    for name, decoder in (("sam-authors", "decoder"), ("sam-three", "three")):
        rows.append(f'[[model]]\nname = "{name}"\nfamily = "sam"\n')
        for role, graph in (("encoder", "encoder"), ("decoder", decoder)):
            rows.append(f'[model.blobs.{role}]\nurl = "{graphs[graph].as_uri()}"\n')
    catalog = folder / "models.toml"
    catalog.write_text("".join(rows), "utf-8")
    env = {"API_KEY": KEY, "OSAMD_CATALOG": str(catalog), "OSAMD_DEVICE": "cpu", "OSAMD_DEADLINE_S": "1200"}
    with run_server(cache=folder, env=env) as running:
        yield running
