"""A convolutional network that was never trained: the floor under every learned feature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.backbones.checks import check_card, only_tokens, patch_grid, refuse_weights
from uss_bench.backbones.trainable import nothing_trainable
from uss_bench.backbones.weights import digest_state, digest_with, normalization, pixel_statistics
from uss_bench.contracts import BackboneInfo, TrainablePart
from uss_bench.plugins.specs import BackboneSpec

_WIDTHS = (64, 128, 256, 256)
"""Channels after each 3×3 convolution; all but the last are followed by halving the resolution."""

_PATCH = 2 ** (len(_WIDTHS) - 1)


class RandomCNN:
    """A `Backbone` of patch 8 whose only facet is ``tokens``, 256 channels of a random CNN.

    Four 3×3 convolutions with ReLU, without biases, and 2×2 average pooling after the first three.
    The weights are He-uniform: variance 2 / fan-in, which keeps the scale of the activations.

    Args:
        spec: the plugin's spec; its mean and std normalize the images.
        seed: of the weights. The run's seed does not touch them: a backbone is fixed.
        weights: must be None.

    Raises:
        UsageError: when weights are given.
    """

    patch = _PATCH

    def __init__(self, spec: BackboneSpec, *, seed: int = 0, weights: Path | None = None) -> None:
        refuse_weights(weights, spec.name)
        check_card(spec, patch=_PATCH, dim=_WIDTHS[-1])
        self.name = spec.name
        self._kernels = _random_kernels(seed)
        digest = digest_state({f"conv{i}": kernel for i, kernel in enumerate(self._kernels, start=1)})
        self._mean, self._std, own = normalization(spec)
        self.sha256 = digest_with(digest, **own)
        self.info = BackboneInfo(
            name=self.name, patch=_PATCH, dim=_WIDTHS[-1], **pixel_statistics(self._mean, self._std)
        )

    def to(self, device: torch.device) -> RandomCNN:
        """Move to `device`, in place, and return self."""
        self._kernels = [kernel.to(device) for kernel in self._kernels]
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return ``tokens`` (B, 256, H/8, W/8) of `images`, float32 (B, 3, H, W), RGB in [0, 1].

        Raises:
            UsageError: for another facet, or a side that is not a multiple of 8.
        """
        only_tokens(facets, self.name)
        patch_grid(images, _PATCH, self.name)
        if not facets:
            return {}
        with torch.set_grad_enabled(grad):
            x = (images - self._mean) / self._std
            for number, kernel in enumerate(self._kernels):
                if number:
                    x = F.avg_pool2d(x, 2)
                x = F.conv2d(x, kernel, padding=1).relu()
            return {"tokens": x}

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Raise `UsageError`: there is nothing to train."""
        raise nothing_trainable(self.name)


def _random_kernels(seed: int) -> list[Tensor]:
    """Return the kernels of all layers, float32 (out, in, 3, 3)."""
    generator = torch.Generator().manual_seed(seed)
    kernels = []
    for inside, outside in zip((3, *_WIDTHS[:-1]), _WIDTHS, strict=True):
        # Uniform and not normal: random bits become uniform numbers exactly, while a normal takes
        # logarithms and cosines, whose last bits differ from machine to machine, and so the digest.
        uniform = torch.rand(outside, inside, 3, 3, generator=generator)
        kernels.append((2 * uniform - 1) * (6 / (9 * inside)) ** 0.5)
    return kernels
