"""Mini-batch cosine k-means over a data set: the loop that the controls share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Context
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.kmeans import kmeans_plus_plus, minibatch_step


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
