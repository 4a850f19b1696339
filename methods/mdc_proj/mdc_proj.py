"""MDC's loop with a projector on frozen features: a port of the idea, and no published method.

Views are made in feature space: a crop, enlarged, and a flip of the map, and channels that are left out at
random in the place of colors. The loop is that of `mdc`; its clusters are those of the training images.
"""

from __future__ import annotations

from dataclasses import dataclass

from uss_bench.contracts import Context, Images
from uss_bench.data.feature_views import FeatureViews
from uss_bench.nn.one_view import Classifier, train_one_view
from uss_bench.nn.projected_clustering import ProjectedClustering


@dataclass(kw_only=True)
class MDCProj(ProjectedClustering, FeatureViews):
    """See the module, and README.md."""

    classifier: Classifier = "learned"
    """What tells labels apart: a convolution that begins anew in each epoch, or the centroids as they are."""

    def train(self, data: Images, ctx: Context) -> None:
        source = self.begin(ctx.features(["tokens"]), ctx)
        views, epochs = self.views(ctx, self.net), self.epochs
        train_one_view(self, source, views, source.grid, ctx, kind=self.classifier, lr_drop_every=epochs)
        self.finish(source, ctx, source.grid)
