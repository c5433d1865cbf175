"""The trained network, arranged to answer: the same numbers as ``network`` but for rounding, with less to compute.

Normalisation is folded into the convolutions. What the decoder computes from the image alone is computed once, by the
encoder; the decoder only adds it, to a whole batch of prompts on one image. Convolutions of single places come before
the enlargements that they commute with.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from training.network import Decoder, Encoder, larger


class Fused(nn.Module):
    """Some inputs of a ``network.convolution``, its normalisation folded in.

    Args:
        layers: convolution and normalisation; what follows is left out.
        inputs: which of its input channels; all of them by default.
        has_bias: whether it adds the bias, which one part of a divided convolution has to.
    """

    def __init__(self, layers: nn.Sequential, inputs: slice = slice(None), *, has_bias: bool = True) -> None:
        super().__init__()
        conv, norm = layers[0], layers[1]
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.weight = nn.Parameter(weight.detach()[:, inputs].clone())
        self.bias = nn.Parameter(bias.detach().clone()) if has_bias else None
        self._stride, self._padding = conv.stride, conv.padding

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.bias, self._stride, self._padding)


class AnsweringEncoder(nn.Module):
    """(1, 3, H, W) to what the decoder adds at 1/4, 1/8 and 1/16 of the size, and descriptions of length 1."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        prompt4, down8, down16 = (_outputs(layers) for layers in (decoder.prompt4, decoder.down8, decoder.down16))
        self.merge4 = Fused(decoder.merge4, slice(prompt4, None), has_bias=False)
        # The last two inputs are similarities.
        self.merge8 = Fused(decoder.merge8, slice(down8, -2), has_bias=False)
        self.merge16 = Fused(decoder.merge16, slice(down16, None), has_bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        p4, p8, p16, e = self.encoder(x)
        return self.merge4(p4), self.merge8(p8), self.merge16(p16), e


class AnsweringDecoder(nn.Module):
    """What ``AnsweringEncoder`` gives for one image, and B prompts on it, to logits and predicted IoU of each.

    Like ``network.Decoder``: ``points`` (B, K, 3) and ``maps`` (B, 2, H/4, W/4) to (B, 4, H/4, W/4) and (B, 4).
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        prompt4, down8, down16 = (_outputs(layers) for layers in (decoder.prompt4, decoder.down8, decoder.down16))
        self.merge4 = Fused(decoder.merge4, slice(prompt4))
        self.merge8 = Fused(decoder.merge8, slice(down8))
        self.merge8_alike = Fused(decoder.merge8, slice(-2, None), has_bias=False)
        self.merge16 = Fused(decoder.merge16, slice(down16))
        self.up16, self.up8, self.up4 = Fused(decoder.up16), Fused(decoder.up8), Fused(decoder.up4)

    def forward(
        self, p4: Tensor, p8: Tensor, p16: Tensor, e: Tensor, points: Tensor, maps: Tensor
    ) -> tuple[Tensor, Tensor]:
        layers = self.decoder
        rows, columns = p4.shape[-2:]
        positive, negative = layers.discs(points, rows, columns)
        clicked = torch.cat([positive, negative, maps, positive - negative], 1)
        x4 = functional.relu(self.merge4(layers.prompt4(clicked)) + p4)
        alike = self.merge8_alike(layers.similarities(e, points))
        x8 = layers.body8(functional.relu(self.merge8(layers.down8(x4)) + alike + p8))
        x16 = layers.body16(functional.relu(self.merge16(layers.down16(x8)) + p16))
        x32 = layers.body32(layers.down32(x16))
        whole = x32.mean((2, 3))
        x32 = x32 * torch.sigmoid(layers.gate(whole))[..., None, None]
        y = layers.again16(layers.attention(x16 + functional.relu(larger(self.up16(x32)))))
        y = layers.again8(x8 + functional.relu(larger(self.up8(y))))
        y = layers.again4(x4 + functional.relu(larger(self.up4(y))))
        logits = layers.out(y)
        return logits, layers.judged(whole, y, logits)


def _outputs(layers: nn.Sequential) -> int:
    """Channels of a ``network.convolution``."""
    channels: int = layers[0].out_channels
    return channels
