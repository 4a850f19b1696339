"""Deep clustering that trains a network of its own: a ResNet with a decoder, from random or given weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from uss_bench.contracts import Backbone, Batch, Context, ImageReader
from uss_bench.errors import UsageError
from uss_bench.nn.epochs import DeepClustering
from uss_bench.nn.pyramid import WIDTHS, Pyramid


@dataclass(kw_only=True)
class OwnNetwork(DeepClustering):
    """The network of PiCIE and MDC, and what it begins as."""

    network: Literal["resnet18", "resnet50", "test_resnet"] = "resnet18"
    """timm's network; random weights with ``--backbone none``, those of the backbone of its name otherwise.
    ``test_resnet`` has 0.4 million parameters, for trials."""
    cluster_statistics: Literal["batch", "running"] = "batch"
    """Statistics of batch normalization in k-means; the released code leaves the network in training mode."""

    _start: Mapping[str, Tensor] | None = field(init=False, repr=False, default=None)

    @property
    def trains_in_kmeans(self) -> bool:
        return self.cluster_statistics == "batch"

    def bind(self, backbone: Backbone) -> None:
        if not backbone.info.dim:
            return  # the backbone `none`
        if (backbone.info.dim, backbone.patch) != (WIDTHS[self.network], 32):
            raise UsageError(
                f"A {self.network} is trained here, which backbone '{backbone.info.name}' is not.",
                hint=f"Choose --backbone {self.network}, or --backbone none for random weights.",
            )
        self._start = backbone.trainable(None).state_dict()

    def begin(self, ctx: Context) -> None:
        """Make the network and its centroids, and log what its weights begin as."""
        net = Pyramid(self.network, self.dim)
        if self._start is None:
            ctx.log(f"The weights of {self.network} begin at random.")
        else:
            net.start_from(self._start)
        self.net = net.to(ctx.device)
        self.centroids = torch.zeros(self.clusters, self.dim, device=ctx.device)

    def finish_on(self, images: ImageReader, ctx: Context) -> None:
        """Cluster images as they are: the clusters that predict."""
        self.finish(images, lambda _, x: self.net(x / 255), codes_of(images), ctx)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["image"])
        return code

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.take_up(Pyramid(self.network, self.dim), state)


def codes_of(images: ImageReader, shrink: int = 1) -> tuple[int, int]:
    """Return (h, w) of the code of an image that is made smaller by a factor first."""
    _, height, width = images[0].shape
    return -(-(height // shrink) // 4), -(-(width // shrink) // 4)
