"""Attention logits kept in a compact form: those of the 3×3 neighborhood, and quantiles of each row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def compact(item: Mapping[str, Tensor], *, prefix: int, low: float, high: float) -> dict[str, np.ndarray]:
    """Return of one image ``near``, float32 (9, h, w), and ``quantiles``, float32 (2, h, w).

    Args:
        prefix: tokens before the patches, which are left out.
        low, high: the quantiles of a patch's logits over all patches.
    """
    height, width = item["tokens"].shape[1:]
    logits = item["attention_logits_mean@-1"][prefix:, prefix:]
    grid = F.pad(logits.unflatten(1, (height, width)), (1, 1, 1, 1), value=-torch.inf)
    windows = grid.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)  # (P, h, w, 9)
    own = torch.arange(height * width)
    near = windows[own, own // width, own % width].T.unflatten(1, (height, width))
    quantiles = torch.stack([logits.quantile(share, dim=1) for share in (low, high)])
    return {"near": near.numpy(), "quantiles": quantiles.unflatten(1, (height, width)).numpy()}
