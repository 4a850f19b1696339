"""MDC: DeepCluster made dense, the baseline of PiCIE.

"Modified DeepCluster" of Cho, Mall, Bala, Hariharan, "PiCIE: Unsupervised Semantic Segmentation using
Invariance and Equivariance in Clustering" (CVPR 2021), after Caron, Bojanowski, Joulin, Douze, "Deep
Clustering for Unsupervised Learning of Visual Features" (ECCV 2018), from the behavior of the released code.
An epoch clusters the codes of one view of every image, labels every position by the nearest centroid, and
trains the network to tell these labels apart.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def fresh_classifier(dim: int, clusters: int, generator: torch.Generator) -> nn.Conv2d:
    """Return a 1×1 convolution with weights of deviation 0.01 and no bias yet, drawn by `generator`."""
    classifier = nn.Conv2d(dim, clusters, 1)
    with torch.no_grad():
        classifier.weight.copy_(0.01 * torch.randn(classifier.weight.shape, generator=generator))
        classifier.bias.zero_()  # type: ignore[union-attr]
    return classifier


@dataclass(kw_only=True)
class MDC(DeepClustering, ReleasedViews):
    """See the module, and README.md for what each parameter rests on."""

    classifier: Literal["learned", "centroids"] = "learned"
    """What tells labels apart: a convolution that begins anew in each epoch, or the centroids as they are."""
    lr_drop_every: int = 20
    """Epochs after which the learning rate falls to a tenth; the published runs have ten."""
    final: Literal["test", "train"] = "test"
    """Images whose clusters predict: the evaluated ones, as in the released code, or the training ones."""

    @property
    def reads_test_images(self) -> bool:
        return self.final == "test"

    def train(self, data: Images, ctx: Context) -> None:
        self.begin(ctx)
        net = self.net
        images = ctx.images(side=2 * ctx.side)
        views = self.views(ctx, net)
        labels = stored_labels(ctx, "labels", (len(images), *codes_of(images, 2)), self.clusters)
        h, w = labels.shape[1:]
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        kept: dict[str, Kept] = {"net": net, "optimizer": optimizer, "centroids": self.centroids}
        for epoch in ctx.steps(self.epochs, label="epochs", **kept):
            rate = self.lr * 0.1 ** ((epoch - 1) // self.lr_drop_every)
            optimizer.param_groups[0]["lr"] = rate
            code = functools.partial(views.code, 0, epoch)
            self.cluster(self.centroids, code, images, ctx, epoch, 1, grid=h * w)
            weights = self.label(labels, self.centroids, code, images, ctx, epoch, 1)
            classifier = fresh_classifier(self.dim, self.clusters, ctx.generator("classifier", epoch))
            classifier.to(ctx.device)
            own = torch.optim.Adam(classifier.parameters(), lr=rate)
            net.train()
            batches = EpochBatches(len(images), self.batch_size, ctx.generator("training order", epoch))
            reader = images.batches(batches)
            kept |= {"classifier": classifier, "own": own, "batches": batches}
            for step in ctx.steps(len(batches), label="training", **kept):
                items, x = next(reader)
                logits = self._logits(code(items, x), classifier)
                loss = F.cross_entropy(logits, labels_of(labels, items, ctx.device), weight=weights)
                for one in (optimizer, own):
                    one.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if self.classifier == "learned":
                    own.step()
                ctx.report((epoch - 1) * len(batches) + step, loss=loss)
            net.eval()
            ctx.checkpoint(epoch)
        self.finish(ctx.test_images() if self.final == "test" else ctx.images(), ctx)

    def _logits(self, code: Tensor, classifier: nn.Conv2d) -> Tensor:
        if self.classifier == "centroids":
            return linear_logits(code, self.centroids)
        logits: Tensor = classifier(F.normalize(code, dim=1))
        return logits
