"""IIC's loop with a projector on frozen features: a port of the idea, and no published method.

The views of a pair are made in feature space: a crop, enlarged, and a flip of the feature map, and
channels that are left out at random. Loop and loss are those of `iic`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features
from uss_bench.data.views import Geometric, Views, align, apply_geometric
from uss_bench.errors import UsageError
from uss_bench.nn.paired_information import HEADS, Pair, PairedInformation
from uss_bench.nn.projector import Projector
from uss_bench.nn.standardizer import Standardizer


class ProjectorNet(nn.Module):
    """Features (B, D, h, w) to codes, and codes to the logits of a head."""

    def __init__(self, channels: int, dim: int, classes: Mapping[str, int], dropout: float) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.projector = Projector(channels, dim, activation="relu", dropout=dropout)
        self.heads = nn.ModuleDict({name: nn.Conv2d(dim, count, 1) for name, count in classes.items()})

    def code(self, tokens: Tensor) -> Tensor:
        code: Tensor = self.projector(self.standardizer(tokens))
        return code

    def logits(self, code: Tensor, head: str) -> Tensor:
        logits: Tensor = self.heads[head](code)
        return logits


@dataclass(kw_only=True)
class IICProj(PairedInformation):
    """See the module, and README.md."""

    epochs: int = 20
    half_window: int = 1
    """Largest displacement along either axis, in patches: about IIC's ten pixels at a patch of 8."""
    checkpoint_every: int = 5
    dim: int = 64
    """Channels of the code."""
    dropout: float = 0.1
    """Probability that a channel is left out, drawn for each view by itself."""
    smallest_crop: float = 0.5
    """Least side of the second view over that of the feature map."""
    flip: float = 0.5
    """Probability that the second view is flipped."""
    standardize: bool = True
    """Center and scale features per channel by the training set's moments (needs no label)."""

    net: ProjectorNet = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.smallest_crop <= 1:
            raise UsageError(
                f"smallest_crop = {self.smallest_crop} is no share of a side: it is above 0 and at most 1."
            )

    @property
    def inputs(self) -> Sequence[str]:
        return ("tokens",)

    def begin(self, features: Features) -> ProjectorNet:
        net = self._net(features[0]["tokens"].shape[0])
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        return net

    def restored(self, state: Mapping[str, Tensor]) -> ProjectorNet:
        return self._net(state["projector.linear.weight"].shape[1])

    def _net(self, channels: int) -> ProjectorNet:
        classes = dict(zip(HEADS, (self.over_clusters, self.clusters), strict=True))
        return ProjectorNet(channels, self.dim, classes, self.dropout)

    def pairs(self, ctx: Context) -> Callable[[str, int, Sequence[int], Batch], Pair]:
        least = max(1, int(self.smallest_crop * min(ctx.grid)))
        if self.half_window >= least:
            raise UsageError(
                f"The smallest crop of {ctx.grid[1]}×{ctx.grid[0]} patches (width × height) shows {least} a "
                f"side, of which no two are half_window = {self.half_window} apart.",
                hint="Choose a smaller window (--set half_window=N), larger crops "
                "(--set smallest_crop=SHARE) or larger training images (--training side=N).",
            )
        place = Geometric(scale=(self.smallest_crop, 1.0), flip=self.flip)
        seconds = Views(ctx.generator, "second view", geometric=place)

        def pair(head: str, pass_: int, items: Sequence[int], batch: Batch) -> Pair:
            tokens = batch["tokens"]
            grid = (tokens.shape[2], tokens.shape[3])
            views = seconds.draw(pass_, items)
            first, second = (
                self.net.logits(self.net.code(one), head).softmax(dim=1)
                for one in (tokens, apply_geometric(tokens, views, grid))
            )
            back, seen = align(second, views, None, grid)
            return first, back, seen

        return pair

    def embed(self, batch: Batch) -> Tensor:
        return self.net.code(batch["tokens"])

    def classify(self, code: Tensor) -> Tensor:
        return self.net.logits(code, "own")
