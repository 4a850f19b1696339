"""EiCue: soft object maps from the eigenvectors of an affinity of codes and colors (EAGLE, Sec. 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.errors import UsageError

Colors = Literal["released", "rgb"]

_SIGMA = 0.1
"""Deviation of colors in their affinity."""
_EMPTY = 1e-12
"""Degrees below this become 1, as in the released code."""


def eigenvectors(code: Tensor, colors: Tensor, count: int) -> Tensor:
    """Return the `count` eigenvectors after the first of the normalized Laplacian, (B, count, h, w).

    The affinity is relu(s sᵀ) of the codes as they are plus exp(−d² / 2σ²) of colors, each divided by its
    maximum. An eigenvector's sign is arbitrary. The released rule flips all of an image's at once when more
    than half of their entries are positive, but not when all are; it is kept. No gradient goes through.

    Args:
        code: (B, d, h, w), not normalized.
        colors: (B, 3, h, w), see `patch_colors`.

    Raises:
        UsageError: when there are fewer patches.
    """
    h, w = code.shape[2:]
    if count >= h * w:
        raise UsageError(
            f"A grid of {h} × {w} patches has {h * w} eigenvectors, and EiCue takes {count} after the first.",
            hint="Train on larger images, or set fewer eigenvectors.",
        )
    with torch.no_grad():
        _, vectors = torch.linalg.eigh(normalized_laplacian(affinity(code, colors)))
        vectors = vectors[:, :, : count + 1]
        positive = (vectors > 0).to(vectors.dtype).mean(dim=(1, 2), keepdim=True)
        vectors = torch.where((positive > 0.5) & (positive < 1), -vectors, vectors)
        return vectors[:, :, 1:].transpose(1, 2).reshape(len(code), count, h, w)


def affinity(code: Tensor, colors: Tensor) -> Tensor:
    """Return the affinity of all pairs of patches, (B, h·w, h·w)."""
    s, c = code.flatten(2), colors.flatten(2).transpose(1, 2)
    by_code = (s.transpose(1, 2) @ s).relu()
    by_color = torch.exp(-torch.cdist(c, c).square() / (2 * _SIGMA**2))
    first, second = (one / one.amax(dim=(1, 2), keepdim=True) for one in (by_code, by_color))
    return first + second


def normalized_laplacian(weights: Tensor) -> Tensor:
    """Return D^(−1/2) (D − W) D^(−1/2) of symmetric weights (B, n, n)."""
    degree = weights.sum(dim=2)
    scale = torch.where(degree < _EMPTY, 1, degree).rsqrt()
    laplacian = torch.diag_embed(torch.where(degree < _EMPTY, 1, degree)) - weights
    return scale[:, :, None] * laplacian * scale[:, None, :]


def patch_colors(images: Tensor, size: tuple[int, int], mean: Tensor, std: Tensor, colors: Colors) -> Tensor:
    """Return colors on the patch grid, (B, 3, h, w).

    Args:
        images: uint8 (B, 3, H, W).
        mean, std: what the backbone normalizes with, (3, 1, 1).
        colors: 'released' divides normalized pixels by 255, so that all colors are nearly alike and the
            affinity of colors is 0.95 to 1 everywhere; 'rgb' takes pixels in [0, 1].
    """
    pixels = images / 255
    if colors == "released":
        pixels = (pixels - mean) / std / 255
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
