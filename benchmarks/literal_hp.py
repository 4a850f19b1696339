"""HP's local propagation and contrastive loss in the shape of its released code: every matrix is made.

No script: the opponent of `hp_step.py`. Each function takes what the method's own takes, so that it can
stand in its place; `tests/methods/test_hp.py` shows that they give the same values and gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Return the loss image by image, each with its N × B·N matrices, masks among them."""
    b, n = z.shape[:2]
    flat_f, flat_e, limit, limit_e = f.flatten(0, 1), e.flatten(0, 1), r.flatten(), r_e.flatten()
    total = z.new_zeros(())
    for image in range(b):
        rows = slice(image * n, (image + 1) * n)
        others = torch.ones(n, b * n, dtype=z.dtype, device=z.device)
        others[torch.arange(n), torch.arange(n) + image * n] = 0

        def mask(x: Tensor, bound: Tensor, others: Tensor = others, rows: slice = rows) -> Tensor:
            cosine = x[rows] @ x.T
            return ((bound[rows, None] < cosine) | (bound < cosine)).to(z.dtype) * others

        positive, specific = mask(flat_f, limit), mask(flat_e, limit_e)
        denominator = (positive.bool() | candidates).to(z.dtype) * others
        kept = positive.sum(dim=1) > 0
        w = (positive + weight * specific)[kept]
        share = w.sum(dim=1) / w.sum(dim=1).mean()
        for code in (z.flatten(0, 1), z_mix.flatten(0, 1)):
            s = code[rows] @ code.T / temperature
            s = s - s.amax(dim=1, keepdim=True).detach()
            log_share = s - (s.exp() * denominator).sum(dim=1, keepdim=True).log()
            mean = (w * log_share[kept]).sum(dim=1) / w.sum(dim=1)
            total = total - (temperature / 0.07 * mean * share).mean()
    return total / b / 2


def propagated(code: Tensor, weights: Tensor) -> Tensor:
    """Return codes mixed over their neighborhood by whole maps of attention, image by image.

    Args:
        code: (B, d, h, w).
        weights: of the neighborhood (B, 9, h, w), which are laid into maps (h·w, h·w) here.
    """
    _, _, h, w = code.shape
    place = torch.arange(h * w)
    mixed = []
    for one, near in zip(code.flatten(2).transpose(1, 2), weights.flatten(2), strict=True):
        attention = code.new_zeros(h * w, h * w)
        count = code.new_zeros(h * w, 1)
        for number in range(9):
            row, column = place // w + number // 3 - 1, place % w + number % 3 - 1
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            attention[place[inside], (row * w + column)[inside]] = near[number, inside]
            count[inside] += 1
        mixed.append((attention[:, :, None] * one[None]).sum(dim=1) / count)
    return torch.stack(mixed).transpose(1, 2).unflatten(2, (h, w))
