"""Prototypes on the unit sphere: cosine logits, a start, and k-means by gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cosine_logits(code: Tensor, prototypes: Tensor) -> Tensor:
    """Return the cosine of every pixel's code with every prototype.

    Args:
        code: (B, d, h, w), not necessarily normalized.
        prototypes: (K, d), not necessarily normalized.

    Returns:
        (B, K, h, w) in [-1, 1].
    """
    return torch.einsum("bdhw,kd->bkhw", F.normalize(code, dim=1), F.normalize(prototypes, dim=1))


def unit_prototypes(clusters: int, dim: int) -> Tensor:
    """Draw (K, d) unit vectors from Xavier's normal distribution, as SmooSeg's code starts its prototypes."""
    return F.normalize(nn.init.xavier_normal_(torch.empty(clusters, dim)), dim=1)


def probe_loss(code: Tensor, centroids: Tensor) -> Tensor:
    """Return −mean over patches of the cosine with the nearest centroid: k-means by gradient.

    The cluster probe of the STEGO lineage. The gradient goes to whatever has one; STEGO detaches the code.

    Args:
        code: (B, d, h, w).
        centroids: (K, d).
    """
    return -cosine_logits(code, centroids).amax(dim=1).mean()
