"""IIC's segmentation network: a short VGG with dilated last layers, and a head for each set of classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.errors import UsageError

LAYERS = ((1, 1), (2, 1), None, (4, 1), (4, 1), (8, 2), (8, 2))
"""Channels, as multiples of the first layer's, and dilation of each 3×3 convolution;
None is a 2×2 maximum."""
SMALLEST = 12
"""Least side in pixels: two positions a side are left, enough for batch normalization of one image."""
_GRAY = (0.299, 0.587, 0.114)
_SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


class IICNet(nn.Module):
    """Inputs in [0, 1] to class probabilities (B, K, H/2 - 2, W/2 - 2), one map for each head.

    Every convolution is padded by 1, also the dilated ones, which lose two positions each, and the 1×1
    heads, whose outermost positions are uniform: they have no bias.

    Args:
        channels: of the inputs, without edges.
        classes: K by head.
        width: channels of the first layer.
        sobel: append the gray image's slopes along x and y to the inputs.
    """

    slopes: Tensor
    gray: Tensor

    def __init__(self, channels: int, classes: Mapping[str, int], *, width: int, sobel: bool) -> None:
        super().__init__()
        self.sobel = sobel
        layers: list[nn.Module] = []
        last = channels + 2 * sobel
        for layer in LAYERS:
            if layer is None:
                layers.append(nn.MaxPool2d(2))
                continue
            wide, dilation = layer[0] * width, layer[1]
            convolution = nn.Conv2d(last, wide, 3, padding=1, dilation=dilation, bias=False)
            layers += [convolution, nn.BatchNorm2d(wide), nn.ReLU()]
            last = wide
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(last, count, 1, padding=1, bias=False) for name, count in classes.items()}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        kernel = torch.tensor(_SOBEL)
        self.register_buffer("slopes", torch.stack([kernel, kernel.T])[:, None], persistent=False)
        self.register_buffer("gray", torch.tensor(_GRAY)[:, None, None], persistent=False)

    def forward(self, images: Tensor, head: str) -> Tensor:
        check_size((images.shape[2], images.shape[3]))
        if self.sobel:
            gray = (images[:, :3] * self.gray).sum(dim=1, keepdim=True)
            images = torch.cat([images, F.conv2d(gray, self.slopes, padding=1)], dim=1)
        logits: Tensor = self.heads[head](self.trunk(images))
        return logits.softmax(dim=1)


def check_size(size: tuple[int, int]) -> None:
    """Refuse images (H, W) of which the dilated layers would leave nothing.

    Raises:
        UsageError: when a side is below `SMALLEST`.
    """
    if min(size) < SMALLEST:
        raise UsageError(
            f"Images of {size[1]}×{size[0]} pixels (width × height) are too small for IIC's network, "
            f"whose dilated layers need {SMALLEST} a side.",
            hint="Enlarge what is too small: --training side=N, --set crop=SHARE, or eval_side=N.",
        )
