"""Features as colors: their first three principal components over a few images, as papers show them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SHOWN = 4
"""Images in a picture."""
_TAILS = (0.01, 0.99)
"""Quantiles of a component that become black and full color."""


def feature_picture(maps: Sequence[Tensor]) -> bytes:
    """Return a PNG, a pixel per patch, of features (D, h, w) of images side by side.

    Red, green and blue are the first, second and third component of all patches together. A direction is
    turned so that its largest coefficient is positive, which makes the colors of one backbone the same each
    time; those of two backbones do not compare.
    """
    tokens = torch.cat([one.flatten(1).T for one in maps]).double()
    centered = tokens - tokens.mean(dim=0)
    directions = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -3:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    components = centered @ (directions * largest.sign())
    low, high = torch.quantile(components, torch.tensor(_TAILS, dtype=components.dtype), dim=0)
    colors = ((components - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    parts = (255 * colors).round().to(torch.uint8).split([one[0].numel() for one in maps])
    strips = [part.unflatten(0, one.shape[1:]) for part, one in zip(parts, maps, strict=True)]
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(torch.cat(strips, dim=1))).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
