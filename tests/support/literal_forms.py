"""What shared losses compute, read literally: loops over points and plain sums."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def unit(x: Tensor, dim: int = 1) -> Tensor:
    return x / (x * x).sum(dim=dim, keepdim=True).sqrt()


def features(images: int = 4, channels: int = 6, h: int = 3, w: int = 4, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, h, w, dtype=torch.float64, generator=generator) + 0.3


def literal_sample(values: Tensor, points: Tensor) -> Tensor:
    """Bilinear interpolation point by point: −1 and 1 are the centers of the first and last patch."""
    images, _, h, w = values.shape
    columns = []
    for image in range(images):
        for x, y in points[image].reshape(-1, 2).tolist():
            column, row = (x + 1) / 2 * (w - 1), (y + 1) / 2 * (h - 1)
            left, top = min(int(column), max(w - 2, 0)), min(int(row), max(h - 2, 0))
            right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
            across, down = column - left, row - top
            v = values[image]
            upper = v[:, top, left] * (1 - across) + v[:, top, right] * across
            lower = v[:, bottom, left] * (1 - across) + v[:, bottom, right] * across
            columns.append(upper * (1 - down) + lower * down)
    return torch.stack(columns).reshape(images, -1, values.shape[1]).transpose(1, 2)


def literal_distillation(f, g, code, other, b, pointwise, zero_clamp) -> Tensor:
    """−mean (F − b) · max(S, 0), point by point, with the mean of F kept as the code keeps it."""
    images, points = range(len(f)), range(f.shape[2])
    closeness = [
        [[(unit(f)[i, :, p] * unit(g)[i, :, q]).sum() for q in points] for p in points] for i in images
    ]
    everything = [value for image in closeness for row in image for value in row]
    overall = sum(everything) / len(everything)
    terms = []
    for i, p in itertools.product(images, points):
        # Rows that lost their mean have an overall mean of 0, so that only the kept mean is added.
        shift = overall - sum(closeness[i][p]) / len(points) if pointwise else 0.0
        for q in points:
            agreement = (unit(code)[i, :, p] * unit(other)[i, :, q]).sum()
            if zero_clamp and agreement < 0:
                agreement = agreement * 0
            terms.append(-(closeness[i][p][q] + shift - b) * agreement)
    return torch.stack(terms).mean()


def literal_sinkhorn(s: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Equation 5 for one image, (C, N): rows to N/C, then columns to 1, on the matrix itself."""
    q = (s / epsilon).exp()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) * (s.shape[1] / s.shape[0])
        q = q / q.sum(dim=0, keepdim=True)
    return q
