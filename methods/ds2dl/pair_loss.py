"""The pair loss of DS²DL, Eqs. 1 to 3, without the N × N matrices of its pairs.

The loss is a sum over pairs of patches, so it is taken in tiles of rows, and each tile's share of the
gradient is taken with it, while its numbers are in the processor's cache. Nothing of the size of a tile
is kept: memory is linear in N, where the literal form holds a dozen N × N matrices per image.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE = 2**18
"""Pairs of one tile: a megabyte of float32, so that the few matrices in use fit into the cache."""


def mean_pair_loss(x: Tensor, y: Tensor, q: Tensor, p: Tensor, b: Tensor, r: float, center: bool) -> Tensor:
    """Return L_p, the mean over B pairs of images and all N² pairs of their patches; Eq. 3.

    With S = xᵀy, centered or not, and the soft labels l = qᵀp of Eq. 2, a pair contributes
    l · softplus(−(S + b) / r) + (1 − l) · softplus(r (S + b)).

    Args:
        x, y: what S compares, unit vectors of the two images' patches, (B, D, N).
        q, p: label features of the same patches, (B, C, N).
        b: the bias, a scalar.
        r: strength of the mining.
        center: whether S is centered over the patches of the second image.
    """
    loss: Tensor = _PairLoss.apply(x, y, q, p, b, r, center)
    return loss


class _PairLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, q: Tensor, p: Tensor, b: Tensor, r: float, center: bool
    ) -> Tensor:
        needed = ctx.needs_input_grad
        dx, dy, dq, dp = (
            torch.zeros_like(one) if need else None for one, need in zip((x, y, q, p), needed, strict=False)
        )
        db, total = torch.zeros_like(b), torch.zeros_like(b)
        n = x.shape[2]
        rows = max(1, _TILE // n)
        for i, first in itertools.product(range(len(x)), range(0, n, rows)):
            tile = slice(first, first + rows)
            t = x[i, :, tile].T @ y[i]
            if center:
                t -= t.mean(dim=1, keepdim=True)
            t += b
            label = q[i, :, tile].T @ p[i]
            near, far = t * (-1 / r), t.mul_(r)
            slope = softplus(far)
            total += slope.sum()
            slope = torch.sub(softplus(near), slope, out=slope)  # of the loss over the label
            pull = p[i] @ slope.T
            total += (q[i, :, tile] * pull).sum()  # of label · slope, without another matrix
            if dq is not None:
                dq[i, :, tile] += pull
            if dp is not None:
                dp[i].addmm_(q[i, :, tile], slope)
            if any(needed[:2]) or needed[4]:
                # Over t: (1 − l) · r σ(r t) − l · σ(−t / r) / r.
                near, far = near.sigmoid_().div_(r), far.sigmoid_().mul_(r)
                slope = torch.addcmul(far, near.add_(far), label, value=-1, out=slope)
                db += slope.sum()
                if center:
                    slope -= slope.mean(dim=1, keepdim=True)
                if dx is not None:
                    dx[i, :, tile] += y[i] @ slope.T
                if dy is not None:
                    dy[i].addmm_(x[i, :, tile], slope)
        pairs = len(x) * n * n
        ctx.gradients, ctx.pairs = (dx, dy, dq, dp, db), pairs
        return total / pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        scale = grad / ctx.pairs
        return *(None if slope is None else slope * scale for slope in ctx.gradients), None, None


def softplus(t: Tensor) -> Tensor:
    """Return log(1 + exp(t)), for any t, as max(t, 0) − log σ(|t|).

    Its absolute error is that of rounding, and it takes a quarter of the time of `F.softplus`, whose
    log1p is slow on a CPU.
    """
    return F.relu(t).sub_(t.abs().sigmoid_().log_())
