"""SmooSeg's shifts judged without labels: the closeness of frozen features, and the smoothness degree.

The method's loss (Eq. 4) is the mean of (W − b)·δ over pairs of patches within an image and across two.
Closeness W comes from frozen features, δ = 1 − cos(A_p, A_q) from the learned assignment A. A pair with
W > b is pulled together and any other is pushed apart, so b decides how smooth a labelling becomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 100
NEAR = 0.1
"""How far from 0 or 1 a smoothness degree still counts for that end."""


@dataclass(frozen=True)
class Closeness:
    """Closeness of one kind of pairs, within images or across them, against its shift.

    `counts` are of `edges`, which span the values that occur; `mean` is that of W over all pairs.
    """

    shift: float
    mean: float
    pulled: float
    """Share of pairs with W > b."""
    counts: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class Degree:
    """The smoothness degree δ of all pairs of patches within images (Fig. 8)."""

    smooth: float
    """Share of pairs with δ < 0.1: labelled alike."""
    apart: float
    """Share of pairs with δ > 0.9."""
    counts: np.ndarray
    edges: np.ndarray

    @property
    def bimodality(self) -> float:
        """4 · smooth · apart: 1 for two equal peaks at 0 and 1, 0 where either is missing."""
        return 4 * self.smooth * self.apart


def margin(within: Closeness, across: Closeness) -> float:
    """Return b₁ + b₂ − (mean W within + mean W across).

    The loss of a labelling in which all patches are alike (δ = 0) is 0; if all were different (δ = 1) it
    would be minus this margin. Below 0 the labelling that is constant everywhere is the cheaper extreme.
    """
    return within.shift + across.shift - within.mean - across.mean


def closeness(
    images: Mapping[int, Tensor], pairs: Iterable[tuple[int, int]], shift: float, *, global_offset: bool
) -> Closeness:
    """Return the closeness of all pairs of patches of some pairs of images.

    W_pq = x_p·y_q − mean_q(x_p·y_q) + g, with g the mean similarity over all pairs, or 0: Eq. 2, and what
    the released code adds.

    Args:
        images: features (D, N) by index; they are normalised here.
        pairs: which images are compared; an image with itself for pairs within.
    """
    unit = {index: F.normalize(features, dim=0, eps=1e-10) for index, features in images.items()}
    chosen = list(pairs)
    means = [float(unit[i].mean(dim=1) @ unit[j].mean(dim=1)) for i, j in chosen]
    offset = sum(means) / len(means) if global_offset else 0.0

    def values() -> Iterator[Tensor]:
        for i, j in chosen:
            similarity = unit[i].T @ unit[j]
            yield similarity - similarity.mean(dim=1, keepdim=True) + offset

    ends = [torch.stack(torch.aminmax(value)).numpy() for value in values()]
    edges = np.linspace(min(low for low, _ in ends), max(high for _, high in ends), BINS + 1)
    counts = np.zeros(BINS, dtype=np.int64)
    pulled = total = 0
    for value in values():
        counts += np.histogram(value.numpy(), edges)[0]
        pulled += int((value > shift).sum())
        total += value.numel()
    # Centring makes the mean of every row 0, so what is left of the mean is the offset.
    return Closeness(shift, offset, pulled / total, counts, edges)


def smoothness_degree(assignments: Iterable[Tensor]) -> Degree:
    """Return δ = 1 − cos(A_p, A_q) of all pairs of patches within each image.

    Args:
        assignments: A of each image, softmax probabilities (K, N).
    """
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.zeros(BINS, dtype=np.int64)
    smooth = apart = total = 0
    for assignment in assignments:
        unit = F.normalize(assignment, dim=0)
        degree = (1 - unit.T @ unit).clamp(0, 1)
        counts += np.histogram(degree.numpy(), edges)[0]
        smooth += int((degree < NEAR).sum())
        apart += int((degree > 1 - NEAR).sum())
        total += degree.numel()
    return Degree(smooth / total, apart / total, counts, edges)
