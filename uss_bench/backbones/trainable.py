"""Trainable copies of backbones, for methods that fine-tune all or the end of one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from uss_bench.contracts import Batch, TrainablePart
from uss_bench.errors import UsageError


class WholeNetwork(TrainablePart):
    """A copy of a whole network, from images in [0, 1] to tokens.

    Args:
        model: the frozen network.
        mean, std: what pixels are normalized with, (3, 1, 1).
        run: applies a copy of `model` to normalized images and returns tokens (B, D, h, w).
    """

    inputs = ("image",)
    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, mean: Tensor, std: Tensor, run: Callable[[Any, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(model).requires_grad_(True)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)
        self._run = run

    def forward(self, batch: Batch) -> Tensor:
        return self._run(self.network, (batch["image"] - self.mean) / self.std)


def only_whole(name: str, last_blocks: int | None) -> None:
    """Raise `UsageError` when blocks are asked of the network `name`, which is copied whole or not at all."""
    if last_blocks is not None:
        raise UsageError(
            f"Backbone '{name}' has no transformer blocks to train.",
            hint="Train all of it (last_blocks=None), or choose a ViT.",
        )


def nothing_trainable(name: str) -> UsageError:
    """Return the error of a backbone that has no parameter to train."""
    return UsageError(
        f"Backbone '{name}' is a fixed descriptor and has nothing to train.", hint="Choose a ViT or resnet50."
    )
