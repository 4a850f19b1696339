"""MDC's loop with a projector on frozen features: a port, not the published method.

The view of every item is made of its features, so that a run needs no pass of the backbone but the one that
is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from uss_bench.contracts import Context, Images
from uss_bench.data.feature_pairs import FeatureViews
from uss_bench.nn.epochs import EpochViews
from uss_bench.nn.label_training import SingleTraining
from uss_bench.nn.projected import ProjectedFeatures


@dataclass(kw_only=True)
class MDCProjected(SingleTraining, ProjectedFeatures, FeatureViews):
    """See the module, and README.md for what each parameter rests on."""

    def train(self, data: Images, ctx: Context) -> None:
        features = self.begin(ctx)
        views = self.views(ctx, self.net.standardizer, self.net.head)
        self.train_single(ctx, EpochViews(features, ctx.grid, views.code))
        self.finish_on(features, ctx)
