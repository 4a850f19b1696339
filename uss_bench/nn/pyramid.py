"""A ResNet with a decoder of four levels, as PiCIE trains: one code for every four pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from uss_bench.errors import UsageError

Network = Literal["resnet18", "resnet50", "test_resnet"]
WIDTHS: Mapping[Network, int] = {"resnet18": 512, "resnet50": 2048, "test_resnet": 96}
"""Channels of the last stage, by which a backbone is told."""
_LAST_STRIDE = 32
"""Pixels along a position of the last stage."""


class Pyramid(nn.Module):
    """Images in [0, 1] to codes (B, dim, H/4, W/4), rounded up.

    Each of the last four stages goes through a 1×1 convolution; from the coarsest on, sums are enlarged
    bilinearly and added to the next. The decoder has neither normalization nor activation.

    Args:
        network: timm's network, with random weights.
        dim: channels of the code.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, dim: int) -> None:
        super().__init__()
        trunk: Any = timm.create_model(
            network, features_only=True, out_indices=(1, 2, 3, 4), zero_init_last=False
        )
        self.trunk: nn.Module = trunk
        self.levels = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in trunk.feature_info.channels())
        for name, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the trunk's weights from a state that has them by timm's names behind a common prefix."""
        (last,) = [name for name in weights if name.endswith("layer4.0.conv1.weight")]
        prefix = last.removesuffix("layer4.0.conv1.weight")
        self.trunk.load_state_dict({name: weights[prefix + name] for name in self.trunk.state_dict()})

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) == 1 and max(images.shape[2:]) <= _LAST_STRIDE:
            raise UsageError(
                f"A batch of one image of {images.shape[3]}×{images.shape[2]} pixels (width × height) leaves "
                "batch normalization one value per channel in the last stage, which has no deviation.",
                hint=f"Take training images of more than {_LAST_STRIDE} pixels (--training side=N), "
                "or batches of which none is of one image (--set batch_size=N).",
            )
        stages = self.trunk((images - self.mean) / self.std)
        code: Tensor = self.levels[-1](stages[-1])
        for level, stage in zip(reversed(self.levels[:-1]), reversed(stages[:-1]), strict=True):
            enlarged = F.interpolate(code, stage.shape[2:], mode="bilinear", align_corners=False)
            code = enlarged + level(stage)
        return code
