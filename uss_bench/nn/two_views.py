"""PiCIE's loop: clusters of two views, and a network that predicts both from both.

`picie` runs it with a network of its own on images, `picie_proj` with a projector on frozen features.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Context, Kept
from uss_bench.nn.epochs import (
    EpochBatches,
    EpochClustering,
    Source,
    labels_of,
    linear_logits,
    stored_labels,
)


class PairOfViews(Protocol):
    """Codes of the two views of items, which show the same place."""

    def code(
        self, view: int, epoch: int, items: Sequence[int], inputs: Tensor, *, colors: bool = True
    ) -> Tensor:
        """Return the code (B, d, h, w) of view 0 or 1 of some items: the same in every pass of an epoch.

        Args:
            colors: whether what the view sees is changed in more than its place.
        """
        ...


def weighted_cross_entropy(code: Tensor, centroids: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the cross-entropy of logits f̂·c, without a temperature, as a mean weighted by cluster.

    Args:
        code: (B, d, h, w).
        centroids: (K, d), not normalized and without gradient.
        labels: int64 (B, h, w).
        weights: (K,).
    """
    return F.cross_entropy(linear_logits(code, centroids), labels, weight=weights)


def pair_losses(
    codes: Sequence[Tensor], centroids: Sequence[Tensor], labels: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return L_within and L_across of two views: each a mean over the two views (Eqs. 7 to 9).

    Across, the code of one view is classified by the clusters of the other, whose labels it gets.
    """

    def loss(code: int, view: int) -> Tensor:
        return weighted_cross_entropy(codes[code], centroids[view], labels[view], weights[view])

    return (loss(0, 0) + loss(1, 1)) / 2, (loss(0, 1) + loss(1, 0)) / 2


def train_two_views(
    method: EpochClustering,
    source: Source,
    views: PairOfViews,
    grid: tuple[int, int],
    ctx: Context,
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    colors_of_first: bool = True,
) -> None:
    """Train a network for all its epochs: k-means of each view, labels of each, then both losses.

    The method's own centroids are those of the first view after every epoch.

    Args:
        grid: (h, w) of a code.
        weights: of L_within and L_across.
        colors_of_first: whether the first view is changed in color while training.
    """
    net = method.net
    labels = [stored_labels(ctx, f"labels-{view}", (len(source), *grid), method.clusters) for view in (0, 1)]
    centroids = [method.centroids, torch.zeros_like(method.centroids)]
    optimizer = torch.optim.Adam(net.parameters(), lr=method.lr)
    kept: dict[str, Kept] = {"net": net, "optimizer": optimizer}
    for epoch in ctx.steps(method.epochs, label="epochs", first=centroids[0], second=centroids[1], **kept):
        codes = [functools.partial(views.code, number, epoch) for number in (0, 1)]
        for number in (0, 1):
            method.cluster(
                centroids[number], codes[number], source, ctx, epoch, number + 1, grid=grid[0] * grid[1]
            )
        shares = [
            method.label(labels[number], centroids[number], codes[number], source, ctx, epoch, number + 1)
            for number in (0, 1)
        ]
        net.train()
        batches = EpochBatches(len(source), method.batch_size, ctx.generator("training order", epoch))
        reader = source.batches(batches)
        for step in ctx.steps(len(batches), label="training", batches=batches, **kept):
            items, x = next(reader)
            of_views = [codes[0](items, x, colors=colors_of_first), codes[1](items, x)]
            targets = [labels_of(one, items, ctx.device) for one in labels]
            within, across = pair_losses(of_views, centroids, targets, shares)
            loss = (weights[0] * within + weights[1] * across) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            ctx.report((epoch - 1) * len(batches) + step, within=within, across=across)
        net.eval()
        ctx.checkpoint(epoch)
