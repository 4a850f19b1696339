"""Control: cosine k-means on a random projection of frozen features.

What the number of dimensions does by itself: a Gaussian matrix keeps all cosines approximately (Johnson and
Lindenstrauss, 1984), so a learned head that gains nothing over it has learned nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Features
from uss_bench.nn.clustering import FeatureKMeans


@dataclass(kw_only=True)
class RandomProjectionKMeans(FeatureKMeans):
    """K-means whose code is the feature times a random matrix, drawn anew for each seed."""

    dim: int = 64
    """Dimensions of the code."""

    directions: Tensor = field(init=False, repr=False)
    """(dim, D), independent normal entries of variance 1 / dim."""
    state_of_code: ClassVar = ("directions",)

    def fit_code(self, features: Features, ctx: Context) -> None:
        channels = features[0]["tokens"].shape[0]
        drawn = torch.randn(self.dim, channels, generator=ctx.generator("projection"))
        self.directions = drawn.to(ctx.device) / self.dim**0.5

    def embed(self, batch: Batch) -> Tensor:
        return torch.einsum("bdhw,kd->bkhw", batch["tokens"], self.directions)
