"""Two overlapping views of each scene, and where each token of one lies in the other.

A view is a square of the scene, maybe mirrored: (B, 4) tensors of center x, center y, half side (all in
pixels of the scene) and orientation (1, or -1 for a mirrored view). Inside a view, coordinates run from
-1 to 1, as `torch.nn.functional.grid_sample` has them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SMALLEST = 0.3
"""Smallest side of a view over the scene's shorter side: about the scale at which features are read."""
ZOOM = 1.5
"""Largest ratio of the two views' sides."""
SHIFT = 0.5
"""Largest distance of the two centers, in half sides of the first."""


def draw_pair(count: int, height: int, width: int, draws: Generator) -> tuple[Tensor, Tensor]:
    """Return `count` pairs of views that overlap and lie within the scene."""
    most = min(height, width) / 2
    half = most * (SMALLEST + (1 - SMALLEST) * torch.rand(count, generator=draws))
    place = torch.rand(2, count, generator=draws)
    first = _view(half + (width - 2 * half) * place[0], half + (height - 2 * half) * place[1], half, draws)

    half = (half * ZOOM ** (2 * torch.rand(count, generator=draws) - 1)).clamp(max=most)
    moved = first[:, :2] + SHIFT * first[:, 2:3] * (2 * torch.rand(count, 2, generator=draws) - 1)
    x = moved[:, 0].clamp(min=half, max=width - half)
    y = moved[:, 1].clamp(min=half, max=height - half)
    return first, _view(x, y, half, draws)


def cut(scenes: Tensor, view: Tensor, side: int) -> Tensor:
    """Return the views of `scenes` (B, 3, H, W) at `side` pixels, (B, 3, side, side)."""
    height, width = scenes.shape[2:]
    at = _in_scene(view, side) / torch.tensor([width, height]) * 2 - 1
    return F.grid_sample(scenes, at, mode="bilinear", padding_mode="border", align_corners=False)


def correspondence(of: Tensor, within: Tensor, grid: int) -> Tensor:
    """Return where the tokens of the views `of` lie in the views `within`, (B, grid, grid, 2).

    A token that the other view does not show has a coordinate beyond -1 or 1.
    """
    offset = (_in_scene(of, grid) - within[:, None, None, :2]) / within[:, None, None, 2:3]
    mirror = torch.stack([within[:, 3], torch.ones(len(within))], dim=1)
    return offset * mirror[:, None, None, :]


def distort(images: Tensor, draws: Generator) -> Tensor:
    """Change the light of `images` (B, 3, H, W) in [0, 1]: what a label does not depend on."""
    count = len(images)

    def between(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=draws)

    images = images * between(0.76, 1.24)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * between(0.76, 1.24) + mean
    gray = images.mean(1, keepdim=True)
    saturation = between(0.7, 1.3) * (between(0, 1) > 0.05)
    images = (images - gray) * saturation + gray + between(-0.075, 0.075, channels=3)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(between(0, 1) < 0.3, blurred, images).clamp(0, 1)


def _view(x: Tensor, y: Tensor, half: Tensor, draws: Generator) -> Tensor:
    orientation = 1.0 - 2.0 * (torch.rand(len(half), generator=draws) < 0.5)
    return torch.stack([x, y, half, orientation], dim=1)


def _in_scene(view: Tensor, grid: int) -> Tensor:
    """Return the pixel positions (x, y) of a regular grid in each view, (B, grid, grid, 2)."""
    centers = (torch.arange(grid) + 0.5) / grid * 2 - 1
    unit = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), dim=-1)
    mirror = torch.stack([view[:, 3], torch.ones(len(view))], dim=1)
    return view[:, None, None, :2] + view[:, None, None, 2:3] * mirror[:, None, None, :] * unit
