"""Mini-batch cosine k-means over a data set: the loop of the baseline and its controls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Batch, Context, Features, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.kmeans import kmeans_plus_plus, minibatch_step
from uss_bench.nn.prototypes import cosine_logits


@dataclass(kw_only=True)
class FeatureKMeans(ABC):
    """A method that clusters a code made from frozen features without training.

    It says what the code is (`embed`), what that needs from the training set (`fit_code`), and which tensors
    that leaves in its state (`state_of_code`).
    """

    clusters: int
    """K, the number of centroids."""
    steps: int = 300
    """Mini-batch steps of k-means."""
    batch_size: int = 32
    """Items per step; all their patches take part."""
    init_patches: int = 8192
    """Patches, drawn over random items, that k-means++ chooses the first centroids from."""
    checkpoint_every: int = 100
    """Steps between offered checkpoints."""

    centroids: Tensor = field(init=False, repr=False)
    """(K, d)"""
    state_of_code: ClassVar[Sequence[str]]

    @abstractmethod
    def fit_code(self, features: Features, ctx: Context) -> None:
        """Set the tensors that `embed` needs, on `ctx.device`."""

    @abstractmethod
    def embed(self, batch: Batch) -> Tensor:
        """Return the code (B, d, h, w) of a batch."""

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        self.fit_code(features, ctx)
        code = self.embed({"tokens": features[0]["tokens"][None].to(ctx.device)})
        self.centroids = torch.zeros(self.clusters, code.shape[1], device=ctx.device)
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

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("centroids", *self.state_of_code)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name in ("centroids", *self.state_of_code):
            setattr(self, name, state[name])


def fit_centroids(
    centroids: Tensor,
    points: Callable[[Sequence[int]], Tensor],
    items: int,
    ctx: Context,
    *,
    steps: int,
    batch_size: int,
    init_points: int,
    checkpoint_every: int,
) -> None:
    """Fill the centroids, in place: k-means++ on a sample, then mini-batch steps.

    Steps and draws are those of the baseline `dino`, so a control differs from it in its points alone.

    Args:
        centroids: (K, d), whatever they hold before. The state that `ctx` offers must contain them.
        points: returns vectors (M, d) of some training items, of any length.
        items: training items.
        init_points: k-means++ chooses among so many.
    """
    batches = ShuffledBatches(items, batch_size, ctx.generator("batches"))
    rng = ctx.generator("k-means++")

    def draw() -> Tensor:
        return F.normalize(points(next(batches)), dim=1)

    sample = draw()
    while len(sample) < init_points and items > batch_size:
        sample = torch.cat([sample, draw()])
    keep = torch.randperm(len(sample), generator=rng)[:init_points].to(sample.device)
    centroids.copy_(kmeans_plus_plus(sample[keep], len(centroids), rng))

    seen = torch.zeros(len(centroids), device=centroids.device)
    for step in ctx.steps(steps, centroids=centroids, seen=seen, batches=batches):
        cosine = minibatch_step(centroids, seen, draw())
        if step == 1 or step % 50 == 0:
            ctx.report(step, inertia=1 - cosine)
        if step % checkpoint_every == 0:
            ctx.checkpoint(step)


def patches_of(code: Tensor) -> Tensor:
    """Return the patches (B·h·w, d) of codes (B, d, h, w)."""
    return code.permute(0, 2, 3, 1).flatten(0, 2)
