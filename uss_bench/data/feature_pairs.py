"""Views made of frozen features, for ports of methods whose views are made of pixels.

Features that are stored know no other colors. In place of a change of color a view loses channels, drawn
once for an item in an epoch; crop and flip are those of `uss_bench.data.view_pairs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uss_bench.contracts import Context
from uss_bench.data.view_pairs import PLACE
from uss_bench.data.views import Views, apply_geometric


class FeaturePair:
    """The two views of an item in an epoch.

    Each loses channels of its own. The first is cut, enlarged and flipped before the head, the second
    behind it. So both codes show the same place.

    Args:
        prepare: what comes before the views: standardization.
        drop: probability that a channel of an item is 0 in a view; the others are enlarged to match.
    """

    def __init__(
        self,
        generator: Callable[..., torch.Generator],
        prepare: Callable[[Tensor], Tensor],
        head: Callable[[Tensor], Tensor],
        drop: float,
    ) -> None:
        self._generator = generator
        self._prepare, self._head, self._drop = prepare, head, drop
        self._place = Views(generator, "place", geometric=PLACE)

    def code(self, view: int, epoch: int, items: Sequence[int], values: Mapping[str, Tensor]) -> Tensor:
        """Return the code (B, d, h, w) of view 0 or 1 of some items, given their ``tokens`` (B, D, h, w)."""
        features = self._prepare(values["tokens"])
        features = features * self._kept(view, epoch, items, features.shape[1]).to(features)
        where = self._place.draw(epoch, items)
        size = (features.shape[2], features.shape[3])
        if view == 0:
            return self._head(apply_geometric(features, where, size))
        return apply_geometric(self._head(features), where, size)

    def _kept(self, view: int, epoch: int, items: Sequence[int], channels: int) -> Tensor:
        drawn = [
            torch.rand(channels, generator=self._generator(f"channels {view}", epoch, int(item)))
            for item in items
        ]
        kept = (torch.stack(drawn) >= self._drop).float() / (1 - self._drop)
        return kept[:, :, None, None]


@dataclass(kw_only=True)
class FeatureViews:
    """The parameter of views that are made of features."""

    drop: float = 0.1
    """Probability that a view loses a channel, below 1: that of STEGO's dropout. 0: only the place varies."""

    def views(
        self, ctx: Context, prepare: Callable[[Tensor], Tensor], head: Callable[[Tensor], Tensor]
    ) -> FeaturePair:
        """Return the views of the items of a run."""
        return FeaturePair(ctx.generator, prepare, head, self.drop)
