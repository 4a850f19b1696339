"""A code and the cluster probe on it: what methods of the STEGO lineage keep and predict by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from uss_bench.contracts import Batch
from uss_bench.nn.prototypes import cosine_logits
from uss_bench.nn.standardizer import Standardizer


class ProbedNet(nn.Module):
    """A head on standardized features, and the centroids (K, d) of the cluster probe on its code.

    Args:
        channels: D, of the features.
        head: turns features (B, D, h, w) into codes (B, d, h, w).
        clusters: K.
        dim: d.
    """

    def __init__(self, channels: int, head: nn.Module, clusters: int, dim: int) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.head = head
        self.centroids = nn.Parameter(torch.randn(clusters, dim))

    def forward(self, features: Tensor) -> Tensor:
        code: Tensor = self.head(self.standardizer(features))
        return code


class Probed(ABC):
    """A method that predicts by the cosine of its code with the probe's centroids.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    net: ProbedNet

    @abstractmethod
    def make_net(self, channels: int) -> ProbedNet:
        """Return a new network for features of so many channels."""

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = self.make_net(len(state["standardizer.mean"]))
        self.net.load_state_dict(dict(state))
        self.net.to(state["centroids"].device).eval()
