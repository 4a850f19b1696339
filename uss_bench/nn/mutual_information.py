"""Mutual information of two soft label maps over a window of displacements, as IIC maximizes.

Ji, Henriques, Vedaldi, "Invariant Information Clustering for Unsupervised Image Classification and
Segmentation" (ICCV 2019), Eqs. 1 to 5, and the weighted entropies of the released code.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from uss_bench.errors import UsageError

Displacements = Literal["each", "summed"]

EPS = 2.220446049250313e-16
"""Smallest probability: numpy's float64 epsilon, as in the released code."""


def joint_counts(first: Tensor, second: Tensor, half_window: int) -> Tensor:
    """Return Σ over images and places u of first_i(u + t) · second_j(u), for every displacement t.

    Outside a map there is 0. All displacements together are one cross-correlation, which is computed by
    Fourier transforms: a product of class maps for each frequency takes as many operations as one
    displacement does directly, and the released convolution (2·half_window + 1)² times as many.

    Args:
        first, second: (B, I, h, w) and (B, J, h, w), float32 or float64.
        half_window: largest displacement along either axis, in positions.

    Returns:
        (T, T, I, J) with T = 2·half_window + 1; rows before columns, from -half_window on.
    """
    size = [side + half_window for side in first.shape[2:]]  # no displacement wraps around onto the map
    a, b = (torch.fft.rfft2(maps, s=size).permute(2, 3, 1, 0) for maps in (first, second))
    spectrum = (a @ b.conj().transpose(2, 3)).permute(2, 3, 0, 1)
    counts = torch.fft.irfft2(spectrum, s=size)
    window = torch.arange(-half_window, half_window + 1, device=first.device)
    near: Tensor = counts[:, :, window % size[0]][:, :, :, window % size[1]]
    return near.permute(2, 3, 0, 1)


def information_loss(
    first: Tensor,
    second: Tensor,
    *,
    half_window: int = 0,
    entropy_weight: float = 1.0,
    displacements: Displacements = "each",
    seen: Tensor | None = None,
) -> Tensor:
    """Return Σ_ij -P_ij (log P_ij - λ log P_i - λ log P_j), as a mean over displacements.

    P is the joint distribution of the classes of two places that are a displacement apart, of unit sum and
    made symmetric. With λ = 1 the loss is the negative mutual information; a larger λ weighs the entropy of
    the marginals more, which keeps classes from dying out.

    Args:
        first, second: class probabilities (B, K, h, w) of two views, one laid over the other.
        half_window: largest displacement along either axis, in positions.
        entropy_weight: λ.
        displacements: `each` has an information of its own, as in the released commands, or all are
            `summed` into one P.
        seen: (B, 1, h, w), where both views show something; None for everywhere.

    Raises:
        UsageError: when a map is so small that no two of its places are `half_window` apart.
    """
    if half_window >= min(first.shape[2:]):
        height, width = first.shape[2:]
        raise UsageError(
            f"No two places of a map of {width}×{height} positions (width × height) are "
            f"half_window = {half_window} apart.",
            hint="Choose a smaller window (--set half_window=N) or larger images (--training side=N).",
        )
    if seen is not None:
        first, second = first * seen, second * seen
    joint = joint_counts(first, second, half_window).flatten(0, 1)
    if displacements == "summed":
        joint = joint.sum(dim=0, keepdim=True)
    joint = joint / joint.sum(dim=(1, 2), keepdim=True)
    joint = (joint + joint.transpose(1, 2)) / 2
    rows, columns = joint.sum(dim=2, keepdim=True), joint.sum(dim=1, keepdim=True)
    joint, rows, columns = (one.clamp(min=EPS) for one in (joint, rows, columns))
    inner = joint.log() - entropy_weight * (rows.log() + columns.log())
    return -(joint * inner).sum(dim=(1, 2)).mean()
