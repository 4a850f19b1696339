"""PiCIE's loop with a projector on frozen features: a port of the idea, and no published method.

Views are made in feature space: a crop, enlarged, and a flip of the map, and channels that are left out at
random in the place of colors. Loop and losses are those of `picie`.
"""

from __future__ import annotations

from dataclasses import dataclass

from uss_bench.contracts import Context, Images
from uss_bench.data.feature_views import FeatureViews
from uss_bench.nn.projected_clustering import ProjectedClustering
from uss_bench.nn.two_views import train_two_views


@dataclass(kw_only=True)
class PiCIEProj(ProjectedClustering, FeatureViews):
    """See the module, and README.md."""

    weight_within: float = 1.0
    weight_across: float = 1.0

    def train(self, data: Images, ctx: Context) -> None:
        source = self.begin(ctx.features(["tokens"]), ctx)
        weights = (self.weight_within, self.weight_across)
        train_two_views(self, source, self.views(ctx, self.net), source.grid, ctx, weights=weights)
        self.finish(source, ctx, source.grid)
