"""Build the models that are measured: EfficientSAM Ti and SAM ViT-B, true architectures, random weights.

    .venv-export/bin/python -m benchmarks.blobs FOLDER

The real weights cannot be redistributed and cost the same to run, so nothing is downloaded: the layers come from the
SAM authors' own package, the graphs' inputs and outputs are those of the published exports. Needs the dependency group
``bench-export`` (PyTorch). Existing files are kept.

Random weights would give noisy masks, which are expensive to encode as PNG. Four choices of weights, none of them a
change of the architecture, give masks with realistic outlines: the upsampling kernels are even, the
position embeddings of the encoder hold a few soft waves beside the photo's content, the deepest 3 x 3 kernel blurs, and
one channel of the mask features is a constant with which each mask's share of the picture is set.
"""

import argparse
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn
from torch.nn import functional

from benchmarks.recipe import is_built, mark_built

OPSET = 17
SEED = 4
SIDE, GRID, CHANNELS = 1024, 64, 256
# The share of the picture that a mask covers, on average over the calibration's clicks.
COVERED = 0.4
# Added to the first candidate's predicted IoU: osam answers with the first, osamd with the best, so here they are one.
LEAD = 1.0
CLICKS = ((512.0, 320.0), (200.0, 150.0), (800.0, 500.0), (300.0, 480.0), (760.0, 160.0))
WAVES = 6
PACKAGE_STAND_INS = ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms")


def stand_in_for_torchvision() -> None:
    """Let the authors' package be imported without torchvision, of which nothing is used here."""
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in PACKAGE_STAND_INS}
    modules["torchvision.transforms.functional"] = types.ModuleType("torchvision.transforms.functional")
    boxes = modules["torchvision.ops.boxes"]
    boxes.batched_nms = boxes.box_area = None
    transforms = modules["torchvision.transforms.functional"]
    transforms.resize = transforms.to_pil_image = None
    sys.modules.update(modules)


stand_in_for_torchvision()
from segment_anything import sam_model_registry  # noqa: E402
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer  # noqa: E402
from segment_anything.utils.onnx import SamOnnxModel  # noqa: E402


