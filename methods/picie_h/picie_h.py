"""PiCIE+H: PiCIE with an auxiliary clustering into many more clusters. A reconstruction.

Neither text nor code of the auxiliary clustering was at hand: what it does here is remembered, and README.md
lists each guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from uss_bench.contracts import Context, Images
from uss_bench.data.view_pairs import ReleasedPairs
from uss_bench.nn.label_training import PairTraining
from uss_bench.nn.own_network import OwnNetwork


def balance(clusters: int, auxiliary: int) -> tuple[float, float]:
    """Return the weights of two clusterings into K₁ and K₂: log K₂ and log K₁, over log K₁ + log K₂.

    A cross-entropy over K classes is about log K in the beginning, so both terms then weigh the same.
    """
    own, other = math.log(clusters), math.log(auxiliary)
    return other / (own + other), own / (own + other)


@dataclass(kw_only=True)
class PiCIEH(PairTraining, OwnNetwork, ReleasedPairs):
    """See the module, and README.md for what each parameter rests on."""

    auxiliary_clusters: int = 1000
    """K₂ of the clustering beside the one that predicts. Remembered."""

    def clusterings(self) -> list[tuple[int, float]]:
        own, other = balance(self.clusters, self.auxiliary_clusters)
        return [(self.clusters, own), (self.auxiliary_clusters, other)]

    def train(self, data: Images, ctx: Context) -> None:
        self.begin(ctx)
        views = self.views(ctx, self.net)
        self.train_pairs(ctx, views, self.train_code(views))
        self.finish_on(ctx.images(), ctx)
