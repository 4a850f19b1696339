"""Modularity of a soft clustering of tokens, which CAUSE maximizes for its codebook and for its probe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.errors import UsageError

_TEMPERATURE = 0.1
_PRODUCTS = {"cpu": 2**18, "cuda": 2**26}
"""Products of memberships in memory at once, by device: a megabyte stays in a processor's cache."""


def modularity_loss(centers: Tensor, tokens: Tensor) -> Tensor:
    """Return −mean over images of Σ_pq W_pq δ_pq / e, with a gradient to `centers`.

    A is the positive part of the cosines of tokens, with a zero diagonal; d are its row sums, e their sum,
    and W = A − d dᵀ / e. With C the positive part of the cosines of tokens and centers,
    δ_pq = max over k of tanh(C_pk C_qk / 0.1): whether p and q belong to one cluster.

    The released code keeps C_pk C_qk for all p, q and k. The tanh rises, so the largest product decides;
    it is looked for in chunks, and only the winners enter the graph. An image without an edge counts 0,
    where the released code divides by 0 and loses the step.

    Args:
        centers: (K, D).
        tokens: (B, n, D); no gradient goes to them.
    """
    x = F.normalize(tokens.detach(), dim=2)
    membership = (x @ F.normalize(centers, dim=1).T).clamp(min=0)
    affinity = (x @ x.transpose(1, 2)).clamp(min=0)
    affinity.diagonal(dim1=1, dim2=2).zero_()
    degree = affinity.sum(dim=2)
    edges = degree.sum(dim=1)[:, None, None].clamp_min(torch.finfo(x.dtype).tiny)
    share = degree[:, :, None] / edges
    weights = affinity / edges - share @ share.transpose(1, 2)  # W / e
    best = torch.stack([largest_product(one) for one in membership.detach()])
    product = membership.gather(2, best)  # C_pk for the k of (p, q), which is that of (q, p)
    product = product * product.transpose(1, 2)
    return -(weights * torch.tanh(product / _TEMPERATURE)).sum(dim=(1, 2)).mean()


def largest_product(membership: Tensor) -> Tensor:
    """Return the k with the largest C_pk C_qk for every pair (p, q), int64 (n, n), from C (n, K)."""
    n, k = membership.shape
    rows = max(1, _PRODUCTS[membership.device.type] // (n * k))
    best = membership.new_empty(n, n, dtype=torch.int64)
    for p in range(0, n, rows):  # pairs p ≤ q, and in the last block's square some of the others
        some = membership[p : p + rows]
        best[p : p + rows, p:] = (some[:, None] * membership[p:]).argmax(dim=2)
    upper = best.triu()
    return upper + best.triu(1).T


def pooled(tokens: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Draw the places of one random token of every `side` × `side` block of a grid (B, D, h, w).

    What is left of a grid that is no multiple of `side` is never drawn, as in the released code.

    Raises:
        UsageError: when the grid is smaller than a block.

    Returns:
        int64 (B, n) on the device of `tokens`, row by row, for `take`.
    """
    b, _, h, w = tokens.shape
    if min(h, w) < side:
        raise UsageError(
            f"A grid of {h} × {w} patches has no block of {side} × {side} to draw a token from.",
            hint=f"Train on larger images, or set pooling={min(h, w)} or less.",
        )
    rows, columns = torch.arange(0, h - side + 1, side), torch.arange(0, w - side + 1, side)
    corners = (rows[:, None] * w + columns).flatten()
    offset = torch.randint(side**2, (b, len(corners)), generator=generator)
    return (corners + offset // side * w + offset % side).to(tokens.device)


def take(values: Tensor, places: Tensor) -> Tensor:
    """Return the tokens (B, n, D) of a grid (B, D, h, w) at `places` (B, n)."""
    flat = values.flatten(2)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
