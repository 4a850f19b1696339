"""Points far from each other in space: farthest-point sampling on a depth map (the paper's Sec. 3.3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

_ACROSS = 2 * math.tan(90 / 2)
"""Width of the view at depth 1. The released code takes 90 degrees for radians: 3.24 instead of 2."""
_FAR = 5.0
"""Stretch of the depth axis against the other two."""


def unit_range(depth: Tensor, largest: float | None) -> Tensor:
    """Return depth (B, n, H, W) as (B, 1, H, W) in [0, 1]; several channels are averaged.

    Args:
        largest: what counts as 1; None: each map's own least value becomes 0 and its largest 1. A map of
            one value only becomes 1.
    """
    depth = depth.mean(dim=1, keepdim=True)
    if largest is not None:
        return (depth / largest).clamp(0, 1)
    low, high = depth.amin((2, 3), keepdim=True), depth.amax((2, 3), keepdim=True)
    return torch.where(high > low, (depth - low) / (high - low), 1.0)


def unproject(depth: Tensor) -> Tensor:
    """Return the places (X, Y, Z) of the patches of depth maps (B, 1, h, w), as (B, h·w, 3)."""
    h, w = depth.shape[2:]
    d = depth[:, 0]
    rows = torch.arange(h, device=d.device, dtype=d.dtype)[:, None]
    columns = torch.arange(w, device=d.device, dtype=d.dtype)
    x = _ACROSS * d * (columns - w / 2) / w
    y = _ACROSS * d * (rows - h / 2) / h
    return torch.stack([x, y, -_FAR * d], dim=-1).flatten(1, 2)


def farthest(places: Tensor, count: int) -> Tensor:
    """Return the indices of `count` places (B, N, 3), int64 (B, count): the first place, then the farthest.

    Each next one has the largest distance to the nearest of those chosen; of equals the first. None is
    chosen twice.
    """
    chosen = torch.zeros(len(places), count, dtype=torch.int64, device=places.device)
    distance = torch.full(places.shape[:2], torch.inf, dtype=places.dtype, device=places.device)
    for k in range(1, count):
        last = chosen[:, k - 1, None]
        here = places.gather(1, last[..., None].expand(-1, -1, 3))
        distance = torch.minimum(distance, (places - here).square().sum(dim=2)).scatter(1, last, -1.0)
        chosen[:, k] = distance.argmax(dim=1)
    return chosen


def farthest_points(depth: Tensor, side: int, xy: Literal["legacy", "correct"]) -> Tensor:
    """Return side × side points (x, y) in [−1, 1]², in the order of rows: (B, side, side, 2).

    Where there are fewer patches, the points are the largest square number of them.

    Args:
        depth: of the patches, (B, 1, h, w).
        xy: "correct" points at the chosen patches. "legacy" is as released: the point of row i and column j
            has x = 2i / h − 1 and y = 2j / w − 1.
    """
    h, w = depth.shape[2:]
    side = min(side, math.isqrt(h * w))
    index = farthest(unproject(depth), side**2).sort(dim=1).values
    row, column = (index // w).to(depth.dtype), (index % w).to(depth.dtype)
    if xy == "legacy":
        points = torch.stack([2 * row / h - 1, 2 * column / w - 1], dim=-1)
    else:
        points = torch.stack([2 * column / max(w - 1, 1) - 1, 2 * row / max(h - 1, 1) - 1], dim=-1)
    return points.view(len(depth), side, side, 2)
