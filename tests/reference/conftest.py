"""SAM ViT-B from its authors' package, with random weights, exported by their exporter and served by a real server.

Opt-in (``make test-reference``): needs PyTorch, the package segment-anything-py and two gigabytes of memory. No
weights are downloaded: what is compared is everything around them.
"""

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


def _stand_in_for_torchvision() -> None:
    """The two functions of torchvision that the package uses, as torchvision has them for pictures of PIL."""
    try:
        import torchvision  # noqa: F401, PLC0415
    except ImportError:
        names = ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms")
        modules = {name: types.ModuleType(name) for name in (*names, "torchvision.transforms.functional")}
        functional: Any = modules["torchvision.transforms.functional"]
        functional.to_pil_image = Image.fromarray
        functional.resize = lambda picture, size: picture.resize(size[::-1], Image.Resampling.BILINEAR)
        boxes: Any = modules["torchvision.ops.boxes"]
        # For the package's automatic masks, which nobody asks for here.
        boxes.batched_nms = boxes.box_area = None
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
def graphs(authors: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The encoder, and the decoder as their ``export_onnx_model.py --return-single-mask`` writes it."""
    import torch  # noqa: PLC0415
    from segment_anything.utils.onnx import SamOnnxModel  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("reference")
    paths = {"encoder": folder / "encoder.onnx", "decoder": folder / "decoder.onnx"}
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
    _export(
        SamOnnxModel(authors, return_single_mask=True),
        tuple(example.values()),
        paths["decoder"],
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
    """A server with that model as ``sam-authors``, a row as a user would write it."""
    folder = tmp_path_factory.mktemp("served")
    rows = ['[[model]]\nname = "sam-authors"\nfamily = "sam"\n']
    rows += [f'[model.blobs.{role}]\nurl = "{path.as_uri()}"\n' for role, path in graphs.items()]
    catalog = folder / "models.toml"
    catalog.write_text("".join(rows), "utf-8")
    env = {"API_KEY": KEY, "OSAMD_CATALOG": str(catalog), "OSAMD_DEVICE": "cpu"}
    with run_server(cache=folder, env=env) as running:
        yield running
