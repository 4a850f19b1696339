"""Features rebuilt from soft clusters: the network, and the losses that compare."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Comparison = Literal["ssim", "cosine", "relaxed_cosine", "mse"]

_MARGIN = 0.1
"""Distance that costs nothing under "relaxed_cosine"."""
_WINDOW, _SIGMA = 11, 1.5
"""Side and deviation of SSIM's Gaussian window, in patches."""
_C1, _C2 = 0.01**2, 0.03**2
"""SSIM's constants for values in [0, 1], which the released code uses for features of any range."""


class Reconstruction(nn.Module):
    """Convolutions from soft clusters (B, K, h, w) to features (B, D, h, w); deep: with a residual block."""

    def __init__(self, clusters: int, channels: int, hidden: int, *, deep: bool) -> None:
        super().__init__()
        self.deep = deep
        sizes = [clusters, hidden, hidden, hidden] if deep else [clusters, hidden, hidden]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, other, 3, padding=1), nn.BatchNorm2d(other))
            for one, other in pairwise(sizes)
        )
        self.last = nn.Conv2d(hidden, channels, 1)

    def forward(self, soft: Tensor) -> Tensor:
        first, second = self.blocks[0], self.blocks[1]
        start = F.relu(first(soft))
        x = F.relu(second(start))
        if self.deep:
            x = F.relu(self.blocks[2](x) + start)
        out: Tensor = self.last(x)
        return out


def compare(rebuilt: Tensor, target: Tensor, kind: Comparison) -> Tensor:
    """Return how far rebuilt features (B, D, h, w) are from others: a mean over images and places."""
    if kind == "ssim":
        return 1 - ssim(rebuilt, target).mean()
    if kind == "mse":
        return F.mse_loss(rebuilt, target)
    away = 1 - F.cosine_similarity(rebuilt, target, dim=1)
    return away.mean() if kind == "cosine" else (away - _MARGIN).clamp(min=0).mean()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity of every place and channel of two maps (B, D, h, w).

    Wang et al., "Image quality assessment" (IEEE TIP 2004), in a Gaussian window of 11 × 11; what lies
    outside the map counts as 0.
    """
    offsets = torch.arange(_WINDOW, device=x.device, dtype=x.dtype) - _WINDOW // 2
    window = (-(offsets**2) / (2 * _SIGMA**2)).exp()
    window = window / window.sum()

    def mean(values: Tensor) -> Tensor:
        """Average over the window, whose two directions are taken in turn."""
        flat = values.flatten(0, 1)[:, None]
        pad = _WINDOW // 2
        flat = F.conv2d(flat, window[None, None, :, None], padding=(pad, 0))
        return F.conv2d(flat, window[None, None, None], padding=(0, pad)).view_as(values)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    shared = mean(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + _C1) * (2 * shared + _C2)
    return top / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))
