"""Deep clustering on frozen features: a projector in place of a network of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features
from uss_bench.nn.epochs import DeepClustering
from uss_bench.nn.projector import Projector
from uss_bench.nn.standardizer import Standardizer


class ProjectedNet(nn.Module):
    """Features (B, D, h, w), standardized, to codes (B, d, h, w) by STEGO's head without dropout."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.head = Projector(channels, dim, activation="relu", dropout=0.0)

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.head(self.standardizer(features))
        return code


@dataclass(kw_only=True)
class ProjectedFeatures(DeepClustering):
    """The projector of the ports of PiCIE and MDC."""

    lr: float = 5e-4
    """Of the projector: STEGO's for its head."""
    standardize: bool = True
    """Center and scale features per channel by the training set's moments (needs no label)."""

    net: ProjectedNet = field(init=False, repr=False)

    def begin(self, ctx: Context) -> Features:
        """Make projector and centroids, and return the features of the training items."""
        features = ctx.features(["tokens"])
        self.net = ProjectedNet(features[0]["tokens"].shape[0], self.dim)
        if self.standardize:
            self.net.standardizer.fit(features.moments("tokens"))
        self.net.to(ctx.device)
        self.centroids = torch.zeros(self.clusters, self.dim, device=ctx.device)
        return features

    def finish_on(self, features: Features, ctx: Context) -> None:
        """Cluster features as they are: the clusters that predict."""
        self.finish(features, lambda _, values: self.net(values["tokens"]), ctx.grid, ctx)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return code

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.take_up(ProjectedNet(len(state["net.standardizer.mean"]), self.dim), state)
