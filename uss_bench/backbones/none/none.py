"""The backbone of methods that need none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from uss_bench.backbones.checks import refuse_weights
from uss_bench.errors import UsageError
from uss_bench.specs import BackboneSpec


class NoFeatures:
    """A `Backbone` without facets, so that a method that reads images only divides any side.

    Args:
        spec: the plugin's spec.
        positions: ignored, there is no position embedding.
        weights: must be None.

    Raises:
        UsageError: when weights are given.
    """

    patch = 1

    def __init__(self, spec: BackboneSpec, *, positions: str = "dino", weights: Path | None = None) -> None:
        refuse_weights(weights, spec.name)
        self.name = spec.name
        self.sha256 = hashlib.sha256(b"none@1").hexdigest()

    def to(self, device: torch.device) -> NoFeatures:
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return nothing when nothing is asked.

        Raises:
            UsageError: for any facet.
        """
        if facets:
            raise UsageError(
                f"The method needs features ({', '.join(facets)}), and backbone '{self.name}' has none.",
                hint="Choose a --backbone, for example patchstats (no weights) or a timm ViT by its name.",
            )
        return {}
