"""MDC: DeepCluster made dense, the baseline of PiCIE.

"Modified DeepCluster" of Cho, Mall, Bala, Hariharan, "PiCIE: Unsupervised Semantic Segmentation using
Invariance and Equivariance in Clustering" (CVPR 2021), after Caron, Bojanowski, Joulin, Douze, "Deep
Clustering for Unsupervised Learning of Visual Features" (ECCV 2018), from the behavior of the released code.
An epoch clusters the codes of one view of every image, labels every position by the nearest centroid, and
trains the network to tell these labels apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uss_bench.contracts import Context, Images
from uss_bench.data.view_pairs import ReleasedViews
from uss_bench.nn.deep_clustering import DeepClustering, codes_of
from uss_bench.nn.one_view import Classifier, train_one_view


@dataclass(kw_only=True)
class MDC(DeepClustering, ReleasedViews):
    """See the module, and README.md for what each parameter rests on."""

    classifier: Classifier = "learned"
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
        images = ctx.images(side=2 * ctx.side)
        train_one_view(
            self,
            images,
            self.views(ctx, self.net),
            codes_of(images, 2),
            ctx,
            kind=self.classifier,
            lr_drop_every=self.lr_drop_every,
        )
        images = ctx.test_images() if self.final == "test" else ctx.images()
        self.finish(images, ctx, codes_of(images))
