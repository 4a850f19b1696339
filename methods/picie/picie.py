"""PiCIE: a network whose clusters do not change with colors, and move with the image.

Cho, Mall, Bala, Hariharan, "PiCIE: Unsupervised Semantic Segmentation using Invariance and Equivariance in
Clustering" (CVPR 2021), from the paper and the behavior of the released code. An epoch clusters the codes of
two views of every image, labels every position by the clusters of each view, and trains both views on both
labels. All passes of an epoch see the same views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uss_bench.contracts import Context, Images
from uss_bench.data.view_pairs import ReleasedViews
from uss_bench.nn.deep_clustering import DeepClustering, codes_of
from uss_bench.nn.two_views import train_two_views


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
        images = ctx.images(side=2 * ctx.side)
        train_two_views(
            self,
            images,
            self.views(ctx, self.net),
            codes_of(images, 2),
            ctx,
            weights=(self.weight_within, self.weight_across),
            colors_of_first=self.colors_in_training == "both",
        )
        images = ctx.images()
        self.finish(images, ctx, codes_of(images))
