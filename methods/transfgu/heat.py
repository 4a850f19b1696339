"""From class tokens of windows to a heat map per cluster: stages one and two of TransFGU."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Context

SCALES = (0.5, 0.4, 0.3, 0.2)
"""Sides of windows as shares of the image's, from the released code."""
Box = tuple[int, int, int, int]
"""Rows from and to, columns from and to, in patches."""
HeatScale = Literal["batch", "image"]


def window_boxes(grid: tuple[int, int], stride: float) -> list[Box]:
    """Return windows of every scale over a grid (h, w) of patches.

    Args:
        stride: between windows, as a share of their side; at least a patch.
    """
    boxes: dict[Box, None] = {}
    for scale in SCALES:
        height, width = (max(1, round(scale * side)) for side in grid)
        rows = range(0, grid[0] - height + 1, max(1, round(stride * height)))
        columns = range(0, grid[1] - width + 1, max(1, round(stride * width)))
        boxes |= {(y, y + height, x, x + width): None for y in rows for x in columns}
    return list(boxes)


def kinds(
    attention: Tensor, boxes: list[Box], foreground_share: float, background_share: float
) -> tuple[Tensor, Tensor]:
    """Return which windows show foreground and which background, both bool (windows,).

    A patch is foreground when the class token pays more to it than to the mean patch.

    Args:
        attention: what the class token pays to patches, (h, w).
        foreground_share, background_share: of a window's patches, above which it counts.
    """
    salient = (attention > attention.mean()).float()
    share = torch.stack([salient[top:bottom, left:right].mean() for top, bottom, left, right in boxes])
    return share > foreground_share, 1 - share > background_share


def window_tokens(ctx: Context, image: Tensor, boxes: list[Box], size: tuple[int, int], batch: int) -> Tensor:
    """Return the class tokens (windows, D) of windows of an image (3, H, W), resized to `size`."""
    patch, found = ctx.patch, []
    for start in range(0, len(boxes), batch):
        cut = [
            F.interpolate(
                image[None, :, patch * top : patch * bottom, patch * left : patch * right],
                size=size,
                mode="bilinear",
                align_corners=False,
            )
            for top, bottom, left, right in boxes[start : start + batch]
        ]
        found.append(ctx.backbone(torch.cat(cut), ["cls"])["cls"])
    return torch.cat(found)


def heat_maps(
    ctx: Context, images: Tensor, centroids: Tensor, *, attended: int, mass: float, scale: HeatScale
) -> Tensor:
    """Return heat (B, K, h, w) of images (B, 3, H, W): where attention makes them more like each centroid.

    Args:
        centroids: (K, D), of class tokens.
        attended: clusters, the first of the K, to whose evidence the attention itself is added.
        mass: see `evidence`.
        scale: of gradients: ``batch`` divides them by the number of images, as a mean over the batch does in
            the released code, so that heat depends on the batch; ``image`` is that of each image alone.
    """
    out = ctx.backbone(images, ["cls", "attention"], grad=True)
    attention = out["attention"]
    h, w = images.shape[2] // ctx.patch, images.shape[3] // ctx.patch
    paid = attention.detach()[:, :, 0, -h * w :].mean(dim=1)
    maps = []
    for k, centroid in enumerate(centroids):
        distance = (1 - F.cosine_similarity(out["cls"], centroid[None])).sum()
        (gradient,) = torch.autograd.grad(distance, attention, retain_graph=True)
        gradient = gradient[:, :, 0, -h * w :].mean(dim=1) / (len(images) if scale == "batch" else 1)
        maps.append(heat(gradient, paid if k < attended else None, mass))
    return torch.stack(maps, dim=1).view(len(images), len(centroids), h, w)


def heat(gradient: Tensor, paid: Tensor | None, mass: float) -> Tensor:
    """Return the heat (B, patches) of one cluster.

    It is the evidence for the cluster, and where there is `paid` that attention over its largest as well.
    Where more attention would lead away from the centroid it is 0.

    Args:
        gradient: of the distance to the centroid, with respect to the attention, (B, patches).
        paid: the class token's attention, (B, patches).
    """
    found = evidence(gradient, mass)
    if paid is not None:
        found = found + paid / paid.amax(dim=1, keepdim=True)
    return found.masked_fill(gradient > 0, 0.0)


def evidence(gradient: Tensor, mass: float) -> Tensor:
    """Return the negative part of gradients (B, patches), of it the largest values that hold `mass`."""
    positive = (-gradient).relu()
    largest, order = positive.sort(dim=1, descending=True, stable=True)
    before = largest.cumsum(dim=1) - largest
    kept = (before < mass * largest.sum(dim=1, keepdim=True)).to(positive.dtype)
    return positive * torch.zeros_like(positive).scatter(1, order, kept)


def unit_range(heat: Tensor) -> Tensor:
    """Return heat (B, K, h, w) from 0 to 1 in each image, all its clusters on one scale."""
    flat = heat.flatten(1)
    low, high = (getattr(flat, end)(dim=1)[:, None, None, None] for end in ("amin", "amax"))
    scaled: Tensor = (heat - low) / (high - low).clamp_min(torch.finfo(heat.dtype).eps)
    return scaled
