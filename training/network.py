"""The network: an EfficientNet-Lite2 with a feature pyramid, and a small U-Net that reads prompts.

Coordinates are fractions of width and height. Sizes are those of the resized photo, multiples of 32. Backbone: Tan and
Le, EfficientNet, 2019. Pyramid: Lin et al., 2017. The map of similarities to what was clicked is an idea of few-shot
segmentation: a click says what the object looks like, not only where it is.
"""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

# Channels of the embedding at 1/4, 1/8 and 1/16 of the size, and of the description of each place at 1/8.
P4, P8, P16, DESCRIPTION = 24, 56, 80, 24
# The mask, then the candidates for clicks that may mean several things.
CANDIDATES: Final = 3
MASKS: Final = 1 + CANDIDATES
CLICK_SIGMA: Final = 1.6
FOREGROUND, BACKGROUND = 1, 0

# Of each stage: blocks, kernel, stride, expansion, channels. Width 1.1, depth 1.2.
STAGES: Final = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
# Stages whose outputs the pyramid reads, at 1/4, 1/8, 1/16 and 1/32.
TAPPED: Final = (1, 2, 4, 6)


class Block(nn.Module):
    """An inverted residual block; names are those of the checkpoint."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, middle, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(middle, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False)
        self._bn1 = nn.BatchNorm2d(middle, eps=1e-3)
        self._project_conv = nn.Conv2d(middle, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class Backbone(nn.Module):
    """EfficientNet-Lite2 without its classifier: (B, 3, H, W) to features at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[Block] = []
        self.tapped: list[int] = []
        channels = 32
        for stage, (count, kernel, stride, expansion, outputs) in enumerate(STAGES):
            for index in range(count):
                blocks.append(Block(channels, outputs, kernel, stride if index == 0 else 1, expansion))
                channels = outputs
            if stage in TAPPED:
                self.tapped.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)

    def load(self, path: Path) -> None:
        """Read the published checkpoint; what it has beyond this is the classifier's."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = self.load_state_dict(state, strict=False).missing_keys
        if missing:
            raise ValueError(f"{path.name} has no {missing[0]}")

    def blocks_from(self, number: int) -> nn.ModuleList:
        """The blocks from a number on."""
        return self._blocks[number:]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        features = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.tapped:
                features.append(x)
        return features


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    layers = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def larger(x: Tensor) -> Tensor:
    """Twice the size, bilinearly."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


