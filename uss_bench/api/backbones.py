"""Backbones by name, and backbones of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from uss_bench.api.arrays import as_image
from uss_bench.backbones.from_module import ModuleBackbone
from uss_bench.contracts import Backbone, BackboneInfo
from uss_bench.errors import UsageError
from uss_bench.features.encoder import to_unit_range
from uss_bench.plugins.in_place import ORIGIN
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import BackboneSpec
from uss_bench.runtime.device import pick_device

if TYPE_CHECKING:
    from collections.abc import Mapping


def backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    plugins: Sequence[str | Path] = (),
) -> FrozenBackbone:
    """Return a frozen backbone.

    Examples:
        >>> vit = uss_bench.backbone("tinyvit")
        >>> vit(image)["tokens"].shape  # (1, 128, H / 8, W / 8)
        >>> vit(images, ["keys@-1", "cls"])

    Args:
        name: as ``uss-bench ls backbones`` shows it, or any ViT of timm.
        weights: a file of weights, read safely; None for the backbone's own.

    Raises:
        UsageError: for an unknown name.
        DataError: when weights are missing or do not fit.
    """
    found = load_backbone(
        Registry(map(Path, plugins)), name, weights=None if weights is None else Path(weights)
    )
    return FrozenBackbone(found, pick_device(device))


class FrozenBackbone:
    """A backbone on a device, which takes images as people have them; `backbone` makes one."""

    def __init__(self, network: Backbone, device: torch.device) -> None:
        self.device = device
        self._network = network.to(device)

    @property
    def info(self) -> BackboneInfo:
        """Its patch, channels, blocks, heads and facets."""
        return self._network.info

    def __call__(self, images: Any, facets: Sequence[str] = ("tokens",)) -> Mapping[str, Tensor]:
        """Return one tensor per facet, float32 (B, ...), on the device; see `uss_bench.contracts.Backbone`.

        Args:
            images: one image or a sequence of images of one size, each as `uss_bench.load` takes it; uint8
                (B, H, W, 3); or a tensor, float32 (B, 3, H, W) in [0, 1].

        Raises:
            UsageError: for an unknown facet, images of several sizes, or a side that is not a multiple of
                the patch.
        """
        return self._network(self._batch(images), list(facets))

    def _batch(self, images: Any) -> Tensor:
        if isinstance(images, Tensor) and images.ndim == 4:
            return images.to(self.device, torch.float32)
        is_batch = isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 4)
        arrays = [as_image(one) for one in (images if is_batch else [images])]
        sizes = {array.shape for array in arrays}
        if len(sizes) != 1:
            raise UsageError(
                f"The images have {len(sizes)} sizes, and a batch has one.", hint="Give them one by one."
            )
        return to_unit_range(np.stack(arrays), self.device)

    def __repr__(self) -> str:
        return f"<backbone {self.info.name}: patch {self.info.patch}, {self.info.dim} channels>"


def module_backbone(
    features: Callable[[Tensor], Tensor],
    *,
    patch: int,
    name: str,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    modules: Iterable[nn.Module] = (),
) -> Plugin:
    """Return any torch module as a backbone that `uss_bench.run` takes.

    Examples:
        >>> net = timm.create_model("vit_small_patch16_224", dynamic_img_size=True)
        >>> mine = uss_bench.module_backbone(
        ...     lambda images: net.forward_features(images)[:, 1:], patch=16, name="mine"
        ... )
        >>> uss_bench.run(method="dino", dataset="toy3", backbone=mine)

    The arguments are those of `uss_bench.backbones.from_module.ModuleBackbone`.

    Raises:
        ContractError: when `features` does not return one feature per patch.
    """
    made = ModuleBackbone(features, patch=patch, name=name, mean=mean, std=std, modules=modules)

    def entry(spec: BackboneSpec) -> ModuleBackbone:
        return made

    spec = BackboneSpec(
        name=name, title=name, summary=f"{name}, {ORIGIN}.", entry="python:features", patch=patch
    )
    return Plugin(spec, Path(ORIGIN), ORIGIN, made=entry)
