"""Control: cosine k-means on the first principal components of frozen features.

How much of a learned head's gain is what any reduction to few dimensions gives, centering included?
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Features
from uss_bench.errors import UsageError
from uss_bench.nn.clustering import FeatureKMeans

from .components import principal_components


@dataclass(kw_only=True)
class PcaKMeans(FeatureKMeans):
    """K-means whose code is the centered feature along its first principal directions."""

    dim: int = 64
    """Principal directions that are kept."""
    whiten: bool = False
    """Divide each component by its standard deviation."""

    mean: Tensor = field(init=False, repr=False)
    """(D,)"""
    directions: Tensor = field(init=False, repr=False)
    """(dim, D), orthogonal; of length 1, or of 1 / deviation where components are whitened."""
    state_of_code: ClassVar = ("mean", "directions")

    def fit_code(self, features: Features, ctx: Context) -> None:
        channels = features[0]["tokens"].shape[0]
        if self.dim > channels:
            raise UsageError(
                f"Features of {channels} channels have no {self.dim} principal components.",
                hint=f"Keep fewer: --set dim={channels}",
            )
        found = ctx.derived("principal components", principal_components)
        directions = torch.tensor(found["directions"][: self.dim], device=ctx.device)
        if self.whiten:
            directions /= torch.tensor(found["deviations"][: self.dim, None], device=ctx.device).clamp_min(
                1e-6
            )
        self.mean, self.directions = torch.tensor(found["mean"], device=ctx.device), directions

    def embed(self, batch: Batch) -> Tensor:
        centered = batch["tokens"] - self.mean[:, None, None]
        return torch.einsum("bdhw,kd->bkhw", centered, self.directions)
