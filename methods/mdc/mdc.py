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
from uss_bench.nn.label_training import SingleTraining
from uss_bench.nn.own_network import OwnNetwork


@dataclass(kw_only=True)
class MDC(SingleTraining, OwnNetwork, ReleasedViews):
    """See the module, and README.md for what each parameter rests on."""

    final: Literal["test", "train"] = "test"
    """Images whose clusters predict: the evaluated ones, as in the released code, or the training ones."""

    @property
    def reads_test_images(self) -> bool:
        return self.final == "test"

    def train(self, data: Images, ctx: Context) -> None:
        self.begin(ctx)
        self.train_single(ctx, self.views(ctx, self.net))
        self.finish_on(ctx.test_images() if self.final == "test" else ctx.images(), ctx)
