"""PiCIE: a network whose clusters do not change with colors, and move with the image.

Cho, Mall, Bala, Hariharan, "PiCIE: Unsupervised Semantic Segmentation using Invariance and Equivariance in
Clustering" (CVPR 2021), from the paper and the behavior of the released code. An epoch clusters the codes of
two views of every image, labels every position by the clusters of each view, and trains both views on both
labels. All passes of an epoch see the same views.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Context, Images, Kept
from uss_bench.data.view_pairs import ReleasedViews
from uss_bench.nn.epochs import (
    DeepClustering,
    EpochBatches,
    codes_of,
    labels_of,
    linear_logits,
    stored_labels,
)


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


@dataclass(kw_only=True)
class PiCIE(DeepClustering, ReleasedViews):
    """See the module, and README.md for what each parameter rests on."""

    weight_within: float = 1.0
    weight_across: float = 1.0
    colors_in_training: Literal["both", "second"] = "both"
    """Views that are changed in color while training: the released loader of Cityscapes leaves the first as
    it is, though it was clustered and labelled with changed colors."""

    def train(self, data: Images, ctx: Context) -> None:
        self.begin(ctx)
        net = self.net
        images = ctx.images(side=2 * ctx.side)
        h, w = codes_of(images, 2)
        pair = self.views(ctx, net)
        labels = [stored_labels(ctx, f"labels-{view}", (len(images), h, w), self.clusters) for view in (0, 1)]
        own = self.centroids
        centroids = [own, torch.zeros_like(own)]
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        kept: dict[str, Kept] = {
            "net": net,
            "optimizer": optimizer,
            "first": centroids[0],
            "second": centroids[1],
        }
        for epoch in ctx.steps(self.epochs, label="epochs", **kept):
            views = [functools.partial(pair.code, number, epoch) for number in (0, 1)]
            for number in (0, 1):
                self.cluster(centroids[number], views[number], images, ctx, epoch, number + 1, grid=h * w)
            weights = [
                self.label(labels[number], centroids[number], views[number], images, ctx, epoch, number + 1)
                for number in (0, 1)
            ]
            net.train()
            batches = EpochBatches(len(images), self.batch_size, ctx.generator("training order", epoch))
            reader = images.batches(batches)
            for step in ctx.steps(len(batches), net=net, optimizer=optimizer, batches=batches):
                items, x = next(reader)
                codes = [
                    pair.code(0, epoch, items, x, colors=self.colors_in_training == "both"),
                    pair.code(1, epoch, items, x),
                ]
                targets = [labels_of(one, items, ctx.device) for one in labels]
                within, across = pair_losses(codes, centroids, targets, weights)
                loss = (self.weight_within * within + self.weight_across * across) / 2
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                ctx.report((epoch - 1) * len(batches) + step, within=within, across=across)
            net.eval()
            ctx.checkpoint(epoch)
        self.finish(ctx.images(), ctx)
