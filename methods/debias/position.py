"""What a polynomial of a patch's position explains of its features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from uss_bench.contracts import Features


def position_terms(size: Sequence[int], degree: int) -> Tensor:
    """Return the terms P_i(y) · P_j(x) with 1 ≤ i + j ≤ degree at each patch's center: float64 (terms, h, w).

    P_i are Legendre polynomials, x and y run over [−1, 1] across an item, whatever its patches: what was
    fitted on a grid of 28 × 28 is evaluated on 40 × 40. The constant is no term: a mean is not position.
    """

    def of_side(count: int) -> np.ndarray:
        centers = (2 * np.arange(count) + 1) / count - 1
        return legendre.legvander(centers, degree)  # (count, degree + 1)

    height, width = size
    rows, columns = of_side(height), of_side(width)
    orders = [(i, n - i) for n in range(1, degree + 1) for i in range(n + 1)]
    terms = [np.outer(rows[:, i], columns[:, j]) for i, j in orders]
    return torch.from_numpy(np.stack(terms) if terms else np.zeros((0, height, width)))


def positional_component(features: Features, *, degree: int, chunk: int = 32) -> dict[str, np.ndarray]:
    """Return ``coefficients`` float32 (terms, D): all patches fitted by terms and a constant.

    Every item has the same positions, so the least-squares fit of all patches is that of the mean item. With
    fewer positions than terms it is the fit of the least norm.
    """
    total = torch.zeros(())
    for items in torch.arange(len(features)).split(chunk):
        tokens = features.batch(items)["tokens"].double().sum(dim=0)
        total = total.to(tokens) + tokens
    mean = (total / len(features)).cpu()
    terms = position_terms(mean.shape[1:], degree)
    design = torch.cat([torch.ones_like(mean[:1]), terms])
    fitted = np.linalg.lstsq(design.flatten(1).T.numpy(), mean.flatten(1).T.numpy(), rcond=None)[0]
    return {"coefficients": fitted[1:].astype(np.float32)}