class Attention(nn.Module):
    """Self-attention over all places; begins as an identity."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, rows, columns = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        split = self.project(tokens).view(batch, rows * columns, 3, self.heads, channels // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        query = query * (channels // self.heads) ** -0.5
        weights = torch.softmax(query @ key.transpose(-1, -2), -1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, rows * columns, channels)
        return x + self.out(mixed).transpose(1, 2).reshape(batch, channels, rows, columns)


class Encoder(nn.Module):
    """(B, 3, H, W) float32 RGB, (value - 127) / 128, to the embedding: p4, p8, p16 and descriptions of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        c4, c8, c16, c32 = (STAGES[stage][-1] for stage in TAPPED)
        self.lateral32 = convolution(c32, P16, 1)
        self.lateral16 = convolution(c16, P16, 1)
        self.fuse16 = convolution(P16, P16)
        self.lateral8 = convolution(c8, P8, 1)
        self.top8 = convolution(P16, P8, 1)
        self.fuse8 = convolution(P8, P8)
        self.lateral4 = convolution(c4, P4, 1)
        self.top4 = convolution(P8, P4, 1)
        self.describe = nn.Conv2d(P8, DESCRIPTION, 1)
        self.colours = nn.Conv2d(3, 8, 4, 4)
        self.fuse4 = convolution(P4 + 8, P4)

    def train(self, mode: bool = True) -> "Encoder":  # noqa: FBT001, FBT002 - PyTorch's own signature
        """Train mode for the pyramid only: the backbone keeps its statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c4, c8, c16, c32 = self.backbone(x)
        p16 = self.fuse16(self.lateral16(c16) + larger(self.lateral32(c32)))
        p8 = self.fuse8(self.lateral8(c8) + larger(self.top8(p16)))
        p4 = self.fuse4(torch.cat([self.lateral4(c4) + larger(self.top4(p8)), self.colours(x)], 1))
        return p4, p8, p16, functional.normalize(self.describe(p8), dim=1)


class Decoder(nn.Module):
    """Embedding, clicks and maps to mask logits, and how good each mask probably is.

    ``points`` is (B, K, 3): x, y, label (1 foreground, 0 background, -1 padding). ``maps`` is (B, 2, H/4, W/4): 1
    inside the box, and the probability of the previous mask. Gives logits (B, 4, H/4, W/4), the mask and three
    candidates, and their predicted IoU (B, 4) in [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.prompt4 = convolution(5, 16)
        self.merge4 = convolution(16 + P4, P4)
        self.down8 = convolution(P4, 48, 3, 2)
        self.merge8 = convolution(48 + P8 + 2, 64, 1)
        self.body8 = Residual(64)
        self.down16 = convolution(64, 80, 3, 2)
        self.merge16 = convolution(80 + P16, 96, 1)
        self.body16 = Residual(96)
        self.down32 = convolution(96, 128, 3, 2)
        self.body32 = Residual(128)
        self.gate = nn.Linear(128, 128)
        self.up16 = convolution(128, 96, 1)
        self.attention = Attention(96, 4)
        self.again16 = Residual(96)
        self.up8 = convolution(96, 64, 1)
        self.again8 = Residual(64)
        self.up4 = convolution(64, P4, 1)
        self.again4 = convolution(P4, P4)
        self.out = nn.Conv2d(P4, MASKS, 3, 1, 1)
        self.judge = nn.Sequential(nn.Linear(128 + P4 + 3, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(
        self, p4: Tensor, p8: Tensor, p16: Tensor, e: Tensor, points: Tensor, maps: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows, columns = p4.shape[-2:]
        positive, negative = self.discs(points, rows, columns)
        clicked = torch.cat([positive, negative, maps, positive - negative], 1)
        x4 = self.merge4(torch.cat([self.prompt4(clicked), p4], 1))
        x8 = self.body8(self.merge8(torch.cat([self.down8(x4), p8, self.similarities(e, points)], 1)))
        x16 = self.body16(self.merge16(torch.cat([self.down16(x8), p16], 1)))
        x32 = self.body32(self.down32(x16))
        whole = x32.mean((2, 3))
        x32 = x32 * torch.sigmoid(self.gate(whole))[..., None, None]
        y = self.again16(self.attention(x16 + self.up16(larger(x32))))
        y = self.again8(x8 + self.up8(larger(y)))
        y = self.again4(x4 + self.up4(larger(y)))
        logits = self.out(y)
        return logits, self.judged(whole, y, logits)

    def judged(self, whole: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        """Predicted IoU of each mask from what is inside it and how sure its logits are; its gradient stops here."""
        whole, y, probability = whole.detach().float(), y.detach().float(), torch.sigmoid(logits.detach().float())
        mass = probability.sum((2, 3)) + 1.0
        inside = torch.einsum("bmn,bcn->bmc", probability.flatten(2), y.flatten(2)) / mass[..., None]
        sure = (probability**2).sum((2, 3)) / mass
        unsure = (probability * (1 - probability)).sum((2, 3)) / mass.sqrt()
        share = probability.mean((2, 3)).sqrt()
        described = [whole[:, None].expand(-1, probability.shape[1], -1), inside]
        numbers = torch.stack([sure, unsure, share], -1)
        return torch.sigmoid(self.judge(torch.cat([*described, numbers], -1))[..., 0])

    @staticmethod
    def discs(points: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """A soft disc around each foreground and each background click, (B, 1, rows, columns) each."""
        y = (torch.arange(rows, device=points.device, dtype=points.dtype) + 0.5)[None, None, :, None]
        x = (torch.arange(columns, device=points.device, dtype=points.dtype) + 0.5)[None, None, None, :]
        across, down, label = (points[..., index][..., None, None] for index in range(3))
        discs = torch.exp(-((x - across * columns) ** 2 + (y - down * rows) ** 2) / (2 * CLICK_SIGMA**2))
        of = [(discs * (label == value)).amax(1, keepdim=True) for value in (FOREGROUND, BACKGROUND)]
        return of[0], of[1]

    @staticmethod
    def similarities(e: Tensor, points: Tensor) -> Tensor:
        """How alike each place is to the most alike foreground and background click, (B, 2, H/8, W/8) in [-1, 1].

        ``e`` is that of each prompt's image, or of the one image of all prompts, (1, 24, H/8, W/8).
        """
        rows, columns = e.shape[-2:]
        batch, count = points.shape[:2]
        # The clicks of all prompts on one image are places of that image.
        grid = (points[..., None, :2] * 2 - 1).to(e.dtype).view(e.shape[0], -1, 1, 2)
        clicked = functional.grid_sample(e, grid, mode="bilinear", align_corners=False)[..., 0]
        alike = (clicked.transpose(1, 2) @ e.flatten(2)).view(batch, count, rows, columns)
        label = points[..., 2][..., None, None]
        of = [torch.where(label == value, alike, -1.0).amax(1, keepdim=True) for value in (FOREGROUND, BACKGROUND)]
        return torch.cat(of, 1)
