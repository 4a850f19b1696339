"""Control: cosine k-means on a random projection of frozen features.

What the number of dimensions does by itself: a Gaussian matrix keeps all cosines approximately (Johnson and
Lindenstrauss, 1984), so a learned head that gains nothing over it has learned nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.clustering import fit_centroids, patches_of
from uss_bench.nn.prototypes import cosine_logits


@dataclass(kw_only=True)
class RandomProjectionKMeans:
    """K-means whose code is the feature times a random matrix, drawn anew for each seed."""

    clusters: int
    """K, the number of centroids."""
    dim: int = 64
    """Dimensions of the code."""
    steps: int = 300
    """Mini-batch steps of k-means."""
    batch_size: int = 32
    """Items per step; all their patches take part."""
    init_patches: int = 8192
    """Patches, drawn over random items, that k-means++ chooses the first centroids from."""
    checkpoint_every: int = 100
    """Steps between offered checkpoints."""

    centroids: Tensor = field(init=False, repr=False)
    directions: Tensor = field(init=False, repr=False)
    """(dim, D), independent normal entries of variance 1 / dim."""

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        channels = features[0]["tokens"].shape[0]
        drawn = torch.randn(self.dim, channels, generator=ctx.generator("projection"))
        self.directions = drawn.to(ctx.device) / self.dim**0.5
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
        return torch.einsum("bdhw,kd->bkhw", batch["tokens"], self.directions)

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return {"centroids": self.centroids, "directions": self.directions}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.centroids, self.directions = state["centroids"], state["directions"]
