"""Cosine k-means on unit vectors: a start, and mini-batch steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kmeans_plus_plus(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Choose K of the unit vectors (M, D), each with probability ∝ its squared distance to the chosen.

    Arthur and Vassilvitskii, "k-means++" (SODA 2007). With fewer distinct points than K the rest
    repeat, which leaves empty clusters rather than an error.
    """
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = 2 - 2 * points @ points[chosen[0]]
    for _ in range(clusters - 1):
        weights = distance.clamp(min=0).cpu().double() + 1e-12
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        distance = torch.minimum(distance, 2 - 2 * points @ points[chosen[-1]])
    return points[chosen].clone()


@torch.no_grad()
def minibatch_step(centroids: Tensor, seen: Tensor, points: Tensor) -> Tensor:
    """Move the centroids by one batch, in place, and return the mean cosine with the nearest one before.

    Each centroid's learning rate is 1 / (points that it was given so far), as in Sculley, "Web-scale k-means
    clustering" (WWW 2010), on unit vectors.

    Args:
        centroids: (K, D) unit vectors; changed.
        seen: (K,) points that each was given so far; changed.
        points: (M, D) unit vectors.
    """
    cosine, nearest = (points @ centroids.T).max(dim=1)
    counts = torch.bincount(nearest, minlength=len(centroids)).float()
    sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
    seen += counts
    moved = centroids + (sums - counts[:, None] * centroids) / seen.clamp(min=1)[:, None]
    centroids.copy_(F.normalize(moved, dim=1))
    return cosine.mean()
