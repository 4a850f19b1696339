"""The backbone `new-backbone`: a frozen network that turns images into dense features.

A plain vision transformer of timm needs no code: ``adapter = "timm"`` in spec.toml, see docs/plugins.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from uss_bench.backbones.checkpoint_files import read_state_dict
from uss_bench.backbones.checks import check_card, checked_name, only_tokens, patch_grid
from uss_bench.backbones.trainable import WholeNetwork, only_whole
from uss_bench.backbones.weights import (
    digest_state,
    digest_with,
    load_state_dict,
    normalization,
    pixel_statistics,
    trunk_of,
)
from uss_bench.contracts import BackboneInfo, TrainablePart
from uss_bench.plugins.specs import BackboneSpec

PATCH = 8


class NewBackbone:
    """A `uss_bench.contracts.Backbone` whose only facet is ``tokens``.

    The harness constructs it with the spec first, and with those of these keywords that a user gives. A
    network with position embeddings also takes ``positions: str | None = None``. Options of your own have
    defaults; a spec fixes them in its table ``params``.

    Args:
        spec: the plugin's spec, or that of a card that names this plugin as its adapter.
        weights: the file of ``--weights``; None for the network's own.
        name: of ``--backbone-name``, for weights that are not the plugin's own; default: the spec's.

    Raises:
        DataError: when the weights cannot be read or do not fit.
    """

    patch = PATCH

    def __init__(self, spec: BackboneSpec, *, weights: Path | None = None, name: str | None = None) -> None:
        self.name = checked_name(name or spec.name)
        self._net = Net()
        if weights is not None:
            state = trunk_of(read_state_dict(weights), self._net.state_dict())
            load_state_dict(self._net, state, what=f"Weights '{weights}' and backbone '{self.name}'")
        # Frozen, and in evaluation mode: dropout off, batch statistics fixed.
        self._net.requires_grad_(False).eval()
        dim = self._net.around.out_channels
        check_card(spec, patch=PATCH, dim=dim)
        self._mean, self._std, own = normalization(spec)
        self.info = BackboneInfo(
            name=self.name, patch=PATCH, dim=dim, **pixel_statistics(self._mean, self._std)
        )
        # 64 hex digits that change whenever a feature would: the feature store trusts them.
        self.sha256 = digest_with(digest_state(self._net.state_dict()), **own)

    def to(self, device: torch.device) -> NewBackbone:
        """Move to `device`, in place, and return self."""
        self._net.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return ``tokens`` (B, D, H/8, W/8) of `images`, float32 (B, 3, H, W), RGB in [0, 1].

        Raises:
            UsageError: for another facet, or a side that is no multiple of the patch.
        """
        only_tokens(facets, self.name)
        patch_grid(images, PATCH, self.name)
        with torch.set_grad_enabled(grad):
            return {"tokens": self._net((images - self._mean) / self._std)} if facets else {}

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Return a trainable copy of the whole network, for `last_blocks` None.

        Raises:
            UsageError: when blocks are asked for.
        """
        only_whole(self.name, last_blocks)
        return WholeNetwork(self._net, self._mean, self._std, lambda net, images: net(images))


class Net(nn.Module):
    """A convolution per patch, and one over its neighbors; the same random weights every time."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, kernel_size=PATCH, stride=PATCH, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.around = nn.Conv2d(32, dim, kernel_size=3, padding=1, bias=False)
        generator = torch.Generator().manual_seed(0)
        for weight in (self.patches.weight, self.around.weight):
            # Uniform and not normal, whose last bits differ from machine to machine.
            drawn = 2 * torch.rand(weight.shape, generator=generator) - 1
            weight.data = drawn * (6 / weight[0].numel()) ** 0.5

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) to features (B, D, h, w)."""
        features: Tensor = self.around(self.norm(self.patches(images)).relu())
        return features
