"""Features centered and scaled by the moments of the training set."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardizer(nn.Module):
    """Subtracts a mean and divides by a deviation per channel; the identity until `fit`.

    The moments are those of the unlabeled training features. They bring the mean cosine between
    patches of different images to about zero, where constants tuned on DINO features expect it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def fit(self, moments: tuple[Tensor, Tensor]) -> None:
        """Take (mean, deviation), each (D,). A channel that never varies is only centered."""
        mean, deviation = moments
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """Standardize (B, D, h, w)."""
        return (features - self.mean[:, None, None]) / self.deviation[:, None, None]
