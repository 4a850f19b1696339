"""Mini-batch cosine k-means on frozen features: the baseline of the papers' tables.

Centroids start by k-means++ on a sample of patches and move by the per-centre learning rate of
Sculley, "Web-scale k-means clustering" (WWW 2010), on unit vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn import ShuffledBatches, Standardizer, cosine_logits


@dataclass(kw_only=True)
class DinoKMeans:
    """Cosine k-means; the code is the feature itself."""

    clusters: int
    """K, the number of centroids."""
    steps: int = 300
    batch_size: int = 32
    """Items per step; all their patches take part."""
    init_patches: int = 8192
    """Patches, drawn over random items, that k-means++ chooses the first centroids from."""
    standardize: bool = False
    """Centre and scale features per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 100

    centroids: Tensor = field(init=False, repr=False)
    standardizer: Standardizer = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        self.standardizer = Standardizer(features[0]["tokens"].shape[0])
        if self.standardize:
            self.standardizer.fit(features.moments("tokens"))
        self.standardizer.to(ctx.device)
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        rng = ctx.generator("k-means++")

        def unit_patches() -> Tensor:
            tokens = self.standardizer(features.batch(next(batches))["tokens"])
            return F.normalize(tokens, dim=1).permute(0, 2, 3, 1).flatten(0, 2)

        sample = unit_patches()
        while len(sample) < self.init_patches and len(features) > self.batch_size:
            sample = torch.cat([sample, unit_patches()])
        keep = torch.randperm(len(sample), generator=rng)[: self.init_patches].to(sample.device)
        self.centroids = kmeans_plus_plus(sample[keep], self.clusters, rng)

        seen = torch.zeros(self.clusters, device=ctx.device)
        for step in ctx.steps(self.steps, centroids=self.centroids, seen=seen, batches=batches):
            patches = unit_patches()
            cosine, nearest = (patches @ self.centroids.T).max(dim=1)
            counts = torch.bincount(nearest, minlength=self.clusters).float()
            sums = torch.zeros_like(self.centroids).index_add_(0, nearest, patches)
            seen += counts
            moved = self.centroids + (sums - counts[:, None] * self.centroids) / seen.clamp(min=1)[:, None]
            self.centroids.copy_(F.normalize(moved, dim=1))
            if step == 1 or step % 50 == 0:
                ctx.report(step, inertia=1 - cosine.mean())
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.standardizer(batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return {"centroids": self.centroids, **self.standardizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.centroids = state["centroids"]
        self.standardizer = Standardizer(self.centroids.shape[1]).to(self.centroids.device)
        self.standardizer.load_state_dict({name: state[name] for name in ("mean", "deviation")})


def kmeans_plus_plus(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Choose K of the unit vectors (M, D), each with probability ∝ its squared distance to the chosen.

    Arthur and Vassilvitskii, "k-means++" (SODA 2007). With fewer distinct points than K the rest
    repeat, which leaves empty clusters rather than an error.
    """
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = 2 - 2 * points @ points[chosen[0]]
    for _ in range(clusters - 1):
        weights = distance.clamp(min=0).cpu().double() + 1e-12
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        distance = torch.minimum(distance, 2 - 2 * points @ points[chosen[-1]])
    return points[chosen].clone()
