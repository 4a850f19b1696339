"""The correspondence loss of STEGO (Hamilton et al., ICLR 2022), which DepthG, EQUSS and ReIB share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.nn.pairing import near_derangement


def correspondence_terms(
    f: Tensor,
    f_pos: Tensor,
    code: Tensor,
    code_pos: Tensor,
    points: tuple[Tensor, Tensor],
    draws: torch.Generator,
    *,
    b_self: float,
    b_knn: float,
    b_rand: float,
    negatives: int,
    pointwise: bool,
    zero_clamp: bool,
) -> dict[str, Tensor]:
    """Return the self, kNN and random terms, unweighted: ``corr_self``, ``corr_knn``, ``corr_rand``.

    An image's own points serve all three terms; its neighbor and its random partners share other points.

    Args:
        f, f_pos: features of a batch and of its nearest neighbors, (B, D, h, w); no gradient goes to them.
        code, code_pos: their codes, (B, d, h, w).
        points: where an image is sampled, and where its neighbor and partners are; see `sample`.
        draws: where random partners come from.
        b_self, b_knn, b_rand: shifts; correspondence above them attracts.
        negatives: random partners per image.
        pointwise, zero_clamp: see `distillation`.
    """
    here, there = points
    f_here, code_here = sample(f, here), sample(code, here)

    def term(g: Tensor, other: Tensor, b: float) -> Tensor:
        return distillation(f_here, g, code_here, other, b, pointwise, zero_clamp)

    rand = []
    for _ in range(negatives):
        partner = near_derangement(len(f), draws).to(f.device)
        rand.append(term(sample(f[partner], there), sample(code[partner], there), b_rand))
    return {
        "corr_self": term(f_here, code_here, b_self),
        "corr_knn": term(sample(f_pos, there), sample(code_pos, there), b_knn),
        "corr_rand": torch.stack(rand).mean(),
    }


def distillation(
    f: Tensor, g: Tensor, code: Tensor, other: Tensor, b: float, pointwise: bool, zero_clamp: bool
) -> Tensor:
    """Return −mean over images and pairs of points of (F − b) · max(S, 0): L_corr, Eq. 4.

    F (Eq. 1) and S are the cosines of features and of codes. With `pointwise`, F becomes F minus its
    mean over the second image's points (Eq. 3), shifted so that the mean over the whole batch stays as
    it was, which is the released code's. Without `pointwise` and `zero_clamp` this is Eq. 2.

    Args:
        f, g: features at the points of the two images, (B, D, P); no gradient goes to them.
        code, other: codes at the same points, (B, d, P).
    """
    with torch.no_grad():
        closeness = cosines(f, g)
        if pointwise:
            overall = closeness.mean()
            closeness = closeness - closeness.mean(dim=2, keepdim=True)
            closeness = closeness - closeness.mean() + overall
    agreement = cosines(code, other)
    return -((closeness - b) * (agreement.clamp(min=0) if zero_clamp else agreement)).mean()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return (B, P, Q): the cosine of every point of (B, D, P) with every point of (B, D, Q)."""
    return F.normalize(a, dim=1, eps=1e-10).transpose(1, 2) @ F.normalize(b, dim=1, eps=1e-10)


def random_points(images: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw side × side uniform points (x, y) in [−1, 1]² for each image: (B, side, side, 2)."""
    return 2 * torch.rand(images, side, side, 2, generator=generator) - 1


def sample(values: Tensor, points: Tensor) -> Tensor:
    """Interpolate (B, D, h, w) bilinearly at points (B, S, S, 2), where ±1 are the outer patches' centers."""
    points = points.to(values.dtype)
    return F.grid_sample(values, points, padding_mode="border", align_corners=True).flatten(2)
