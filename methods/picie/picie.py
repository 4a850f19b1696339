"""PiCIE: a network whose clusters do not change with colors, and move with the image.

Cho, Mall, Bala, Hariharan, "PiCIE: Unsupervised Semantic Segmentation using Invariance and Equivariance in
Clustering" (CVPR 2021), from the paper and the behavior of the released code. An epoch clusters the codes of
two views of every image, labels every position by the clusters of each view, and trains both views on both
labels. All passes of an epoch see the same views.
"""

from __future__ import annotations

from dataclasses import dataclass

from uss_bench.contracts import Context, Images
from uss_bench.data.view_pairs import ReleasedPairs
from uss_bench.nn.label_training import PairTraining
from uss_bench.nn.own_network import OwnNetwork


@dataclass(kw_only=True)
class PiCIE(PairTraining, OwnNetwork, ReleasedPairs):
    """See the module, and README.md for what each parameter rests on."""

    def train(self, data: Images, ctx: Context) -> None:
        self.begin(ctx)
        views = self.views(ctx, self.net)
        self.train_pairs(ctx, views, self.train_code(views))
        self.finish_on(ctx.images(), ctx)
