"""The pairwise losses written out: every N × N matrix is made and kept, as reference code does.

No script: the opponents of `pair_losses.py` and `training_step.py`. Each function takes
what the method's own takes, so that it can stand in its place; `tests/methods/test_loss_memory.py` shows that
both give the same loss and gradient, and that memory is quadratic here and linear there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.nn import correspondence


def smoothness(
    x: Tensor, a: Tensor, partner: Tensor, b_intra: float, b_inter: float, global_offset: bool
) -> tuple[Tensor, Tensor]:
    """Return the means of (W − b) · δ within images and across, W and δ as (B, N, N): SmooSeg, Eqs. 2–4.

    Args:
        x: features of unit length, (B, D, N).
        a: assignments of unit length, (B, K, N).
        partner: the other image of each image, int64 (B,).
        b_intra, b_inter: shifts of W within an image and across images.
        global_offset: whether centering keeps the mean similarity over the batch.
    """

    def mean_over(y: Tensor, c: Tensor, b: float) -> Tensor:
        closeness = torch.einsum("bdp,bdq->bpq", x, y)
        centered = closeness - closeness.mean(dim=2, keepdim=True)
        if global_offset:
            centered = centered - centered.mean() + closeness.mean()
        penalty = 1 - torch.einsum("bkp,bkq->bpq", a, c)
        return ((centered - b) * penalty).mean()

    return mean_over(x, a, b_intra), mean_over(x[partner], a[partner], b_inter)


def mean_pair_loss(x: Tensor, y: Tensor, q: Tensor, p: Tensor, b: Tensor, r: float, center: bool) -> Tensor:
    """Return the mean of l · softplus(−(S + b) / r) + (1 − l) · softplus(r (S + b)): DS²DL, Eq. 3.

    Args:
        x, y: what S compares, of unit length, (B, D, N).
        q, p: label features, (B, C, N).
        b: the bias, a scalar.
        r: strength of the mining.
        center: whether S is centered over the patches of the second image.
    """
    similarity = torch.einsum("bdp,bdq->bpq", x, y)
    if center:
        similarity = similarity - similarity.mean(dim=2, keepdim=True)
    label = torch.einsum("bcp,bcq->bpq", q, p)
    close, far = F.softplus(-(similarity + b) / r), F.softplus(r * (similarity + b))
    return (label * close + (1 - label) * far).mean()


def distillation(
    f: Tensor, g: Tensor, code: Tensor, other: Tensor, b: float, pointwise: bool, zero_clamp: bool
) -> Tensor:
    """Return −mean of (F − b) · max(S, 0) with F and S as (B, P, P): STEGO's correspondence loss.

    P is the number of sampled points, 121 and not N, so that the matrices are small. With the clamp the
    term is not bilinear and does not factorise: the method's own form makes the same matrices.

    Args:
        f, g: features at the points, (B, D, P), without gradient.
        code, other: codes at the same points, (B, d, P).
        b: shift of F.
        pointwise: whether F is centered for each point.
        zero_clamp: whether negative agreement counts as 0.
    """
    f, g, code, other = (F.normalize(one, dim=1, eps=1e-10) for one in (f, g, code, other))
    closeness = torch.einsum("bdp,bdq->bpq", f, g).detach()
    if pointwise:
        centered = closeness - closeness.mean(dim=2, keepdim=True)
        closeness = centered - centered.mean() + closeness.mean()
    agreement = torch.einsum("bdp,bdq->bpq", code, other)
    if zero_clamp:
        agreement = agreement.clamp(min=0)
    return -((closeness - b) * agreement).mean()


PLACES = {
    "smooseg": (None, "smoothness", smoothness),
    "ds2dl": (None, "mean_pair_loss", mean_pair_loss),
    "stego": (correspondence, "distillation", distillation),
}
"""For each method: the module of its loss (None for its own), its name there, and its literal form."""
