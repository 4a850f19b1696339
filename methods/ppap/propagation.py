"""Progressive proxy anchors: the positives of an anchor, and the negatives that are sure (PPAP, Sec. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def propagate(
    anchors: Tensor,
    features: Tensor,
    *,
    phi: float,
    psi: float,
    moves: int,
    sigma_pos: float,
    sigma_amb: float,
) -> tuple[Tensor, Tensor]:
    """Return positives and sure negatives of every anchor, bool (A, M) each.

    The proxy of an anchor starts as the anchor and moves `moves` times to the normalized mean of its
    positives. With m the cosine between a proxy and the one before, Ψ rises by (1 − m) / sigma_amb and Φ
    falls by (1 − m) / sigma_pos. Positives have a cosine with the proxy above Φ, negatives below Ψ, and
    what lies between is ambiguous. A patch may be both when Ψ > Φ.

    Args:
        anchors, features: unit rows, (A, D) and (M, D).
        phi, psi: Φ and Ψ at the start.
    """
    positive, negative = (anchors.new_full((len(anchors), 1), one) for one in (phi, psi))
    proxy = anchors
    cosine = proxy @ features.T
    chosen = cosine > positive
    for _ in range(moves):
        before, proxy = proxy, F.normalize(chosen.to(features.dtype) @ features, dim=1)
        moved = 1 - F.cosine_similarity(before, proxy, dim=1)[:, None]
        negative, positive = negative + moved / sigma_amb, positive - moved / sigma_pos
        cosine = proxy @ features.T
        chosen = cosine > positive
    return chosen, cosine < negative


def proxy_contrast(
    z: Tensor, anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """Return −(T / 0.07) · mean over anchors of the mean over positives of s − log Σ exp s; 0 without any.

    The sum runs over positives and negatives. Anchors without a positive are left out.

    Args:
        z: projected patches, unit rows (M, d).
        anchors: indices (A,) of the anchors among them.
        positives, negatives: bool (A, M).
    """
    rows = torch.arange(len(anchors), device=z.device)
    positives = positives.index_put((rows, anchors), torch.tensor(False, device=z.device))
    denominator = (positives | negatives).index_put((rows, anchors), torch.tensor(False, device=z.device))
    kept = positives.any(dim=1)
    if not kept.any():
        return z.sum() * 0
    s = z[anchors[kept]] @ z.T / temperature
    log_p = s - s.masked_fill(~denominator[kept], -torch.inf).logsumexp(dim=1, keepdim=True)
    own = positives[kept].to(z.dtype)
    return -(temperature / 0.07) * ((own * log_p).sum(dim=1) / own.sum(dim=1)).mean()
