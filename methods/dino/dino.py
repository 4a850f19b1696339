"""Mini-batch cosine k-means on frozen features: the baseline of the papers' tables.

Centroids start by k-means++ on a sample of patches and move by the per-center learning rate of
Sculley, "Web-scale k-means clustering" (WWW 2010), on unit vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.kmeans import kmeans_plus_plus, minibatch_step
from uss_bench.nn.prototypes import cosine_logits
from uss_bench.nn.standardizer import Standardizer


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
    """Center and scale features per channel by the training set's moments (needs no label)."""
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
            cosine = minibatch_step(self.centroids, seen, unit_patches())
            if step == 1 or step % 50 == 0:
                ctx.report(step, inertia=1 - cosine)
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
