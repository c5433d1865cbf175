"""Losses of masks and of predicted IoU."""

import torch
from torch import Tensor
from torch.nn import functional

CROSS_ENTROPY_WEIGHT = 2.0
HALF_COVERED = 0.5
# Only the best candidate is trained, the others a little so that none dies.
OTHERS = 0.06


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy and soft IoU, (N,) from (N, h, w) logits and (N, h, w) truth in [0, 1]."""
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2))
    probability = torch.sigmoid(logits)
    both = (probability * truth).sum((1, 2))
    iou = (both + 1) / (probability.sum((1, 2)) + truth.sum((1, 2)) - both + 1)
    return CROSS_ENTROPY_WEIGHT * entropy + 1 - iou


def candidates_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """The loss of the best of several masks, (N,) from (N, C, h, w) logits (Guzmán-Rivera et al., 2012)."""
    count = logits.shape[1]
    repeated = truth[:, None].expand(-1, count, -1, -1).flatten(0, 1)
    losses = mask_loss(logits.flatten(0, 1), repeated).view(-1, count)
    return (1 - OTHERS) * losses.min(1).values + OTHERS * losses.mean(1)


def hard_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU at the threshold, (N, C) from (N, C, h, w) logits and (N, h, w) truth in [0, 1]."""
    found, wanted = logits > 0, (truth > HALF_COVERED)[:, None]
    both = (found & wanted).sum((2, 3))
    return both / (found | wanted).sum((2, 3)).clamp(min=1)
