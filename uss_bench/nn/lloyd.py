"""Euclidean k-means: Lloyd's on a sample, as faiss has it, and running means over batches, as in PiCIE.

Memory beside the points is bounded: distances exist for a piece of them at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SPLIT = 1 / 1024
"""By what share the two halves of a cluster that is split differ from it, as in faiss."""
_PIECE = 2**24
"""Distances that exist at once: 64 MB of float32."""


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of the nearest of centroids (K, D) for each of points (M, D): int64 (M,)."""
    norms = centroids.square().sum(dim=1)
    pieces = points.split(max(1, _PIECE // len(centroids)))
    return torch.cat([(2 * piece @ centroids.T - norms).argmax(dim=1) for piece in pieces])


def inertia(points: Tensor, centroids: Tensor) -> float:
    """Return the sum of the squared distances of points (M, D) to the nearest of centroids (K, D)."""
    own = nearest(points, centroids)
    pieces = zip(*(one.split(max(1, _PIECE // points.shape[1])) for one in (points, own)), strict=True)
    return sum(float((piece - centroids[mine]).square().sum(dtype=torch.float64)) for piece, mine in pieces)


def sums_and_counts(points: Tensor, own: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Return the sum (K, D) and the number, float64 (K,), of the points of each cluster."""
    sums = torch.zeros(clusters, points.shape[1], dtype=points.dtype, device=points.device)
    counts = torch.zeros(clusters, dtype=torch.float64, device=points.device)
    size = max(1, _PIECE // clusters)
    for piece, mine in zip(points.split(size), own.split(size), strict=True):
        # A product and not a scattered sum, which would add in any order on a GPU.
        member = piece.new_zeros(len(piece), clusters).scatter_(1, mine[:, None], 1)
        sums += member.T @ piece
        counts += member.sum(dim=0, dtype=torch.float64)
    return sums, counts


@torch.no_grad()
def lloyd(points: Tensor, clusters: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Return K centroids (K, D) of points (M, D) after some iterations of Lloyd's algorithm.

    It starts from random points. A cluster that got none takes half of the largest one.
    """
    order = torch.randperm(len(points), generator=generator)
    first = order[torch.arange(clusters) % len(points)]
    centroids = points[first.to(points.device)].clone()
    for _ in range(iterations):
        sums, counts = sums_and_counts(points, nearest(points, centroids), clusters)
        found = counts > 0
        centroids[found] = sums[found] / counts[found, None].to(sums.dtype)
        for empty in (~found).nonzero()[:, 0].tolist():
            largest = int(counts.argmax())
            sign = torch.ones_like(centroids[0])
            sign[1::2] = -1
            centroids[empty] = centroids[largest] * (1 + _SPLIT * sign)
            centroids[largest] *= 1 - _SPLIT * sign
            counts[empty] = counts[largest] = counts[largest] / 2
    return centroids


@torch.no_grad()
def move(centroids: Tensor, counts: Tensor, points: Tensor) -> None:
    """Assign points (M, D), and move centroids to the mean of all that they were given so far, in place.

    c_k becomes (1 − n_k/N_k) c_k + n_k/N_k · (mean of the n_k new points), with N_k the old ones and the new.
    Centroids of unit vectors are not normalized again.

    Args:
        centroids: (K, D); changed.
        counts: float64 (K,), points that each was given so far; changed.
    """
    sums, new = sums_and_counts(points, nearest(points, centroids), len(centroids))
    counts += new
    found = new > 0
    rate = (new / counts)[found, None].to(points.dtype)
    mean = sums[found] / new[found, None].to(points.dtype)
    centroids[found] = (1 - rate) * centroids[found] + rate * mean
