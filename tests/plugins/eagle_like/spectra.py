"""Eigenvectors of patch graphs: one image at a time from frozen inputs, or a batch of learned codes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def of_image(item: Mapping[str, Tensor], *, count: int, color: float) -> dict[str, np.ndarray]:
    """Return `count` eigenvectors of one image, float32 (count, h, w), from its keys and colors.

    Args:
        color: weight of the affinity of colors beside that of keys.
    """
    keys = item["keys@-1"]
    colors = F.adaptive_avg_pool2d(item["image"], keys.shape[1:]).flatten(1)
    affinity = cosines(keys.flatten(1)[None])[0]
    affinity = affinity + color * torch.exp(-torch.cdist(colors.T, colors.T).square() / 0.02)
    vectors = eigenvectors(affinity[None], count)[0]
    return {"vectors": vectors.unflatten(1, keys.shape[1:]).numpy()}


def cosines(features: Tensor) -> Tensor:
    """Return the non-negative cosines of all pairs of points, (B, P, P), of features (B, D, P)."""
    unit = F.normalize(features, dim=1)
    return (unit.transpose(1, 2) @ unit).clamp(min=0)


def eigenvectors(affinity: Tensor, count: int) -> Tensor:
    """Return the eigenvectors of the normalized Laplacian after the constant one, (B, count, P).

    The sign of each is such that its largest entry is positive.
    """
    scale = affinity.sum(2).rsqrt()
    laplacian = torch.eye(affinity.shape[1]) - scale[:, :, None] * affinity.cpu() * scale[:, None].cpu()
    vectors = torch.linalg.eigh(laplacian)[1][:, :, 1 : count + 1].transpose(1, 2)
    largest = vectors.abs().argmax(dim=2, keepdim=True)
    return vectors * vectors.gather(2, largest).sign()
