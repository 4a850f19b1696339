"""HP's contrastive loss over all pairs of a batch, without the matrices of its pairs.

Every patch of an image is an anchor against every patch of the batch: 784 × 50,176 pairs per image at the
published batch, and some twenty such matrices in the released code. Once its two normalizations are written
out the loss is a sum over pairs, so it is taken in tiles of anchors, and its gradient along with it. What
is kept of an image is which pairs are positive, one byte a pair: memory is linear in the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE = 2**22
"""Pairs of one tile: 16 MB of float32 for each of the matrices in use."""

SCALE = 0.07
"""Temperature that the released code scales the loss by: T / 0.07."""


def thresholds(features: Tensor, pool: Tensor) -> Tensor:
    """Return R, the cosine of every patch with its nearest entry of the pool; (M,) for unit rows (M, D)."""
    rows = max(1, _TILE // len(pool))
    return torch.cat([(chunk @ pool.T).amax(dim=1) for chunk in features.split(rows)])


def hidden_positive_loss(
    z: Tensor,
    z_mix: Tensor,
    f: Tensor,
    r: Tensor,
    e: Tensor,
    r_e: Tensor,
    candidates: Tensor,
    *,
    weight: float,
    temperature: float,
) -> Tensor:
    """Return the mean over images of the contrastive loss of `z` and of `z_mix`, halved.

    For an anchor i of image m and any other patch j of the batch, with s = z·z / T:

    - M_ij: f_i·f_j exceeds R_i or R_j (task-agnostic positive); M^e_ij likewise from e (task-specific);
    - w_ij = M_ij + weight · M^e_ij, for anchors with at least one M;
    - D_i: the j with M_ij, and the random candidates; a positive of M^e alone may lie outside;
    - l_ij = s_ij − log Σ_{k in D_i} exp s_ik.

    The released code weights every anchor's mean of l over its positives with the anchor's share of the
    positives. That is −(T / 0.07) Σ_ij w_ij l_ij / Σ_ij w_ij over the anchors of the image. An image without
    positives adds 0, where the released code would be NaN.

    Args:
        z, z_mix: projected codes and locally propagated codes, unit rows (B, N, d); these get gradients.
        f, e: frozen features (B, N, D) and codes of the averaged head (B, N, d), unit rows.
        r, r_e: thresholds of every patch, (B, N).
        candidates: bool (N, B · N), one draw per step that every image uses.
        weight: λ, the weight of task-specific positives.
        temperature: T.
    """
    loss: Tensor = _HiddenPositives.apply(z, z_mix, f, r, e, r_e, candidates, weight, temperature)
    return loss


class _HiddenPositives(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        z_mix: Tensor,
        f: Tensor,
        r: Tensor,
        e: Tensor,
        r_e: Tensor,
        candidates: Tensor,
        weight: float,
        temperature: float,
    ) -> Tensor:
        b, n = z.shape[:2]
        codes = [one.reshape(b * n, -1) for one in (z, z_mix)]
        f, e, r, r_e = f.reshape(b * n, -1), e.reshape(b * n, -1), r.reshape(-1), r_e.reshape(-1)
        gradients = [torch.zeros_like(one) for one in codes]
        total = z.new_zeros(())
        rows = max(1, _TILE // (b * n))
        for image in range(b):
            start, stop = image * n, (image + 1) * n
            tiles = [slice(first, min(first + rows, stop)) for first in range(start, stop, rows)]
            # The image's own share of positives scales its gradient, so that they are found first.
            positive = torch.cat([_positives(f, r, tile) for tile in tiles])
            kept = positive.any(dim=1)
            mass = positive.sum(dim=1).to(z.dtype)
            specific = None
            if weight:
                specific = torch.cat([_positives(e, r_e, tile) for tile in tiles])
                mass.add_(specific.sum(dim=1), alpha=weight)
            mass *= kept
            factor = -(temperature / SCALE) / mass.sum().clamp_min(1) / (b * len(codes))
            for tile in tiles:
                here = slice(tile.start - start, tile.stop - start)
                outside = ~(positive[here] | candidates[here])
                _set_self(outside, tile, True)
                w = positive[here].to(z.dtype)
                if specific is not None:
                    w.add_(specific[here], alpha=weight)
                    w *= kept[here, None]
                for code, gradient in zip(codes, gradients, strict=True):
                    s = code[tile] @ code.T
                    s /= temperature
                    total += factor * (w * s).sum()
                    s.masked_fill_(outside, -torch.inf)
                    # Anchors without positives have no loss; a zero keeps their row finite.
                    log_sum = torch.where(kept[here], s.logsumexp(dim=1), 0)
                    total -= factor * (mass[here] * log_sum).sum()
                    # Over s: w − (Σ w) softmax over D.
                    slope = s.sub_(log_sum[:, None]).exp_().mul_(-mass[here, None]).add_(w)
                    slope *= factor / temperature
                    gradient[tile] += slope @ code
                    gradient.addmm_(slope.T, code[tile])
        ctx.gradients = tuple(one.reshape(z.shape) for one in gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad * one for one in ctx.gradients), *([None] * 7)


def _positives(x: Tensor, limit: Tensor, tile: slice) -> Tensor:
    """Return bool (rows, M): whose cosine exceeds the limit of either patch, a patch itself left out."""
    # More than the smaller of two limits is more than one of them.
    found = x[tile] @ x.T > torch.minimum(limit[tile, None], limit)
    _set_self(found, tile, False)
    return found


def _set_self(mask: Tensor, tile: slice, value: bool) -> None:
    rows = torch.arange(mask.shape[0], device=mask.device)
    mask[rows, rows + tile.start] = value
