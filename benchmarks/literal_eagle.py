"""Parts of EAGLE in the shape of its released code: a loop over images, full matrices, all distances at once.

No script: the opponents of `eagle_step.py`. Each takes what the method's own form takes, so that it can stand
in its place; `tests/methods/test_loss_memory.py` shows that both give the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def eigenvectors(code: Tensor, colors: Tensor, count: int) -> Tensor:
    """Return eigenvectors 2 to `count` + 1 of the normalized Laplacian, (B, count, h, w).

    Args:
        code: (B, d, h, w).
        colors: (B, 3, h, w).
    """
    b, _, h, w = code.shape
    s = code.flatten(2).transpose(1, 2)
    by_code = torch.bmm(s, s.transpose(1, 2))
    by_code = by_code * (by_code > 0)
    by_code = by_code / by_code.amax(dim=(1, 2), keepdim=True)
    pixels = colors.flatten(2).transpose(1, 2)
    by_color = torch.stack([torch.exp(-(torch.cdist(one, one) ** 2) / 0.02) for one in pixels])
    by_color = by_color / by_color.amax(dim=(1, 2), keepdim=True)
    weights = by_code + by_color
    degree = torch.stack([torch.diag(one.sum(dim=1)) for one in weights])
    half = torch.inverse(torch.sqrt(degree)).diagonal(dim1=1, dim2=2)
    half = torch.diag_embed(half)
    _, vectors = torch.linalg.eigh(torch.bmm(half, torch.bmm(degree - weights, half)), UPLO="U")
    vectors = vectors[:, :, : count + 1].clone()
    for image in range(b):
        if 0.5 < (vectors[image] > 0).float().mean().item() < 1:
            vectors[image] = -vectors[image]
    return vectors[:, :, 1:].transpose(1, 2).reshape(b, count, h, w)


def medoids(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the index of each label's medoid, from the table of all distances within the label.

    Args:
        values: (M, d).
        labels: int64 (M,).
    """
    found = []
    for label in range(count):
        members = (labels == label).nonzero()[:, 0]
        own = values[members]
        found.append(members[torch.cdist(own, own).sum(dim=0).argmin()])
    return torch.stack(found)


def patch_weights(keys: Tensor) -> Tensor:
    """Return the row means of K Kᵀ whose columns have unit length, (B·h·w,), for keys (B, D, h, w)."""
    k = keys.detach().flatten(2)
    return F.normalize(torch.matmul(k.transpose(1, 2), k), dim=1).mean(dim=2).flatten()
