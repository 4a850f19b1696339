"""Balanced soft assignments by optimal transport."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn(similarity: Tensor, epsilon: float, iterations: int, scope: Literal["image", "batch"]) -> Tensor:
    """Return the codes q_g of Eq. 5 by Sinkhorn's algorithm: exp(C̃ᵀX/ε), its marginals scaled in turn.

    Each iteration gives every cluster the same total, then every patch a total of 1, which makes the
    clusters' totals N/C in the limit. Logarithms keep a small ε from underflowing.

    Args:
        similarity: of patches with the global prototypes, (B, C, h, w).
        epsilon: weight of the entropy.
        iterations: how often both marginals are scaled.
        scope: "image", or "batch" to share one balance among all images.
    """
    log_q = similarity / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=(2, 3) if scope == "image" else (0, 2, 3), keepdim=True)
        log_q = log_q.log_softmax(dim=1)
    return log_q.exp()
