"""A backbone that is built when it is first run: with its features in the store that may be never.

Building a network takes seconds, and importing timm takes more. Of a backbone whose features are stored, a
run needs name, patch, digest and facets, which are remembered by the status of the files that decide them.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Backbone, BackboneInfo, TrainablePart
from uss_bench.files.status import Remembered
from uss_bench.plugins.backbone_files import backbone_files
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Registry
from uss_bench.runtime.opened_files import harness_reads


class BackboneFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a backbone without building it."""

    name: str
    patch: int
    sha256: str
    positions: str | None
    info: BackboneInfo

    @classmethod
    def of(cls, backbone: Backbone) -> BackboneFacts:
        positions = getattr(backbone, "positions", None)
        return cls(
            name=backbone.name,
            patch=backbone.patch,
            sha256=backbone.sha256,
            positions=positions,
            info=backbone.info,
        )


def lazy_backbone(
    registry: Registry,
    name: str,
    *,
    weights: Path | None = None,
    alias: str | None = None,
    positions: str | None = None,
) -> Backbone:
    """Return the backbone of `uss_bench.plugins.loading.load_backbone`, built only if that is necessary."""
    build = functools.cache(
        functools.partial(load_backbone, registry, name, weights=weights, alias=alias, positions=positions)
    )
    request = {"name": name, "weights": weights, "alias": alias, "positions": positions}
    paths = backbone_files(registry, name, weights)
    if paths is None:
        return LazyBackbone(BackboneFacts.of(build()), build, request)
    remembered = Remembered(BackboneFacts)
    key = msgspec.json.encode([name, None if weights is None else str(weights), alias, positions]).decode()
    facts = remembered.find(paths, key, lambda: BackboneFacts.of(build()))
    remembered.save()
    return LazyBackbone(facts, build, request)


class LazyBackbone:
    """See `uss_bench.contracts.Backbone`.

    Building draws no random number from the generators of a run: results do not depend on when it happens.
    """

    def __init__(
        self, facts: BackboneFacts, build: Callable[[], Backbone], request: Mapping[str, Any] | None = None
    ) -> None:
        self.request = request
        """What `load_backbone` was given."""
        self.name, self.patch, self.sha256, self.info = facts.name, facts.patch, facts.sha256, facts.info
        self._positions = facts.positions
        self._build = build
        self._device: torch.device | None = None
        self._built: Backbone | None = None

    def to(self, device: torch.device) -> LazyBackbone:
        self._device = device
        if self._built is not None:
            self._built.to(device)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        return self.built()(images, facets, grad=grad)

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        return self.built().trainable(last_blocks)

    def __getattr__(self, name: str) -> Any:
        """Return what else the backbone offers, `positions` without building it."""
        if name == "positions":
            if self._positions is None:
                raise AttributeError(name)
            return self._positions
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.built(), name)

    def built(self) -> Backbone:
        """Return the backbone itself."""
        if self._built is None:
            states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
            with torch.random.fork_rng(), harness_reads():
                built = self._build()
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            self._built = built if self._device is None else built.to(self._device)
        return self._built
