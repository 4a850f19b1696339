"""The views of an image that PiCIE and MDC train on: colors, and one crop and flip for pixels and codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from uss_bench.contracts import Context
from uss_bench.data.views import Geometric, Photometric, Views, apply_geometric, apply_photometric
from uss_bench.nn.epochs import EpochViews
from uss_bench.nn.own_network import codes_of

PLACE = Geometric(scale=(0.5, 1.0), flip=0.5)


class ViewPair:
    """The two views of an image in an epoch: of twice the side of what the network sees.

    The first is changed in color, cut, enlarged and flipped, and goes through the network. The second is
    changed in color and goes through the network whole; then its code is cut, enlarged and flipped in the
    same way. So both codes show the same place.
    """

    def __init__(self, ctx: Context, net: nn.Module, color: Photometric, place: Geometric) -> None:
        self._net = net
        self._colors = [Views(ctx.generator, f"color {view}", photometric=color) for view in (1, 2)]
        self._place = Views(ctx.generator, "place", geometric=place)

    def code(
        self, view: int, epoch: int, items: Sequence[int], images: Tensor, *, colors: bool = True
    ) -> Tensor:
        """Return the code (B, d, h, w) of view 0 or 1 of some images, uint8 (B, 3, 2H, 2W)."""
        if colors:
            images = apply_photometric(images, self._colors[view].draw(epoch, items))
        where = self._place.draw(epoch, items)
        size = (images.shape[2] // 2, images.shape[3] // 2)
        if view == 0:
            first: Tensor = self._net(apply_geometric(images / 255, where, size))
            return first
        code = self._net(tv.resize(images, list(size), antialias=True) / 255)
        return apply_geometric(code, where, (code.shape[2], code.shape[3]))


def released_colors(*, grayscale: bool, blur: str) -> Photometric:
    """Return how colors of a view change."""
    return Photometric(
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.1,
        jitter=0.8,
        each=True,
        shuffled=False,
        gray=0.2 if grayscale else 0.0,
        blur=0.5,
        sigma=(0.0, 1.8) if blur == "effective" else (0.1, 2.0),
    )


@dataclass(kw_only=True)
class ReleasedViews:
    """The parameters of views that the released code of PiCIE and MDC has."""

    grayscale: bool = False
    """Make a view gray with probability 0.2. The released code means to, and never does."""
    blur: Literal["effective", "stated"] = "effective"
    """Deviations of the blur: uniform to 1.8, as the released formula comes out, or from 0.1 to 2."""

    def views(self, ctx: Context, net: nn.Module) -> EpochViews:
        """Return the views of the training images of a run, which are read at twice their side."""
        images = ctx.images(side=2 * ctx.side)
        color = released_colors(grayscale=self.grayscale, blur=self.blur)
        return EpochViews(images, codes_of(images, 2), ViewPair(ctx, net, color, PLACE).code)


@dataclass(kw_only=True)
class ReleasedPairs(ReleasedViews):
    """The same where both views are trained."""

    colors_in_training: Literal["both", "second"] = "both"
    """Views that are changed in color while training: the released loader of Cityscapes leaves the first as
    it is, though it was clustered and labelled with changed colors."""

    def train_code(self, views: EpochViews) -> Callable[..., Tensor]:
        """Return what makes the codes of `views` while training; see `EpochViews.code`."""

        def code(view: int, epoch: int, items: Sequence[int], images: Tensor) -> Tensor:
            changed = view == 1 or self.colors_in_training == "both"
            return views.code(view, epoch, items, images, colors=changed)

        return code
