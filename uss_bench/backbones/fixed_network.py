"""A small network that stays as it is: what backbones of one facet and nothing to train share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from uss_bench.backbones.checks import check_card, only_tokens, patch_grid
from uss_bench.backbones.trainable import nothing_trainable
from uss_bench.backbones.weights import digest_with, parameter_count, pixel_statistics
from uss_bench.contracts import BackboneInfo, TrainablePart
from uss_bench.plugins.specs import BackboneSpec


class FixedNetwork:
    """A `Backbone` whose only facet is ``tokens``: the output of a network of normalized images.

    Args:
        spec: the plugin's spec.
        network: from normalized images (B, 3, H, W) to features (B, D, H / patch, W / patch); it is frozen.
        patch: side of a feature's patch in pixels.
        dim: D.
        digest: of the weights.
        normalization: mean and deviation of the pixels, (3, 1, 1), and what of it is not the usual, as
            `uss_bench.backbones.weights.normalization` returns it.
        name: what records call it; default: that of the spec.

    Raises:
        ContractError: when the spec is wrong about the patch or the dimension.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        network: nn.Module,
        *,
        patch: int,
        dim: int,
        digest: str,
        normalization: tuple[Tensor, Tensor, dict[str, object]],
        name: str | None = None,
    ) -> None:
        check_card(spec, patch=patch, dim=dim)
        self.name, self.patch = name or spec.name, patch
        self._network = network.requires_grad_(False).eval()
        self._mean, self._std, own = normalization
        self.sha256 = digest_with(digest, **own)
        self.info = BackboneInfo(
            name=self.name,
            patch=patch,
            dim=dim,
            parameters=parameter_count(network),
            **pixel_statistics(self._mean, self._std),
        )

    def to(self, device: torch.device) -> Self:
        """Move to `device`, in place, and return self."""
        self._network.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return ``tokens`` (B, D, H / patch, W / patch) of `images`, float32 (B, 3, H, W), RGB in [0, 1].

        Raises:
            UsageError: for another facet, or a side that is not a multiple of the patch.
        """
        only_tokens(facets, self.name)
        patch_grid(images, self.patch, self.name)
        if not facets:
            return {}
        with torch.set_grad_enabled(grad):
            return {"tokens": self._network((images - self._mean) / self._std)}

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Raise `UsageError`: there is nothing to train."""
        raise nothing_trainable(self.name)
