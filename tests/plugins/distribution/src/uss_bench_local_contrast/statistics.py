"""What the method looks at."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def local_deviation(images: Tensor, window: int) -> Tensor:
    """Return the standard deviation of luminance around every pixel of (B, 3, H, W), (B, 1, H, W)."""
    gray = images.mean(dim=1, keepdim=True)
    mean, square = (
        F.avg_pool2d(power, window, stride=1, padding=window // 2, count_include_pad=False)
        for power in (gray, gray**2)
    )
    return (square - mean**2).clamp(min=0).sqrt()
