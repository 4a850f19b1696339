"""A convolutional network that was never trained: the floor under every learned feature."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from uss_bench.backbones.checks import refuse_weights
from uss_bench.backbones.fixed_network import FixedNetwork
from uss_bench.backbones.weights import digest_state, normalization
from uss_bench.plugins.specs import BackboneSpec

_WIDTHS = (64, 128, 256, 256)
"""Channels after each 3×3 convolution; all but the last are followed by halving the resolution."""


class RandomCNN(FixedNetwork):
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

    def __init__(self, spec: BackboneSpec, *, seed: int = 0, weights: Path | None = None) -> None:
        refuse_weights(weights, spec.name)
        convolutions = _random_convolutions(seed)
        kernels = {f"conv{i}": layer.weight for i, layer in enumerate(convolutions, start=1)}
        layers = [part for layer in convolutions for part in (layer, nn.ReLU(), nn.AvgPool2d(2))]
        super().__init__(
            spec,
            nn.Sequential(*layers[:-1]),
            patch=2 ** (len(_WIDTHS) - 1),
            dim=_WIDTHS[-1],
            digest=digest_state(kernels),
            normalization=normalization(spec),
        )


def _random_convolutions(seed: int) -> list[nn.Conv2d]:
    """Return the convolutions of all layers."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inside, outside in zip((3, *_WIDTHS[:-1]), _WIDTHS, strict=True):
        # Uniform and not normal: random bits become uniform numbers exactly, while a normal takes
        # logarithms and cosines, whose last bits differ from machine to machine, and so the digest.
        uniform = torch.rand(outside, inside, 3, 3, generator=generator)
        layer = nn.Conv2d(inside, outside, 3, padding=1, bias=False, device="meta")
        layer.weight = nn.Parameter((2 * uniform - 1) * (6 / (9 * inside)) ** 0.5)
        layers.append(layer)
    return layers
