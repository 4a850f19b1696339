"""The views of frozen features that the ports of PiCIE and MDC train on: places, and channels left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uss_bench.contracts import Context
from uss_bench.data.views import Geometric, Views, apply_geometric

Net = Callable[[Tensor], Tensor]


class FeatureViewPair:
    """The two views of the features of an item in an epoch.

    The first is cut, enlarged and flipped, and goes through the network; of the second the code is, as PiCIE
    does with pixels. In the place of colors each view lacks some channels, which are drawn for it.
    """

    def __init__(self, ctx: Context, net: Net, place: Geometric, dropout: float) -> None:
        self._net, self._dropout, self._generator = net, dropout, ctx.generator
        self._place = Views(ctx.generator, "place", geometric=place)

    def code(
        self, view: int, epoch: int, items: Sequence[int], inputs: Tensor, *, colors: bool = True
    ) -> Tensor:
        """Return the code (B, d, h, w) of view 0 or 1 of features (B, D, h, w)."""
        where = self._place.draw(epoch, items)
        grid = (inputs.shape[2], inputs.shape[3])
        if colors and self._dropout:
            inputs = inputs * self._channels(view, epoch, items, inputs.shape[1]).to(inputs)
        if view == 0:
            return self._net(apply_geometric(inputs, where, grid))
        return apply_geometric(self._net(inputs), where, grid)

    def _channels(self, view: int, epoch: int, items: Sequence[int], channels: int) -> Tensor:
        """Return the factors of the channels, (B, D, 1, 1): 0, or 1 over the share that is kept."""
        drawn = [
            torch.rand(channels, generator=self._generator(f"channels {view + 1}", epoch, int(item)))
            for item in items
        ]
        kept = (torch.stack(drawn) >= self._dropout) / (1 - self._dropout)
        return kept[:, :, None, None]


@dataclass(kw_only=True)
class FeatureViews:
    """The parameters of such views."""

    smallest_crop: float = 0.5
    """Least side of what a view shows over that of the feature map."""
    flip: float = 0.5
    """Probability that a view is flipped."""
    dropout: float = 0.1
    """Probability that a channel is left out, for each view by itself."""

    def views(self, ctx: Context, net: Net) -> FeatureViewPair:
        """Return the views of the items of a run."""
        return FeatureViewPair(
            ctx, net, Geometric(scale=(self.smallest_crop, 1.0), flip=self.flip), self.dropout
        )
