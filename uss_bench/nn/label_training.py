"""What an epoch of deep clustering trains: two views on the labels of both (PiCIE), or one on its own (MDC).

Losses are cross-entropies against the clusters of this epoch, which have no gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Context, Kept
from uss_bench.nn.epochs import (
    DeepClustering,
    EpochBatches,
    EpochViews,
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
    """Return L_within and L_across of two views: each a mean over the two views (PiCIE, Eqs. 7 to 9).

    Across, the code of one view is classified by the clusters of the other, whose labels it gets.
    """

    def loss(code: int, view: int) -> Tensor:
        return weighted_cross_entropy(codes[code], centroids[view], labels[view], weights[view])

    return (loss(0, 0) + loss(1, 1)) / 2, (loss(0, 1) + loss(1, 0)) / 2


@dataclass(kw_only=True)
class PairTraining(DeepClustering):
    """The loop of PiCIE."""

    weight_within: float = 1.0
    weight_across: float = 1.0

    def clusterings(self) -> list[tuple[int, float]]:
        """Return (clusters, weight of the loss) of each clustering of a view; the first one predicts."""
        return [(self.clusters, 1.0)]

    def train_pairs(
        self, ctx: Context, views: EpochViews, train_code: Callable[..., Tensor] | None = None
    ) -> None:
        """Train for all epochs; what predicts in between are the clusters of the first view.

        Args:
            train_code: codes of views while training, where they are others than those that are labelled.
        """
        net, items, grid = self.net, views.items, views.grid
        sets = self.clusterings()
        # By clustering and view: 0 and 1 are the first clustering's.
        centroids = [self.centroids] + [
            torch.zeros(sets[number // 2][0], self.dim, device=ctx.device)
            for number in range(1, 2 * len(sets))
        ]
        labels = [
            stored_labels(ctx, f"labels-{number}", (len(items), *grid), len(one))
            for number, one in enumerate(centroids)
        ]
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        kept: dict[str, Kept] = {"net": net, "optimizer": optimizer}
        kept |= {f"centroids_{number}": one for number, one in enumerate(centroids)}
        for epoch in ctx.steps(self.epochs, label="epochs", **kept):
            of_view = [functools.partial(views.code, view, epoch) for view in (0, 1)]
            for number, one in enumerate(centroids):
                self.cluster(one, of_view[number % 2], items, ctx, epoch, number + 1, grid=grid)
            weights = [
                self.label(labels[number], one, of_view[number % 2], items, ctx, epoch, number + 1)
                for number, one in enumerate(centroids)
            ]
            net.train()
            batches = EpochBatches(len(items), self.batch_size, ctx.generator("training order", epoch))
            reader = items.batches(batches)
            for step in ctx.steps(len(batches), net=net, optimizer=optimizer, batches=batches):
                chosen, x = next(reader)
                codes = [(train_code or views.code)(view, epoch, chosen, x) for view in (0, 1)]
                total = torch.zeros((), device=ctx.device)
                shown: dict[str, Tensor] = {}
                for number, (_, weight) in enumerate(sets):
                    both = slice(2 * number, 2 * number + 2)
                    targets = [labels_of(one, chosen, ctx.device) for one in labels[both]]
                    within, across = pair_losses(codes, centroids[both], targets, weights[both])
                    total = total + weight * (self.weight_within * within + self.weight_across * across) / 2
                    name = "auxiliary_" * (number > 0)
                    shown |= {f"{name}within": within, f"{name}across": across}
                optimizer.zero_grad(set_to_none=True)
                total.backward()
                optimizer.step()
                ctx.report((epoch - 1) * len(batches) + step, **shown)
            net.eval()
            ctx.checkpoint(epoch)


def fresh_classifier(dim: int, clusters: int, generator: torch.Generator) -> nn.Conv2d:
    """Return a 1×1 convolution with weights of deviation 0.01 and no bias yet, drawn by `generator`."""
    classifier = nn.Conv2d(dim, clusters, 1)
    with torch.no_grad():
        classifier.weight.copy_(0.01 * torch.randn(classifier.weight.shape, generator=generator))
        classifier.bias.zero_()  # type: ignore[union-attr]
    return classifier


@dataclass(kw_only=True)
class SingleTraining(DeepClustering):
    """The loop of MDC."""

    classifier: Literal["learned", "centroids"] = "learned"
    """What tells labels apart: a convolution that begins anew in each epoch, or the centroids as they are."""
    lr_drop_every: int = 20
    """Epochs after which the learning rate falls to a tenth; the published runs have ten."""

    def train_single(self, ctx: Context, views: EpochViews) -> None:
        """Train the first view on its labels, for all epochs."""
        net, items, grid = self.net, views.items, views.grid
        labels = stored_labels(ctx, "labels", (len(items), *grid), self.clusters)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        kept: dict[str, Kept] = {"net": net, "optimizer": optimizer, "centroids": self.centroids}
        for epoch in ctx.steps(self.epochs, label="epochs", **kept):
            rate = self.lr * 0.1 ** ((epoch - 1) // self.lr_drop_every)
            optimizer.param_groups[0]["lr"] = rate
            code = functools.partial(views.code, 0, epoch)
            self.cluster(self.centroids, code, items, ctx, epoch, 1, grid=grid)
            weights = self.label(labels, self.centroids, code, items, ctx, epoch, 1)
            classifier = fresh_classifier(self.dim, self.clusters, ctx.generator("classifier", epoch))
            classifier.to(ctx.device)
            own = torch.optim.Adam(classifier.parameters(), lr=rate)
            net.train()
            batches = EpochBatches(len(items), self.batch_size, ctx.generator("training order", epoch))
            reader = items.batches(batches)
            kept |= {"classifier": classifier, "own": own, "batches": batches}
            for step in ctx.steps(len(batches), label="training", **kept):
                chosen, x = next(reader)
                logits = self.logits(code(chosen, x), classifier)
                loss = F.cross_entropy(logits, labels_of(labels, chosen, ctx.device), weight=weights)
                for one in (optimizer, own):
                    one.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if self.classifier == "learned":
                    own.step()
                ctx.report((epoch - 1) * len(batches) + step, loss=loss)
            net.eval()
            ctx.checkpoint(epoch)

    def logits(self, code: Tensor, classifier: nn.Conv2d) -> Tensor:
        """Return what the labels of an epoch are told apart by, (B, K, h, w)."""
        if self.classifier == "centroids":
            return linear_logits(code, self.centroids)
        logits: Tensor = classifier(F.normalize(code, dim=1))
        return logits
