"""Control: cosine k-means on the first principal components of frozen features.

How much of a learned head's gain is what any reduction to few dimensions gives, centering included?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images
from uss_bench.errors import UsageError
from uss_bench.nn.clustering import fit_centroids, patches_of
from uss_bench.nn.prototypes import cosine_logits

from .components import principal_components


@dataclass(kw_only=True)
class PcaKMeans:
    """K-means whose code is the centered feature along its first principal directions."""

    clusters: int
    """K, the number of centroids."""
    dim: int = 64
    """Principal directions that are kept."""
    whiten: bool = False
    """Divide each component by its standard deviation."""
    steps: int = 300
    """Mini-batch steps of k-means."""
    batch_size: int = 32
    """Items per step; all their patches take part."""
    init_patches: int = 8192
    """Patches, drawn over random items, that k-means++ chooses the first centroids from."""
    checkpoint_every: int = 100
    """Steps between offered checkpoints."""

    centroids: Tensor = field(init=False, repr=False)
    mean: Tensor = field(init=False, repr=False)
    """(D,)"""
    directions: Tensor = field(init=False, repr=False)
    """(dim, D), orthogonal; of length 1, or of 1 / deviation where components are whitened."""

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
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
        self.centroids = torch.zeros(self.clusters, self.dim, device=ctx.device)
        fit_centroids(
            self.centroids,
            lambda items: patches_of(self.embed(features.batch(items))),
            len(features),
            ctx,
            steps=self.steps,
            batch_size=self.batch_size,
            init_points=self.init_patches,
            checkpoint_every=self.checkpoint_every,
        )

    def embed(self, batch: Batch) -> Tensor:
        centered = batch["tokens"] - self.mean[:, None, None]
        return torch.einsum("bdhw,kd->bkhw", centered, self.directions)

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return {"centroids": self.centroids, "mean": self.mean, "directions": self.directions}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.centroids, self.mean, self.directions = (
            state[name] for name in ("centroids", "mean", "directions")
        )
