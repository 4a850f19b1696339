"""IIC: classes of two views of a place, and of places near each other, tell as much of one another as can be.

Ji, Henriques, Vedaldi, "Invariant Information Clustering for Unsupervised Image Classification and
Segmentation" (ICCV 2019), the segmentation form, from the behavior of the released code. The loop stands in
`uss_bench.nn.paired_information`, the loss in `uss_bench.nn.mutual_information`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Batch, Context, Features
from uss_bench.data.views import (
    Geometric,
    Photometric,
    View,
    Views,
    align,
    apply_geometric,
    apply_photometric,
)
from uss_bench.errors import UsageError
from uss_bench.nn.mutual_information import EPS
from uss_bench.nn.paired_information import HEADS, Pair, PairedInformation

from .net import IICNet, check_size

MASK = "aux:mask@nearest"


@dataclass(kw_only=True)
class IIC(PairedInformation):
    """See the module, and README.md for what each parameter rests on."""

    width: int = 64
    """Channels of the first layer; the last has eight times as many."""
    infrared: bool = False
    """Read the channel `infrared` as a fourth one, as on Potsdam; it is never changed in color."""
    sobel: bool = False
    """Append the slopes of the gray image, as on COCO."""
    crop: float = 1.0
    """Side of a random crop over that of a training item."""
    jitter: float = 0.4
    """Strength of brightness, contrast and saturation in the second view."""
    hue: float = 0.125
    """Its strength of hue, in turns."""
    flip: float = 0.5
    """Probability that left and right of the second view are exchanged."""
    degrees: float = 0.0
    """Largest rotation of the second view; 0 in the released commands."""
    shear: float = 0.0
    """Largest shear of it, in degrees; 0 in the released commands."""

    mask: bool = False
    """Count, in training, only places where the channel `mask` is not 0. The released mask is the
    stuff of the labels, so a record with it says that labels were used."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise UsageError(f"crop = {self.crop} is no share of a side: it is above 0 and at most 1.")

    @property
    def inputs(self) -> Sequence[str]:
        return ("image", "aux:infrared") if self.infrared else ("image",)

    @property
    def training_inputs(self) -> Sequence[str]:
        return (*self.inputs, MASK) if self.mask else self.inputs

    def begin(self, features: Features) -> IICNet:
        return self._net()

    def restored(self, state: Mapping[str, Tensor]) -> IICNet:
        return self._net()

    def _net(self) -> IICNet:
        classes = dict(zip(HEADS, (self.over_clusters, self.clusters), strict=True))
        return IICNet(4 if self.infrared else 3, classes, width=self.width, sobel=self.sobel)

    def pairs(self, ctx: Context) -> Callable[[str, int, Sequence[int], Batch], Pair]:
        jitter, generator = self.jitter, ctx.generator
        color = Photometric(brightness=jitter, contrast=jitter, saturation=jitter, hue=self.hue)
        place = Geometric(flip=self.flip, degrees=self.degrees, shear=self.shear)
        crops = Views(generator, "crop", geometric=Geometric(scale=(self.crop, self.crop)))
        seconds = Views(generator, "second view", photometric=color, geometric=place)

        def pair(head: str, pass_: int, items: Sequence[int], batch: Batch) -> Pair:
            x = self._stacked(batch)
            size = (round(self.crop * x.shape[2]), round(self.crop * x.shape[3]))
            check_size(size)
            cut = crops.draw(pass_, items)
            first = apply_geometric(x, cut, size)
            views = seconds.draw(pass_, items)
            changed = torch.cat([apply_photometric(first[:, :3], views), first[:, 3:]], dim=1)
            second = apply_geometric(changed, views, size)
            maps = [enlarged(self.net(one, head), size) for one in (first, second)]
            back, seen = align(maps[1], views, None, size)
            if self.mask:
                seen = seen & counted(batch[MASK], cut, size)
            return maps[0], back, seen

        return pair

    def _stacked(self, batch: Batch) -> Tensor:
        """Return all channels (B, C, H, W) in [0, 1]."""
        if not self.infrared:
            return batch["image"]
        return torch.cat([batch["image"], batch["aux:infrared"] / 255], dim=1)

    def embed(self, batch: Batch) -> Tensor:
        """Return class probabilities: these are what the released code enlarges."""
        probabilities: Tensor = self.net(self._stacked(batch), "own")
        return probabilities

    def classify(self, code: Tensor) -> Tensor:
        return code.clamp(min=EPS).log()


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, K, h, w) at the size of the inputs, bilinearly."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def counted(mask: Tensor, cut: Sequence[View], size: tuple[int, int]) -> Tensor:
    """Return where crops of masks (B, n, H, W) are not 0, bool (B, 1, *size).

    Raises:
        UsageError: when they are 0 everywhere, so that there is nothing to learn from.
    """
    found = apply_geometric((mask != 0).any(dim=1, keepdim=True).float(), cut, size) > 0.5
    if not found.any():
        raise UsageError(
            "The maps `mask` are 0 on all pixels of a batch, so that none counts.",
            hint="Mask less, or take larger batches: --set batch_size=N.",
        )
    return found
