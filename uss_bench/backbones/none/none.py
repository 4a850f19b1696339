"""The backbone of methods that need none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from uss_bench.backbones.checks import refuse_weights
from uss_bench.backbones.facets import parse_facet
from uss_bench.backbones.trainable import nothing_trainable
from uss_bench.contracts import BackboneInfo, TrainablePart
from uss_bench.plugins.specs import BackboneSpec


class NoFeatures:
    """A `Backbone` without facets, so that a method that reads images only divides any side.

    Args:
        spec: the plugin's spec.
        weights: must be None.

    Raises:
        UsageError: when weights are given.
    """

    patch = 1

    def __init__(self, spec: BackboneSpec, *, weights: Path | None = None) -> None:
        refuse_weights(weights, spec.name)
        self.name = spec.name
        self.sha256 = hashlib.sha256(b"none@1").hexdigest()
        self.info = BackboneInfo(name=self.name, patch=self.patch, dim=0, facets=())

    def to(self, device: torch.device) -> NoFeatures:
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return nothing when nothing is asked.

        Raises:
            UsageError: for any facet.
        """
        for facet in facets:
            parse_facet(facet, self.info)
        return {}

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Raise `UsageError`: there is nothing to train."""
        raise nothing_trainable(self.name)
