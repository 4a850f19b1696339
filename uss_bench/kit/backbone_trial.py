"""A backbone on trial: loaded more than once, also with other weights, and run on drawn images."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from uss_bench.backbones.checkpoint_files import read_state_dict
from uss_bench.contracts import Backbone
from uss_bench.errors import UsageError, UssBenchError
from uss_bench.features.encoder import to_unit_range
from uss_bench.kit.reach import reachable
from uss_bench.kit.scenes import scene
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import BackboneSpec

GRIDS = ((6, 6), (4, 7), (7, 4))
"""Patches (h, w) of the images that a backbone is asked for: square, wide and tall."""


class BackboneTrial:
    """Loads one backbone; a context manager, because other weights lie on disk.

    Args:
        weights: the weights file; None for the backbone's own.
    """

    def __init__(self, plugin: Plugin, registry: Registry, weights: Path | None) -> None:
        assert isinstance(plugin.spec, BackboneSpec)
        self.spec = plugin.spec
        self.registry = registry
        self.weights = weights
        self._scratch = tempfile.TemporaryDirectory(prefix="uss-bench-check-")

    def __enter__(self) -> BackboneTrial:
        return self

    def __exit__(self, *error: object) -> None:
        self._scratch.cleanup()

    @functools.cached_property
    def entry(self) -> Any:
        return self.registry.backbone(self.spec.name)[1].load()

    def load(self) -> Backbone:
        return load_backbone(self.registry, self.spec.name, weights=self.weights)

    @functools.cached_property
    def backbone(self) -> Backbone:
        return self.load()

    def __call__(self, images: Tensor, facets: Sequence[str] = ("tokens",)) -> dict[str, Tensor]:
        return self.backbone(images, facets)

    def images(self, grid: tuple[int, int], count: int = 2) -> Tensor:
        """Return drawn images of some patches, float32 (B, 3, H, W) in [0, 1]."""
        height, width = (side * self.backbone.patch for side in grid)
        drawn = [torch.from_numpy(scene(number, height, width)[0]) for number in range(count)]
        return to_unit_range(torch.stack(drawn).numpy(), torch.device("cpu"))

    def modules(self) -> list[nn.Module]:
        """Return the networks that the backbone leads to."""
        return [thing for thing in reachable(self.backbone) if isinstance(thing, nn.Module)]

    def offers(self, facet: str, images: Tensor) -> bool:
        try:
            return facet in self.backbone(images, [facet])
        except UsageError:
            return False

    def with_other_mean(self) -> Backbone:
        """Construct it with a spec that normalizes pixels otherwise."""
        return self._construct(self.weights, mean=[0.3] * 3, std=[0.4] * 3)

    def with_other_weights(self) -> Backbone | None:
        """Construct it with every weight changed; None where it takes no weights."""
        state = next((module.state_dict() for module in self.modules()), {})
        if self.weights is not None:
            state = read_state_dict(self.weights)
        state = {name: value * 1.5 if value.is_floating_point() else value for name, value in state.items()}
        path = Path(self._scratch.name) / "changed.safetensors"
        save_file({name: value.clone() for name, value in state.items()}, path)
        try:
            return self._construct(path) if "weights" in inspect.signature(self.entry).parameters else None
        except UssBenchError:
            return None

    def _construct(self, weights: Path | None, **changes: Any) -> Backbone:
        given = {} if weights is None else {"weights": weights}
        spec = msgspec.structs.replace(self.spec, sha256="", **changes)
        backbone: Backbone = self.entry(spec, **self.spec.params, **given)
        return backbone
