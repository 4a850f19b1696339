"""Deep clustering with a projector on frozen features: what the ports of PiCIE and MDC share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features, Sampler
from uss_bench.nn.epochs import EpochClustering
from uss_bench.nn.projector import Projector
from uss_bench.nn.standardizer import Standardizer


class StandardizedProjector(nn.Module):
    """Features (B, D, h, w) to codes (B, d, h, w). Channels are left out by the views, and not in here."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.head = Projector(channels, dim, activation="relu", dropout=0.0)

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.head(self.standardizer(features))
        return code


@dataclass(kw_only=True)
class ProjectedClustering(EpochClustering):
    """The passes with a projector on frozen features: what the ports of PiCIE and MDC share."""

    dim: int = 64
    """Channels of the code."""
    epochs: int = 10
    batch_size: int = 32
    lr: float = 5e-4
    standardize: bool = True
    """Center and scale features per channel by the training set's moments (needs no label)."""

    def begin(self, features: Features, ctx: Context) -> TokenSource:
        """Make the projector and its centroids, and return what the passes read."""
        channels = features[0]["tokens"].shape[0]
        net = self.net = self._net(channels)
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        net.to(ctx.device)
        self.centroids = torch.zeros(self.clusters, self.dim, device=ctx.device)
        return TokenSource(features)

    def embed(self, batch: Batch) -> Tensor:
        return self.plain(batch["tokens"])

    def restored(self, state: Mapping[str, Tensor]) -> nn.Module:
        return self._net(len(state["standardizer.mean"]))

    def _net(self, channels: int) -> StandardizedProjector:
        return StandardizedProjector(channels, self.dim)


class TokenSource:
    """Frozen features as the passes read them: ``tokens`` alone."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self.grid: tuple[int, int] = tuple(features[0]["tokens"].shape[1:])  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._features)

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], Tensor]]:
        for items, batch in self._features.batches(sampler):
            yield items, batch["tokens"]