class EfficientSamEncoder(nn.Module):
    """ViT-Ti without windows and relative positions, resizing and normalisation inside, as published."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = ImageEncoderViT(
            img_size=SIDE,
            patch_size=16,
            embed_dim=192,
            depth=12,
            num_heads=3,
            mlp_ratio=4,
            out_chans=CHANNELS,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=False,
            window_size=0,
            global_attn_indexes=tuple(range(12)),
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, batched_images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 256, 64, 64)."""
        square = functional.interpolate(batched_images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.vit((square - self.mean) / self.std)


class EfficientSamDecoder(nn.Module):
    """Points to three masks at the image's size, their predicted IoUs, and the masks at 256 x 256."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = PromptEncoder(CHANNELS, (GRID, GRID), (SIDE, SIDE), 16)
        self.decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=8, mlp_dim=2048),
            transformer_dim=CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=CHANNELS,
        )

    def _points(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(Q, N, 2) in the frame of 1024 x 1024 and (Q, N) -> (Q, N, 256)."""
        encoded = self.prompts.pe_layer._pe_encoding((points + 0.5) / SIDE)  # noqa: SLF001 - as the authors call it
        label = labels.unsqueeze(-1)
        encoded = encoded * (label != -1) + self.prompts.not_a_point_embed.weight * (label == -1)
        for kind in range(4):
            encoded = encoded + self.prompts.point_embeddings[kind].weight * (label == kind)
        return encoded

    def forward(
        self,
        image_embeddings: torch.Tensor,
        batched_point_coords: torch.Tensor,
        batched_point_labels: torch.Tensor,
        orig_im_size: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The published decoder's inputs and outputs; one query, as in the published file."""
        height, width = orig_im_size[0], orig_im_size[1]
        scale = torch.stack([SIDE / width.float(), SIDE / height.float()])
        sparse = self._points(batched_point_coords[0] * scale, batched_point_labels[0])
        dense = self.prompts.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, GRID, GRID)
        masks, scores = self.decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        low = masks[:, 1:]
        full = functional.interpolate(low, size=(height, width), mode="bilinear", align_corners=False)
        return full.unsqueeze(0), scores[:, 1:].unsqueeze(0), low


def soft_waves(channels: int) -> torch.Tensor:
    """(1, 64, 64, channels): random mixtures of a few waves no shorter than a third of the picture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, GRID), torch.linspace(0, 1, GRID), indexing="ij")
    waves = []
    for _ in range(WAVES):
        across, down, phase = torch.rand(3).tolist()
        waves.append(torch.sin(6.28 * (3 * across * x + 3 * down * y + phase)))
    return (torch.stack(waves, -1) @ torch.randn(WAVES, channels))[None]


def give_soft_features(encoder: Any) -> None:
    """Choose an encoder's weights so that neighbours in its embedding are alike."""
    with torch.no_grad():
        encoder.pos_embed.copy_(soft_waves(encoder.pos_embed.shape[-1]))
        blur = encoder.neck[2].weight
        blur.copy_(blur.mean((2, 3), keepdim=True).expand_as(blur))


def give_even_kernels(decoder: Any) -> None:
    """Choose a mask decoder's weights so that upsampling adds no chequerboard and one channel is constant."""
    with torch.no_grad():
        for index in (0, 3):
            kernel = decoder.output_upscaling[index].weight
            kernel.copy_(kernel.mean((2, 3), keepdim=True).expand_as(kernel))
        decoder.output_upscaling[3].weight[:, 0] = 0
        decoder.output_upscaling[3].bias[0] = 1
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight[0] = 0
            head.layers[-1].bias[0] = 0


def set_coverage(decoder: Any, logits: Sequence[torch.Tensor]) -> None:
    """Shift each mask token's logits so that its masks cover their share of the picture, and have the first one lead.

    Args:
        decoder: prepared by ``give_even_kernels``.
        logits: (4, 256, 256) for each of some clicks, as they are before.
    """
    constant = float(functional.gelu(torch.tensor(1.0)))
    with torch.no_grad():
        for head, mask in zip(decoder.output_hypernetworks_mlps, torch.stack(list(logits), 1), strict=True):
            # Every eighth value is plenty for a quantile.
            head.layers[-1].bias[0] = -float(mask.flatten()[::8].quantile(1 - COVERED)) / constant
        decoder.iou_prediction_head.layers[-1].bias[1] += LEAD


def calibration_image() -> torch.Tensor:
    """(1, 3, 1024, 1024), 0..1: shapes and grain, about as varied as a photo."""
    noise = torch.rand(1, 3, 12, 16)
    return (
        functional.interpolate(noise, (SIDE, SIDE), mode="bicubic") * 0.9 + torch.rand(1, 3, SIDE, SIDE) * 0.1
    ).clip(0, 1)


@dataclass(frozen=True)
class Graph:
    """A module, an example of its inputs by name, and what is dynamic."""

    module: nn.Module
    example: Mapping[str, torch.Tensor]
    outputs: tuple[str, ...]
    axes: Mapping[str, dict[int, str]]

    def write(self, path: Path) -> None:
        """Export, under its final name only when complete."""
        partial_path = path.with_suffix(".partial")
        with torch.no_grad():
            torch.onnx.export(
                self.module.eval(),
                tuple(self.example.values()),
                str(partial_path),
                input_names=list(self.example),
                output_names=list(self.outputs),
                dynamic_axes=dict(self.axes),
                opset_version=OPSET,
                dynamo=False,
            )
        partial_path.rename(path)


def efficientsam() -> dict[str, Graph]:
    """``efficientsam_ti_encoder`` and ``efficientsam_ti_decoder``."""
    encoder, decoder = EfficientSamEncoder().eval(), EfficientSamDecoder().eval()
    give_soft_features(encoder.vit)
    give_even_kernels(decoder.decoder)
    click = {
        "batched_point_coords": torch.full((1, 1, 1, 2), SIDE / 2),
        "batched_point_labels": torch.ones(1, 1, 1),
        "orig_im_size": torch.tensor([SIDE, SIDE]),
    }
    with torch.no_grad():
        embedding = encoder(calibration_image())
        found = []
        for place in CLICKS:
            here = click | {"batched_point_coords": torch.tensor(place).view(1, 1, 1, 2)}
            low = decoder(embedding, *here.values())[2][0]
            found.append(torch.cat([low[:1], low]))  # the published graph gives no mask of the first token
        set_coverage(decoder.decoder, found)
    return {
        "efficientsam_ti_encoder": Graph(
            encoder,
            {"batched_images": torch.rand(1, 3, 480, 640)},
            ("image_embeddings",),
            {"batched_images": {0: "batch", 2: "height", 3: "width"}, "image_embeddings": {0: "batch"}},
        ),
        "efficientsam_ti_decoder": Graph(
            decoder,
            {"image_embeddings": embedding}
            | {
                name: value.expand(1, 1, 2, *value.shape[3:]) if "point" in name else value
                for name, value in click.items()
            },
            ("output_masks", "iou_predictions", "low_res_masks"),
            {
                "image_embeddings": {0: "batch"},
                "batched_point_coords": {0: "batch", 2: "num_pts"},
                "batched_point_labels": {0: "batch", 2: "num_pts"},
            },
        ),
    }


def sam() -> dict[str, Graph]:
    """``sam_vit_b_encoder`` and ``sam_vit_b_decoder``, before quantisation."""
    model = sam_model_registry["vit_b"]().eval()
    give_soft_features(model.image_encoder)
    give_even_kernels(model.mask_decoder)
    decoder = SamOnnxModel(model, return_single_mask=True)
    with torch.no_grad():
        embedding = model.image_encoder((calibration_image() - 0.5) / 0.25)
        example = {
            "image_embeddings": embedding,
            "point_coords": torch.tensor([[[512.0, 512.0], [0.0, 0.0]]]),
            "point_labels": torch.tensor([[1.0, -1.0]]),
            "mask_input": torch.zeros(1, 1, 256, 256),
            "has_mask_input": torch.zeros(1),
            "orig_im_size": torch.tensor([1600.0, 2560.0]),
        }
        every = SamOnnxModel(model, return_single_mask=False)
        found = []
        for place in CLICKS:
            # osam says -1 where Meta's "no mask" is 0; both should draw something.
            for has_mask in (0.0, -1.0):
                here = example | {
                    "point_coords": torch.tensor([[place, (0.0, 0.0)]]),
                    "has_mask_input": torch.tensor([has_mask]),
                }
                found.append(every(*here.values())[2][0])
        set_coverage(model.mask_decoder, found)
    return {
        "sam_vit_b_encoder": Graph(model.image_encoder, {"x": torch.rand(1, 3, SIDE, SIDE)}, ("image_embeddings",), {}),
        "sam_vit_b_decoder": Graph(
            decoder,
            example,
            ("masks", "iou_predictions", "low_res_masks"),
            {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        ),
    }


def build_efficientsam(folder: Path) -> None:
    """Write both graphs of EfficientSAM Ti."""
    for name, graph in efficientsam().items():
        graph.write(folder / f"{name}.onnx")


def build_sam(folder: Path) -> None:
    """Write both graphs of SAM ViT-B, dynamically quantised to uint8 as the published ones are."""
    for name, graph in sam().items():
        exact, partial_path = folder / f"{name}.onnx", folder / f"{name}.quant.partial"
        graph.write(exact)
        quantize_dynamic(exact, partial_path, weight_type=QuantType.QUInt8)
        partial_path.rename(folder / f"{name.replace('vit_b', 'vit_b_quant')}.onnx")
        exact.unlink()


def main() -> None:
    """Build what is missing or was built by another version of this file."""
    parser = argparse.ArgumentParser(description="Build the models that the benchmarks measure.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if is_built(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for build in (build_efficientsam, build_sam):
        torch.manual_seed(SEED)
        build(folder)
    mark_built(folder)
    print(f"built the models in {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
