"""From a code at patch resolution to logits at pixels, in bounded memory.

Both ways interpolate bilinearly between the centers of cells and continue the edges, which torch calls
``align_corners=False``. `classify` is pointwise in space, so that bands of rows change nothing.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Batch

_TILE_VALUES = 32 * 2**20
"""Values of upsampled code that one call of `classify` gets: 128 MB of float32."""
_BAND_VALUES = 8 * 2**20
"""Values of a band of `native_logits`; its interpolation takes about four times as much for a moment."""


class Predicts(Protocol):
    """The two steps of prediction, which is all that an evaluation asks of a `Method`."""

    def embed(self, batch: Batch) -> Tensor: ...

    def classify(self, code: Tensor) -> Tensor: ...


def pixel_logits(method: Predicts, code: Tensor, size: tuple[int, int], upsample: str) -> Tensor:
    """Bring one code (1, d, h, w) to logits (1, K, H, W): upsampled at once, classified in bands.

    Args:
        upsample: `code`, before the classifier, or `logits`, after it; `nearest`: logits, without
            interpolation.
    """
    if upsample == "nearest":
        return F.interpolate(method.classify(code), size=size, mode="nearest")
    if upsample == "logits":
        return F.interpolate(method.classify(code), size=size, mode="bilinear", align_corners=False)
    code = F.interpolate(code, size=size, mode="bilinear", align_corners=False)
    rows = max(1, _TILE_VALUES // (code.shape[1] * code.shape[3]))
    return torch.cat([method.classify(band) for band in code.split(rows, dim=2)], dim=2)


def native_logits(method: Predicts, code: Tensor, size: tuple[int, int], upsample: str) -> Tensor:
    """Do the same for a whole image, with no more than a band of the upsampled code in memory.

    A code of 64 channels takes half a gigabyte at 1024×2048 pixels; a band takes 32 MB.
    """
    if upsample == "nearest":
        return F.interpolate(method.classify(code), size=size, mode="nearest")
    values = method.classify(code) if upsample == "logits" else code
    height, width = size
    rows = max(1, _BAND_VALUES // (values.shape[1] * width))
    bands = (
        bilinear_rows(values, size, range(start, min(height, start + rows)))
        for start in range(0, height, rows)
    )
    parts = [band if upsample == "logits" else method.classify(band) for band in bands]
    return torch.cat(parts, dim=2)


def bilinear_rows(values: Tensor, size: tuple[int, int], rows: range) -> Tensor:
    """Return some rows of `values` (B, d, h, w) upsampled to `size`: (B, d, len(rows), W).

    A value is the same to the last bit whichever `rows` it is asked for with: each is one multiplication
    and addition per axis, along the width first.
    """
    height, width = size
    above, below, down = _neighbors(rows, values.shape[2], height, values)
    left, right, across = _neighbors(range(width), values.shape[3], width, values)
    first = int(above[0])
    near = values[:, :, first : int(below[-1]) + 1]
    near = near[..., left] * (1 - across) + near[..., right] * across
    weight = down[:, None]
    return near[:, :, above - first] * (1 - weight) + near[:, :, below - first] * weight


def _neighbors(pixels: range, cells: int, length: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two cells that each pixel lies between, and the weight of the second."""
    places = torch.tensor(pixels, dtype=torch.float64).add_(0.5).mul_(cells / length).sub_(0.5)
    places = places.clamp_(0, cells - 1)
    lower = places.floor()
    weight = (places - lower).to(like)
    first = lower.long().to(like.device)
    return first, (first + 1).clamp_(max=cells - 1), weight
