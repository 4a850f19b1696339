"""MDC's loop: clusters of one view, and a network that learns to tell them apart.

`mdc` runs it with a network of its own on images, `mdc_proj` with a projector on frozen features.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Context, Kept
from uss_bench.nn.epochs import (
    EpochBatches,
    EpochClustering,
    Source,
    labels_of,
    linear_logits,
    stored_labels,
)

Classifier = Literal["learned", "centroids"]


class OneView(Protocol):
    """Codes of views of items; see `uss_bench.nn.two_views.PairOfViews`, of which the first is taken."""

    def code(self, view: int, epoch: int, items: Sequence[int], inputs: Tensor) -> Tensor: ...


def fresh_classifier(dim: int, clusters: int, generator: torch.Generator) -> nn.Conv2d:
    """Return a 1×1 convolution with weights of deviation 0.01 and no bias yet, drawn by `generator`."""
    classifier = nn.Conv2d(dim, clusters, 1)
    with torch.no_grad():
        classifier.weight.copy_(0.01 * torch.randn(classifier.weight.shape, generator=generator))
        classifier.bias.zero_()  # type: ignore[union-attr]
    return classifier


def logits_of_labels(code: Tensor, kind: Classifier, classifier: nn.Conv2d, centroids: Tensor) -> Tensor:
    """Return w·f̂ + b of a learned classifier, or f̂·c of centroids, (B, K, h, w), of codes (B, d, h, w)."""
    if kind == "centroids":
        return linear_logits(code, centroids)
    logits: Tensor = classifier(F.normalize(code, dim=1))
    return logits


def train_one_view(
    method: EpochClustering,
    source: Source,
    views: OneView,
    grid: tuple[int, int],
    ctx: Context,
    *,
    kind: Classifier,
    lr_drop_every: int,
) -> None:
    """Train a network for all its epochs: k-means, labels, and their cross-entropy, weighted by cluster.

    Args:
        grid: (h, w) of a code.
        lr_drop_every: epochs after which the learning rate falls to a tenth.
    """
    net, centroids = method.net, method.centroids
    labels = stored_labels(ctx, "labels", (len(source), *grid), method.clusters)
    optimizer = torch.optim.Adam(net.parameters(), lr=method.lr)
    kept: dict[str, Kept] = {"net": net, "optimizer": optimizer}
    for epoch in ctx.steps(method.epochs, label="epochs", centroids=centroids, **kept):
        rate = method.lr * 0.1 ** ((epoch - 1) // lr_drop_every)
        optimizer.param_groups[0]["lr"] = rate
        code = functools.partial(views.code, 0, epoch)
        method.cluster(centroids, code, source, ctx, epoch, 1, grid=grid[0] * grid[1])
        weights = method.label(labels, centroids, code, source, ctx, epoch, 1)
        classifier = fresh_classifier(method.dim, method.clusters, ctx.generator("classifier", epoch))
        classifier.to(ctx.device)
        own = torch.optim.Adam(classifier.parameters(), lr=rate)
        net.train()
        batches = EpochBatches(len(source), method.batch_size, ctx.generator("training order", epoch))
        reader = source.batches(batches)
        inner: dict[str, Kept] = {**kept, "classifier": classifier, "own": own, "batches": batches}
        for step in ctx.steps(len(batches), label="training", **inner):
            items, x = next(reader)
            logits = logits_of_labels(code(items, x), kind, classifier, centroids)
            loss = F.cross_entropy(logits, labels_of(labels, items, ctx.device), weight=weights)
            for one in (optimizer, own):
                one.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if kind == "learned":
                own.step()
            ctx.report((epoch - 1) * len(batches) + step, loss=loss)
        net.eval()
        ctx.checkpoint(epoch)
