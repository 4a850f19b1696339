"""Pairs of images within a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def near_derangement(size: int, generator: torch.Generator) -> Tensor:
    """Draw a partner for each of `size` images, never itself: int64 (size,).

    A random permutation whose fixed points i move to (i + 1) mod size, as STEGO's and SmooSeg's code
    does ("near-derangement permutation" in DS²DL). It is not a bijection in general.

    Raises:
        ValueError: when size < 2, since a single image has no partner.
    """
    if size < 2:
        raise ValueError("a batch needs at least two images to pair each with another")
    permutation = torch.randperm(size, generator=generator)
    here = torch.arange(size)
    return torch.where(permutation == here, (here + 1) % size, permutation)
