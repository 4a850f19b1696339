"""Features as int8, with one scale per item and channel.

A scale is the largest absolute value over an item's positions by 127, rounded to 11 significant bits. Its
products with whole numbers up to 127 are then exact in float32, so that rounding twice changes nothing, and
features are the same to the last bit whether they were stored or streamed. An item is rounded by itself:
images that the training never saw are rounded by the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 127
_SCALE_BYTES = 4
_SCALE_BITS = 11
_LEAST = 2.0**-100
"""A channel below it is zero: its scale would not be a normal number."""


def packed_bytes(shape: Sequence[int]) -> int:
    """Return how many bytes an item's facet of a shape (D, …) takes."""
    return shape[0] * (_SCALE_BYTES + math.prod(shape[1:]))


def pack(values: Tensor) -> Tensor:
    """Round float32 (B, D, …) to int8 (B, D, 4 + positions), each channel after the bytes of its scale."""
    flat = values.reshape(*values.shape[:2], -1)
    mantissa, exponent = torch.frexp(flat.abs().amax(dim=2, keepdim=True) / LARGEST)
    scale = torch.ldexp((mantissa * 2**_SCALE_BITS).round() / 2**_SCALE_BITS, exponent)
    scale = torch.where(scale < _LEAST, 0.0, scale)
    whole = (flat / torch.where(scale == 0, torch.inf, scale)).round().to(torch.int8)
    return torch.cat([scale.contiguous().view(torch.int8), whole], dim=2)


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Return float32 (B, *shape) of what `pack` returned."""
    scale = packed[..., :_SCALE_BYTES].contiguous().view(torch.float32)
    return (packed[..., _SCALE_BYTES:] * scale).reshape(len(packed), *shape)


def round_to_int8(values: Tensor) -> Tensor:
    """Return float32 (B, D, …) as it is after `pack` and `unpack`."""
    return unpack(pack(values), values.shape[1:])
