"""Recursive normalized cut of one image's patches (Shi and Malik, "Normalized Cuts", PAMI 2000)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

_DENSE = 64
"""Patches up to which all eigenvectors are computed; Lanczos' iteration pays beyond."""
_TIED = 1e-9
"""Share of the range of an eigenvector below which two entries are equal: no cut goes between them."""


def segments(item: Mapping[str, Tensor], *, exponent: float, threshold: float) -> dict[str, np.ndarray]:
    """Return a training item's segments: ``map`` int16 (h, w) and their mean features ``means`` (S, D)."""
    tokens = item["tokens"]
    found = segment_map(tokens, exponent=exponent, threshold=threshold)
    return {"map": found.numpy(), "means": segment_means(tokens, found).numpy()}


def segment_map(tokens: Tensor, *, exponent: float, threshold: float) -> Tensor:
    """Cut patches (D, h, w) in two, and each part again: int16 (h, w), numbered in reading order.

    A part stays whole when its best cut has a value of `threshold` or more.
    """
    weights = affinity(tokens, exponent)
    found = torch.zeros(len(weights), dtype=torch.int64)
    parts, whole = [torch.arange(len(weights))], 0
    while parts:
        part = parts.pop()
        first, value = (
            best_cut(weights[part][:, part]) if len(part) > 1 else (part.new_zeros(1).bool(), np.inf)
        )
        if value < threshold:
            parts += [part[first], part[~first]]
        else:
            found[part] = whole
            whole += 1
    _, starts = np.unique(found.numpy(), return_index=True)
    order = torch.from_numpy(starts.argsort().argsort())
    return order[found].to(torch.int16).view(tokens.shape[1:])


def affinity(tokens: Tensor, exponent: float) -> Tensor:
    """Return weights between patches, float64 (n, n): cosines scaled to [0, 1], to a power."""
    unit = F.normalize(tokens.flatten(1).double(), dim=0)
    cosine = unit.T @ unit
    least, spread = cosine.min(), cosine.max() - cosine.min()
    if spread < 1e-9:  # all patches are alike
        return torch.ones_like(cosine)
    return ((cosine - least) / spread).clamp(0, 1) ** exponent


def best_cut(weights: Tensor) -> tuple[Tensor, float]:
    """Return one side of the best cut, bool (n,), and its value cut / vol(side) + cut / vol(other).

    Candidates are all thresholds of the random walk's second eigenvector, n − 1 cuts in O(n²): with the
    patches in its order, what lies within the first k grows by a row at a time.
    """
    degree = weights.sum(dim=1)
    walk = torch.from_numpy(_second_eigenvector(weights, degree)) / degree.sqrt()
    order = walk.argsort(stable=True)
    ordered, degrees, steps = weights[order][:, order], degree[order], walk[order].diff()
    within = (2 * ordered.tril(-1).sum(dim=1) + ordered.diagonal()).cumsum(0)[:-1]
    volume = degrees.cumsum(0)[:-1]
    cut = volume - within
    value = cut / volume + cut / (degrees.sum() - volume)
    value = value.masked_fill(steps <= _TIED * steps.sum(), torch.inf)
    best = int(value.argmin())
    side = torch.zeros(len(degree), dtype=torch.bool)
    side[order[: best + 1]] = True
    return side, float(value[best])


def _second_eigenvector(weights: Tensor, degree: Tensor) -> np.ndarray:
    """Return the eigenvector (n,) of the second largest eigenvalue of D^−½ W D^−½, of either sign.

    That of the largest one is known, D^½ 1, and taken out.
    """
    count, root = len(degree), degree.sqrt()
    matrix = weights / root / root[:, None]
    known = root / root.norm()
    if count > _DENSE:

        def apply(x: np.ndarray) -> np.ndarray:
            vector = torch.from_numpy(np.ascontiguousarray(x)).reshape(-1)
            product: np.ndarray = (matrix @ vector - 2 * known * (known @ vector)).numpy()
            return product

        start = np.cos(np.arange(count))  # fixed, and not symmetric under any arrangement of the patches
        operator = LinearOperator((count, count), matvec=apply, dtype=np.float64)
        try:
            vectors: np.ndarray = eigsh(operator, k=1, which="LA", v0=start)[1]
            return vectors[:, 0]
        except ArpackNoConvergence:
            pass  # eigenvalues that are nearly equal; all of them are computed then
    deflated = (matrix - 2 * torch.outer(known, known)).numpy()
    _, vectors = scipy.linalg.eigh(deflated, subset_by_index=[count - 1, count - 1])
    return vectors[:, 0]


def segment_means(tokens: Tensor, found: Tensor) -> Tensor:
    """Return the mean features (S, D) of the segments of a map (h, w) over tokens (D, h, w)."""
    index = found.flatten().long().to(tokens.device)
    sums = tokens.new_zeros(int(index.max()) + 1, len(tokens)).index_add_(0, index, tokens.flatten(1).T)
    return sums / torch.bincount(index)[:, None]
