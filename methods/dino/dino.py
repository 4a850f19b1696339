"""Mini-batch cosine k-means on frozen features: the baseline of the papers' tables.

Centroids start by k-means++ on a sample of patches and move by the per-center learning rate of
Sculley, "Web-scale k-means clustering" (WWW 2010), on unit vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from uss_bench.contracts import Batch, Context, Features
from uss_bench.nn.clustering import FeatureKMeans
from uss_bench.nn.standardizer import Standardizer


@dataclass(kw_only=True)
class DinoKMeans(FeatureKMeans):
    """Cosine k-means; the code is the feature itself."""

    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""

    standardizer: Standardizer = field(init=False, repr=False)
    state_of_code: ClassVar = ()

    def fit_code(self, features: Features, ctx: Context) -> None:
        self.standardizer = Standardizer(features[0]["tokens"].shape[0])
        if self.standardize:
            self.standardizer.fit(features.moments("tokens"))
        self.standardizer.to(ctx.device)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.standardizer(batch["tokens"])
        return code

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **self.standardizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.standardizer = Standardizer(self.centroids.shape[1]).to(self.centroids.device)
        self.standardizer.load_state_dict({name: state[name] for name in ("mean", "deviation")})
