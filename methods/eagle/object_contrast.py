"""EAGLE's object-centric contrastive loss (Sec. 3.3): patches against the medoids of their objects."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_PAIRS = 2**26
"""Distances that are in memory at once: 256 MB of float32."""


def object_contrast(
    z: Tensor,
    z_other: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    global_weight: float,
    temperature: float,
    smoothing: float = 0.0,
    mean_first: bool = True,
) -> Tensor:
    """Return half of (1 − g) · loss of `z` + g · loss of `z_other` against the medoids of `z`.

    The gradient goes to both views and, through the medoids, to `z` once more.

    Args:
        z, z_other: projected patches of the two views, unit rows (M, d).
        labels: the object of every patch of `z`, over the whole batch, int64 (M,).
        weights: of the patches, (M,).
        global_weight: g.
        smoothing: probability that the target shares among the other objects.
        mean_first: with smoothing, multiply the mean cross-entropy by the mean weight, as the released code
            does, and not each patch's by its own.
    """
    present, own = labels.unique(return_inverse=True)
    prototypes = z[medoids(z.detach(), own, len(present))]
    # PyTorch shares its smoothing among all classes, the own one included.
    shared = smoothing * len(present) / max(1, len(present) - 1)
    losses = []
    for one in (z, z_other):
        logits = one @ prototypes.T / temperature
        each = F.cross_entropy(logits, own, reduction="none", label_smoothing=shared)
        losses.append(each.mean() * weights.mean() if smoothing and mean_first else (each * weights).mean())
    return ((1 - global_weight) * losses[0] + global_weight * losses[1]) / 2


def medoids(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return, for each label, the index of the value with the least sum of distances to its own: (count,).

    Distances are made in chunks of rows, so that memory is linear in the number of values.
    """
    found = []
    for label in range(count):
        members = (labels == label).nonzero()[:, 0]
        own = values[members]
        sums = [torch.cdist(chunk, own).sum(dim=1) for chunk in own.split(max(1, _PAIRS // len(own)))]
        found.append(members[torch.cat(sums).argmin()])
    return torch.stack(found)


def patch_weights(keys: Tensor) -> Tensor:
    """Return how much every patch correlates with its image: (B·h·w,), for keys (B, D, h, w).

    It is the mean over q of C_pq, where C is K Kᵀ with every column divided by its norm. As K Kᵀ is not
    needed beyond that, only the norms are made from it.
    """
    k = keys.detach().flatten(2)
    norms = (k.transpose(1, 2) @ k).norm(dim=1, keepdim=True).clamp_min(1e-12)
    mean = (k / norms).mean(dim=2, keepdim=True)
    weights: Tensor = (k * mean).sum(dim=1).flatten()
    return weights
